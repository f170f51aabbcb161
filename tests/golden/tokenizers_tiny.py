"""The tiny tokenizers of the golden models, trained or cut with the `tokenizers` package."""
import json
import os

from common import data_dir, gsm8k

QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CHATML = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

CHATML_SYSTEM = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a careful tutor.<|im_end|>\\n' }}
{%- endif %}
""" + CHATML

# A thinking model: old assistant turns lose their thinking, the last one keeps it, the prompt opens it.
THINKING = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set text = m.content if m.content is string else '' %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is defined and m.reasoning_content is string %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in text %}
            {%- set thought = text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + text }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
{%- endif %}"""

PHI = """{%- for m in messages %}
{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- else %}
{{- eos_token }}
{%- endif %}"""


def corpus():
    for r in gsm8k():
        yield r["question"]
        yield r["answer"]


def added(id, content, special=True, rstrip=False):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": rstrip,
            "normalized": False, "special": special}


def as_config(tok_json, cls, template, eos, pad, bos=None, unk=None):
    """tokenizer_config.json that belongs to a tokenizer.json of ours."""
    cfg = {"add_bos_token": False, "add_prefix_space": False,
           "added_tokens_decoder": {str(a["id"]): {k: a[k] for k in
                                    ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
                                    for a in tok_json["added_tokens"]},
           "additional_special_tokens": [], "bos_token": bos}
    if template:
        cfg["chat_template"] = template
    cfg.update({"clean_up_tokenization_spaces": False, "eos_token": eos, "errors": "replace", "model_max_length": 131072,
                "pad_token": pad, "split_special_tokens": False, "tokenizer_class": cls, "unk_token": unk})
    return cfg


def byte_bpe(total=600):
    """Qwen2's layout with `total` entries: byte letters, merges, then the added tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=total - len(names), show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    j = json.loads(t.to_str())
    n = len(j["model"]["vocab"])
    assert n == total - len(names), n
    j["added_tokens"] = [added(n + i, s, special=not s.endswith("think>")) for i, s in enumerate(names)]
    return j


def sp_bpe(total=600):
    """Phi-3's layout: SentencePiece BPE with byte fallback, the whole text is one piece."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tail = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    head = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=total - len(tail) - len(head), limit_alphabet=90, show_progress=False))
    m = json.loads(t.to_str())["model"]
    words = sorted(m["vocab"], key=m["vocab"].get)
    vocab = {s: i for i, s in enumerate(head + words + tail[:0])}
    assert len(vocab) == total - len(tail), len(vocab)
    n = len(vocab)
    toks = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>", rstrip=True)]
    toks += [added(n + i, s, rstrip=i > 0) for i, s in enumerate(tail)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": toks,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
            "pre_tokenizer": None,
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": m["merges"]}}


def dump(folder, tok_json, config):
    from tokenizers import Tokenizer
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tok_json, f, ensure_ascii=False, separators=(",", ":"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, ensure_ascii=False, indent=2)
        f.write("\n")
    return Tokenizer.from_str(json.dumps(tok_json))
