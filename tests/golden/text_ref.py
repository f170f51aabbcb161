"""Stage 4: 2,000 lines of text and what the `tokenizers` package makes of them."""
import json
import os
import random
import unicodedata

from common import HERE, MODELS, SEED, data_dir, fresh_dir, read_jsonl, write_jsonl

OUT = os.path.join(HERE, "text")
REAL = [("real_cots.jsonl", 0, 350, "response_text"), ("datasets/gsm8k/train.jsonl", 1000, 250, "question"),
        ("datasets/gsm8k/train.jsonl", 1000, 200, "answer"), ("datasets/math500/test.jsonl", 0, 300, "solution"),
        ("datasets/math_small_train.jsonl", 0, 150, "solution"), ("datasets/mmlu_pro/math_test.jsonl", 0, 100, "question"),
        ("datasets/mmlu_pro/physics_test.jsonl", 0, 100, "question"), ("datasets/mmlu_pro/valid.jsonl", 0, 50, "cot_content")]
SHARED = ["qwen2", "llama3", "phi3", "gpt2", "bert-base-uncased", "mbert-cased", "xlmr-family-unigram", "barthez-spm-bpe"]
TINY = ["tiny-qwen3", "tiny-phi3", "tiny-xlmr", "tiny-bert"]
TOTAL = 2000

ZWJ, VS16 = "\u200d", "\ufe0f"
EMOJI = ["\U0001F600", "\u2764" + VS16, "\U0001F44D\U0001F3FD", "\U0001F468" + ZWJ + "\U0001F469" + ZWJ + "\U0001F467",
         "\U0001F3F3" + VS16 + ZWJ + "\U0001F308", "\U0001F1E9\U0001F1EA", "\u0031" + VS16 + "\u20e3", "\U0001F469\U0001F3FE" + ZWJ + "\U0001F4BB",
         "\u261D\U0001F3FB", "\U0001F9D1", "\u2192", "\u221A2", "\u00BD", "\u2460"]
SCRIPTS = {"cjk": (0x4E00, 0x9FA5), "kana": (0x3041, 0x30FE), "hangul": (0xAC00, 0xD7A3), "jamo": (0x1100, 0x11F9), "arabic": (0x0621, 0x06F9),
           "hebrew": (0x05B0, 0x05EA), "deva": (0x0901, 0x0970), "thai": (0x0E01, 0x0E5B), "khmer": (0x1780, 0x17E9), "greek": (0x0370, 0x03FF),
           "cyrillic": (0x0400, 0x04FF), "latin": (0x00A1, 0x024F), "viet": (0x1EA0, 0x1EF9), "fullwidth": (0xFF01, 0xFFDC), "compat": (0x3200, 0x33FE),
           "math": (0x2200, 0x22FF), "letterlike": (0x2100, 0x2183), "mathalnum": (0x1D400, 0x1D7FF), "cjk2": (0x20000, 0x2A6D6), "cjkcompat": (0xF900, 0xFA2D),
           "superscript": (0x2070, 0x208E), "presentation": (0xFB00, 0xFB4F)}
WHITE = [" ", "  ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u2009", "\u2028", "\u0085", "\u000b", "\u000c", "   \n"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[PAD]",
           "[MASK]", "[UNK]", "<|end|>", "<|user|>", "<|assistant|>", "<|eot_id|>", "<|begin_of_text|>", "<tool_call>", "<0x0A>", "\u2581", "\u0120", "##ing"]
WORDS = ["I'm", "they'LL", "don't", "it\u2019s", "'\u017f", "THE", "ca\u00f1on", "x_1", "f(x)=", "3.14159", "1,000,000", "$12.50", "\\frac{1}{2}", "\\boxed{42}", "sqrt",
         "(a+b)^2", "=>", "...", "!?", "--", "#", "##", "http://a.b/c?d=e", "e.g.", "na\u00efve", "2+2=4", "C++", "snake_case", "camelCase", "\u00c5ngstr\u00f6m", "\ufb01sh"]
COMBINING = [chr(c) for c in range(0x0300, 0x0345)] + ["\u0327", "\u0591", "\u064b", "\u20d7", "\u0f71", "\u3099"]
CONTROL = [chr(c) for c in list(range(0, 9)) + list(range(14, 32)) + [127, 128, 0x9f, 0xad, 0x200b, 0x200c, 0x200e, 0x202e, 0x2060, 0xfeff, 0xfffd]]


def old(c):
    """Assigned in Unicode 3.2: no table of any age disagrees about it."""
    return unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")


