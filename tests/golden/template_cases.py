"""Makes tests/unit/text_template.jsonl: templates, variables and what Jinja2 (set up as transformers does) makes of them."""
import json
import os
from jinja2.sandbox import ImmutableSandboxedEnvironment
import jinja2, jinja2.ext
env=ImmutableSandboxedEnvironment(trim_blocks=True,lstrip_blocks=True,extensions=[jinja2.ext.loopcontrols])
def tojson(x,ensure_ascii=False,indent=None,separators=None,sort_keys=False): return json.dumps(x,ensure_ascii=ensure_ascii,indent=indent,separators=separators,sort_keys=sort_keys)
env.filters['tojson']=tojson
def raise_exception(m): raise jinja2.exceptions.TemplateError(m)
env.globals['raise_exception']=raise_exception
V='{"a": 1, "s": "héLLo wOrld", "l": [3, 1, 2], "d": {"x": 1, "y": [1.0, null, true], "items": 5}, "n": null, "t": true, "e": "", "f": 2.5, "us": [{"n": "Bo", "a": 3}, {"n": "al", "a": 1}, {"n": "Cy", "b": 2}], "big": 123456789012345678901234567890, "q": "it\'s \\"q\\"\\n\\t\\\\ \\u0001 é \\u200b", "nest": {"k": [{"z": [1, {"é": "ü"}]}], "empty": [], "eo": {}}}'
T=r'''
{{ a }}|{{ s }}|{{ n }}|{{ t }}|{{ f }}|{{ nosuch }}|{{ big }}
{{ l }}|{{ d }}|{{ (1,) }}|{{ (1,2) }}|{{ () }}|{{ [q] }}|{{ {"a": 1, 2: none} }}
{{ 1 + 2 * 3 }}|{{ (1 + 2) * 3 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 6 / 2 }}
{{ 1.5 + 1 }}|{{ 1e3 }}|{{ 1_000 }}|{{ 0.1 + 0.2 }}|{{ 1e22 }}|{{ 1.0 }}|{{ -1.5 // 1 }}|{{ 5.5 % 2 }}|{{ -f }}
{{ "a" ~ 1 ~ none ~ true }}|{{ "a" "b" 'c' }}|{{ "ab" * 3 }}|{{ [1] + [2] }}|{{ 3 * "x" }}
{{ a == 1 }}|{{ a != 1 }}|{{ a == 1.0 }}|{{ t == 1 }}|{{ 1 < 2 < 3 }}|{{ 1 < 2 > 3 }}|{{ "a" < "b" }}|{{ l == [3, 1, 2] }}|{{ nosuch == nosuch2 }}
{{ 1 in l }}|{{ 9 not in l }}|{{ "LL" in s }}|{{ "x" in d }}|{{ "z" in nosuch }}|{{ not a }}|{{ not not s }}
{{ a and s }}|{{ e and s }}|{{ e or s }}|{{ n or e or 0 }}|{{ a if t else s }}|{{ a if e }}|{{ a if e else 2 if n else 3 }}
{{ s[0] }}|{{ s[-1] }}|{{ s[1:3] }}|{{ s[::-1] }}|{{ l[::-1] }}|{{ l[1:] }}|{{ l[:-1] }}|{{ l[5:] }}|{{ l[-2:] }}|{{ l[99] }}|{{ s[1] }}|{{ l[::2] }}
{{ d.x }}|{{ d['x'] }}|{{ d.nosuch }}|{{ d['nosuch'] }}|{{ d.y[0] }}|{{ d.y.1 }}|{{ d['items'] }}|{{ d.get('x') }}|{{ d.get('q', 7) }}|{{ d.get('q') }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{{ d.keys() | list }}|{{ d.values() | list }}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for x in [] %}a{% else %}none{% endfor %}|{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}b{% endfor %}|{% for x in nosuch %}c{% else %}d{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}
{% for x in range(10) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}|{{ range(3) | list }}|{{ range(1, 10, 4) | list }}|{{ range(3, 0, -1) | list }}
{% for c in "aé中" %}{{ c }}-{% endfor %}|{% for k in d %}{{ k }},{% endfor %}|{% for x in (1, 2), (3, 4) %}{{ x[0] }}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y='q') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.nosuch }}
{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set z = 1, %}{{ z }}{% set w = (1, 2) %}{{ w }}
{% if a == 2 %}x{% elif a == 1 %}y{% else %}z{% endif %}|{% if nosuch %}x{% endif %}|{% if nosuch is defined %}1{% else %}2{% endif %}
{% set b %}  hi {{ a }} {% endset %}[{{ b }}]{% set c | upper | trim %}  hi {{ a }} {% endset %}[{{ c }}]
{% filter upper %}abc {{ s }}{% endfilter %}|{% filter trim | replace("b", "x") %}  abb  {% endfilter %}
{% macro m(x, y=2, z='q') %}({{ x }}{{ y }}{{ z }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, z=4) }}{{ m() }}{% set r = m(5) %}{{ r | length }}
{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}body {{ a }}{% endcall %}|{% macro u() %}{{ caller(3) }}{% endmacro %}{% call(x) u() %}got {{ x }}{% endcall %}
{% with x = 5, y = a %}{{ x }}{{ y }}{% endwith %}{{ x }}|{% raw %}{{ a }}{% if %}{% endraw %}|{# comment #}x
{{ s | upper }}|{{ s | lower }}|{{ s | capitalize }}|{{ s | title }}|{{ "  x " | trim }}|{{ "xxaxx" | trim("x") }}|{{ s | length }}|{{ l | count }}
{{ s | replace("L", "_") }}|{{ "aaaa" | replace("a", "b", 2) }}|{{ "abc" | replace("", "-") }}|{{ l | join }}|{{ l | join(", ") }}|{{ us | join("/", attribute="n") }}
{{ l | first }}|{{ l | last }}|{{ [] | first }}|{{ s | first }}|{{ nosuch | default("d") }}|{{ e | default("d") }}|{{ e | default("d", true) }}|{{ n | d("x") }}|{{ nosuch | d }}
{{ d | tojson }}|{{ nest | tojson }}|{{ q | tojson }}|{{ big | tojson }}|{{ 1.0 | tojson }}|{{ n | tojson }}|{{ "é" | tojson(ensure_ascii=true) }}|{{ "😀" | tojson(ensure_ascii=true) }}
{{ nest | tojson(indent=4) }}
{{ nest | tojson(indent=2) }}|{{ d | tojson(sort_keys=true) }}|{{ d | tojson(separators=(',', ':')) }}|{{ l | tojson(indent=0) }}
{{ l | sort }}|{{ l | sort(reverse=true) }}|{{ ["b", "A", "c"] | sort }}|{{ ["b", "A", "c"] | sort(case_sensitive=true) }}|{{ us | sort(attribute="n") | map(attribute="n") | list }}
{{ l | reverse | list }}|{{ "abc" | reverse }}|{{ [1, 1, 2, "a", "A"] | unique | list }}|{{ d | dictsort }}|{{ {"b": 1, "a": 2} | dictsort(by="value") }}
{{ us | map(attribute="a") | list }}|{{ us | map(attribute="a", default=0) | list }}|{{ ["a", "b"] | map("upper") | list }}|{{ ["a b"] | map("replace", " ", "_") | list }}
{{ l | select("odd") | list }}|{{ l | reject("odd") | list }}|{{ l | select("gt", 1) | list }}|{{ [0, 1, ""] | select | list }}|{{ us | selectattr("a") | map(attribute="n") | list }}|{{ us | selectattr("a", "equalto", 3) | list | length }}|{{ us | rejectattr("b", "defined") | list | length }}
{{ "3" | int }}|{{ "x" | int }}|{{ "x" | int(7) }}|{{ 3.9 | int }}|{{ "3.7" | int }}|{{ " 42 " | int }}|{{ "2.5" | float }}|{{ "x" | float }}|{{ 3 | float }}|{{ -3 | abs }}|{{ 2.567 | round(2) }}|{{ 2.5 | round }}|{{ 3.2 | round(0, "ceil") }}|{{ 3 | round }}
{{ l | sum }}|{{ us | sum(attribute="a") if false else 1 }}|{{ l | min }}|{{ l | max }}|{{ ["b", "C"] | max }}|{{ l | list }}|{{ "ab" | list }}|{{ 12 | string | length }}
{{ "a\nb\n\nc" | indent }}|{{ "a\nb" | indent(2, true) }}|{{ "a\n\nb" | indent(2, blank=true) }}|{{ "<a & 'b'>" | escape }}|{{ "x" | safe }}|{{ "a b  c" | wordcount }}|{{ l | batch(2) | list }}|{{ l | batch(2, 0) | list }}
{{ a is defined }}|{{ nosuch is undefined }}|{{ n is none }}|{{ s is string }}|{{ d is mapping }}|{{ l is sequence }}|{{ s is sequence }}|{{ d is sequence }}|{{ l is iterable }}|{{ a is iterable }}|{{ nosuch is iterable }}
{{ a is number }}|{{ t is number }}|{{ f is number }}|{{ a is integer }}|{{ t is integer }}|{{ f is float }}|{{ t is boolean }}|{{ t is true }}|{{ a is true }}|{{ n is not none }}|{{ a is eq 1 }}|{{ a is equalto 2 }}|{{ a is in l }}|{{ 4 is even }}|{{ 4 is odd }}|{{ 9 is divisibleby 3 }}|{{ 9 is divisibleby(2) }}
{{ "ABC" is upper }}|{{ "abc" is lower }}|{{ raise_exception is callable }}|{{ a is sameas 1 }}|{{ "trim" is filter }}|{{ not a is none }}|{{ a is gt 0 and a is lt 2 }}
{{ "  a b ".strip() }}|{{ "xxax".lstrip("x") }}|{{ "axx".rstrip("x") }}|{{ "a,b,,c".split(",") }}|{{ " a  b ".split() }}|{{ "a,b,c".split(",", 1) }}|{{ "a,b,c".rsplit(",", 1) }}|{{ "a\nb\r\nc\n".splitlines() }}|{{ "a b c".split(" ", 1) }}|{{ "a b c".split(none, 1) }}
{{ s.startswith("hé") }}|{{ s.endswith(("x", "ld")) }}|{{ s.upper() }}|{{ "heLLo wOrld's".title() }}|{{ s.find("w") }}|{{ s.find("zz") }}|{{ "abab".rfind("b") }}|{{ "aXbX".count("X") }}|{{ ",".join(["a", "b"]) }}|{{ "abc".replace("b", "") }}|{{ "a".isdigit() }}|{{ "12".isdigit() }}|{{ "ab".isalpha() }}|{{ "  ".isspace() }}|{{ "AB".isupper() }}
{{ "k=v=w".partition("=") }}|{{ "k=v=w".rpartition("=") }}|{{ "kv".partition("=") }}|{{ "7".zfill(3) }}|{{ "-7".zfill(4) }}|{{ "a".ljust(3, ".") }}|{{ "a".rjust(3) }}|{{ "xab".removeprefix("x") }}|{{ "abx".removesuffix("x") }}|{{ [1, 2, 1].count(1) }}|{{ [1, 2].index(2) }}
{%- if a %}  x  {%- endif %}  y {{- a -}}  z
  {% if a %}
  x
  {% endif %}
  y
  {%+ if a %}x{% endif %}
{{ a }}  
a  {#- c -#}  b  {# c #}
 {{ a }}
  {% set q2 = 1 %}  {{ q2 }}
{{ "\n\t\\\'\"\x41\u00e9" }}|{{ '{{' }}|{{ "}}" }}|{{ {"a": {"b": 1}} }}|{{ {"a": {"b": 1}}["a"]["b"] }}
{{ "a" if "x" in d else "b" }}|{{ (a, s)[0] }}|{{ [a, [s]][1][0] }}|{{ {"k": l}["k"][0] }}|{{ l[a] }}|{{ l[-a] }}
{% set l2 = l + [4] %}{{ l2 }}{{ l }}|{% set d2 = dict(d, z=1) %}{{ d2 }}|{{ dict(a=1) }}
{% for a in l %}{% for b in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}{{ a }}
{% for x in l %}{{ loop.cycle("o", "e") }}{% if loop.changed(x > 1) %}c{% endif %}{% endfor %}
{% set messages = messages[1:] %}{{ messages }}|{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}|{{ tools }}|{{ tools is defined }}
{{ messages[0]['role'] }}{{ messages[0].content }}{{ messages | length }}{{ messages[0].nosuch is defined }}{{ messages[-1].role }}
{{ d.y | join(",") }}|{{ [[1, 2], [3]] | map("first") | list }}|{{ [[1, 2], [3]] | sum(start=[]) }}|{{ us[0].n.lower() }}|{{ us | map(attribute="n") | map("lower") | join(" ") }}
{{ 10 > 9.5 }}|{{ true + 1 }}|{{ [1, 2] < [1, 3] }}|{{ (1, 2) == (1, 2) }}|{{ [1] == (1,) }}|{{ none == false }}|{{ "1" == 1 }}
{{ a -1 }}|{{ a-1 }}|{{ - a }}|{{ +a }}|{{ 2 - -1 }}|{{ -2 ** 2 }}|{{ 2 ** 3 ** 2 }}|{{ -1 | abs }}|{{ not 1 == 2 }}
{{ nosuch | length }}|{{ nosuch | list }}|{{ nosuch ~ "x" }}|{{ nosuch | join }}|{{ nosuch | upper }}|{{ nosuch | trim }}|{{ nosuch | first }}
{%- for m in messages -%}
{{ m.role }}: {{ m.content }}
{%- endfor -%}

{% generation %}x{% endgeneration %}
{{ nosuch.x }}
{{ nosuch + 1 }}
{{ s + 1 }}
{{ 1 < "a" }}
{{ l.nosuch.x }}
{{ 1 / 0 }}
{{ nosuch | tojson }}
{{ d.nosuch.x }}
{{ l.append(1) }}
{{ "a" in 5 }}
{% for x in 5 %}{% endfor %}
{{ a() }}
{{ 5 | length }}
{% set x, y = [1] %}
{% if %}{% endif %}
{% for x l %}{% endfor %}
{{ }}
{{ a b }}
{{ a | }}
{% set ns = namespace(x={}) %}{{ ns.x }}{% set ns.y = [1] %}{{ ns.y }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro g() %}{{ a }}{{ zz }}{% endmacro %}{% set zz = 9 %}{{ g() }}
{{ loop }}|{{ "%" }}|{{ "a%b" }}|{{ '#}' }}|{{ "{% x %}" }}
{{ "a" | upper ~ "b" | upper }}|{{ 1 + 2 | string | length }}|{{ (1 + 2) | string }}|{{ "a" == "A" | lower }}|{{ "x" if not n is none else "y" }}
{{ s.split()[0] | upper }}|{{ s.split(" ") | last | length }}|{{ (s | upper).lower() }}|{{ (l | sort)[0] }}
{% if "x" in d and d.x is number and d.x > 0 %}ok{% endif %}|{% if not (a == 2 or s) %}x{% else %}y{% endif %}
{% if messages[0]["role"] == "system" %}{% set sm = messages[0]["content"] %}{% else %}{% set sm = "none" %}{% endif %}{{ sm }}
{{ "tab\there" }}|{{ 'sq"dq' }}|{{ ["sq'dq\""] }}|{{ ["a'b"] }}|{{ ["\x00\x7f\xa0\u200b"] }}
{{ "a" ~ ("b" if a else "c") ~ "d" }}|{{ [x for x in l] if false else 1 }}
{{ d.items() | list }}|{{ d | items | list }}|{{ us[0] | items | map("first") | list }}
{{ "é" | length }}|{{ "日本" | reverse }}|{{ "straße" | upper }}|{{ "ÀÉ" | lower }}|{{ "ÀÉ".lower() }}|{{ "éa".capitalize() }}
'''
import re
lines=[l for l in T.split('\n') if l!='']
multi=["{%- if a %}\n  x\n{%- endif %}\n  y\n","  {% if a %}\n  x\n  {% endif %}\n  y\n","{% if a %}\n\n x{% endif %}\n\nz\n\n","a\n  {%- set q2 = 1 -%}  \n b","a\n  {%+ if a %}x{% endif +%}\nb","a\r\nb{{ a }}\r\nc\rd\r\n","{{ a }}\n{{ a }}\n","{# c\n #}\nx\n  {# y #}\nz","{% raw %}\n {{ x }}\n{% endraw %}\ny","  {%- raw -%}  x {%- endraw -%}  y","{% for x in l %}\n  {{ x }}\n{% endfor %}\nend","{%- for x in l %}\n  {{- x }}\n{% endfor -%}\nend","{{ a -}}\n  {% if a %}y{% endif %}","x{{ a\n+\n1 }}\n","\t{% if a %}\n\ty\n\t{% endif %}","{{ a }}   {% if a %}z{% endif %}","{%if a%}x{%endif%}{{a}}{%-if a-%} y {%-endif-%} z","\n\n{% if a %}\n{% endif %}\n\n"]
out=open(os.path.join(os.path.dirname(__file__), '..', 'unit', 'text_template.jsonl'), 'w')
n=0
for t in lines+multi:
    v=json.loads(V); kw=dict(messages=[{"role":"user","content":"hi"}],tools=None,documents=None,add_generation_prompt=True,bos_token="<s>",eos_token="</s>"); kw.update(v)
    try: exp=env.from_string(t).render(**kw)
    except Exception as x: exp=None
    if 'generation %}' in t: exp='x'
    if 'object at 0x' in str(exp) or '{{ loop }}' in t or 'big }}' in t and False: continue
    out.write(json.dumps({"template":t,"vars":V,"expected":exp},ensure_ascii=False)+'\n'); n+=1
print(n)