def synthetic():
    r = random.Random(SEED)
    pick = lambda xs, a, b: "".join(r.choice(xs) for _ in range(r.randint(a, b)))
    script = {k: [chr(c) for c in range(a, b + 1) if old(c)] for k, (a, b) in SCRIPTS.items()}
    out = [("fixed", t) for t in ["", " ", "\n", "  ", "a", "\u00e9", "e\u0301", "\u2581", "\u2581\u2581a", " a", "a ", "\u0000", "a\u0000b", "\ufeffa", "<", "<|", "\u00c7", "C\u0327",
                                  "\U0001F600", "1", "12", "123", "1234", "\n\n\n", " \n ", "\t\tx", "\r\n", "a\r\nb", "'s", "'S 'LL", "\u1e9b\u0323", "\u212b\u2126", "\uac00\u11a8",
                                  "\u2460\u0301", "\uff76\uff9e", "\u0f71\u0f72\u0f74", "\u0130\u0131", "\u03a3\u03c2", "\u1e9e", "``''", "~`!@#$%^&*()_+-={}[]|\\:;\"'<>,.?/"]]
    for name, chars in script.items():
        for _ in range(8):
            words = [pick(chars, 1, 9) for _ in range(r.randint(1, 8))]
            out.append((name, r.choice(["", " ", " ", ", "]).join(words)))
    for _ in range(40):
        out.append(("emoji", "".join(pick(EMOJI, 1, 3) + r.choice(["", " ", "ok"]) for _ in range(r.randint(1, 6)))))
    for _ in range(40):
        out.append(("combining", "".join(r.choice("aeiou cnAE\u0915\u05d0\u0633\uac00") + pick(COMBINING, 0, 3) for _ in range(r.randint(1, 14)))))
    for _ in range(30):
        out.append(("control", "".join(r.choice(["ab", "1", " ", "x y"]) + pick(CONTROL, 0, 2) for _ in range(r.randint(1, 9)))))
    for _ in range(40):
        out.append(("white", "".join(r.choice(["a", "Bc", "12", ".", "\u00e9"]) + pick(WHITE, 1, 3) for _ in range(r.randint(1, 10)))))
    for _ in range(40):
        out.append(("special", "".join(r.choice([" ", "", "a", "\n", "  "]) + r.choice(SPECIAL) + r.choice(["", " ", "b", "\n"]) for _ in range(r.randint(1, 6)))))
    pools = list(script.values())
    for _ in range(60):
        parts = []
        for _ in range(r.randint(3, 12)):
            parts.append(r.choice([lambda: r.choice(WORDS), lambda: pick(r.choice(pools), 1, 5), lambda: r.choice(EMOJI), lambda: pick("0123456789", 1, 7),
                                   lambda: r.choice(SPECIAL), lambda: pick(".,;:!?-+*/=()", 1, 4)])())
            parts.append(r.choice(["", " ", " ", " ", r.choice(WHITE)]))
        out.append(("mixed", "".join(parts)))
    long = [("a", 100000), ("ab", 50000), ("\u4e2d\u6587", 16000), (" ", 100000), ("\n", 5000), ("the quick brown fox ", 5000), ("1", 3000), ("9" * 3 + ",", 2000),
            ("<|im_end|>", 300), ("\U0001F600", 4000), ("e\u0301", 3000), ("\\frac{1}{2}+", 3000), ("x", 100), ("x", 101), ("\u2581", 700), ("a\u0000", 500), ("()", 4000),
            ("don't ", 2000), ("\u0e01\u0e33", 3000), ("\t \n", 1500)]
    return [{"group": g, "text": t} for g, t in out] + [{"group": "long", "repeat": t, "times": n} for t, n in long]


def anything(n):
    """Any code point at all; tables of different age may rightly disagree here."""
    r = random.Random(SEED + 1)
    cps = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    return [{"group": "any", "text": "".join(chr(r.choice(cps)) for _ in range(r.randint(1, 12)))} for _ in range(n)]


def expand(specs):
    cache = {}
    for s in specs:
        if "file" in s:
            if s["file"] not in cache:
                cache[s["file"]] = read_jsonl(os.path.join(data_dir(), *s["file"].split("/")))
            for i in range(s["first"], s["first"] + s["count"]):
                yield cache[s["file"]][i][s["field"]]
        elif "repeat" in s:
            yield s["repeat"] * s["times"]
        else:
            yield s["text"]


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = ((h ^ b) * 0x100000001b3) & 0xffffffffffffffff
    return h


def u32(xs):
    import numpy as np
    return np.asarray(xs, dtype="<u4").tobytes()


def line(tok, text):
    e = tok.encode(text, add_special_tokens=False)
    off = [x for p in e.offsets for x in p]
    fold = lambda h: (h >> 32) ^ (h & 0xffffffff)
    return e, "%d %016x %08x %08x\n" % (len(e.ids), fnv(u32(e.ids)), fold(fnv(u32(off))),
                                        fold(fnv(tok.decode(e.ids, skip_special_tokens=False).encode("utf-8"))))


def main(names):
    import zstandard
    from tokenizers import Tokenizer
    os.makedirs(OUT, exist_ok=True)
    syn = synthetic()
    real = [dict(group="real", file=f, first=a, count=n, field=k) for f, a, n, k in REAL]
    n = TOTAL - sum(s["count"] for s in real) - len(syn)
    assert n > 0, n
    syn += anything(n)
    specs = real + syn
    write_jsonl(os.path.join(OUT, "lines.jsonl"), specs)
    texts = list(expand(specs))
    assert len(texts) == TOTAL
    first = TOTAL - len(syn)
    short = [i for i in range(first, TOTAL - n) if 0 < len(texts[i]) <= 60]
    debug = sorted(random.Random(SEED).sample(short, 32)) + [TOTAL - n - 20 + k for k in (12, 13)]
    debug = sorted([0, 351, 601, 801, 1101, 1260] + debug)
    for name in names or SHARED + TINY:
        tiny = name in TINY
        path = os.path.join(MODELS, name[5:]) if tiny else os.path.join(data_dir(), "tokenizers", name)
        tok = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
        tok.no_truncation()
        tok.no_padding()
        rows, full = [], []
        for i, t in enumerate(texts):
            if tiny and i < first:
                continue
            e, s = line(tok, t)
            rows.append(s)
            if i in debug and not tiny:
                full.append({"line": i, "ids": e.ids[:200], "offsets": [x for p in e.offsets[:200] for x in p], "decoded": tok.decode(e.ids[:200], skip_special_tokens=False)})
        base = os.path.join(OUT, name)
        with open(base + ".hash.zst", "wb") as f:
            f.write(zstandard.ZstdCompressor(level=19).compress("".join(rows).encode()))
        if full:
            with open(base + ".full.jsonl.zst", "wb") as f:
                f.write(zstandard.ZstdCompressor(level=19).compress("".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in full).encode()))
        print(name, len(rows), "lines,", len(full), "in full", flush=True)
