"""The tokenizer and the configuration of the embedded compressor, made once:

    bin/dataset arith --limit 6000 > arith.jsonl
    python tests/golden/embedded_compressor.py arith.jsonl pipelines/embedded/compressor

Unigram in XLM-RoBERTa's form: words with a U+2581 in front, <s> and </s> around a text, specials where XLM-R has them. Marks are
words too, so a word has the same pieces alone, as `train` reads it, and in a text. Every digit is a piece of its own, so that the
compressor's pieces weigh about what the reasoner's tokens do. Learnt from the solutions; all of ASCII is in it. Plain Python; the same file gives the same bytes.
"""
import collections
import json
import math
import os
import re
import sys

OFTEN = 100
HEAD = ["<s>", "<pad>", "</s>", "<unk>"]
MARK = "\u2581"


def learn(rows):
    """Words that come often are pieces, scored by their share; so is every visible character of ASCII, alone and behind a
    blank: digits and marks, and letters for the words that do not come (a digit between letters costs what a letter does)."""
    count = collections.Counter()
    with open(rows, encoding="utf-8") as f:
        for line in f:
            count.update(re.findall(r"(?<!\S)[A-Za-z]+", json.loads(line)["solution"]))
    words = [(w, n) for w, n in sorted(count.items(), key=lambda x: (-x[1], x[0])) if n >= OFTEN and len(w) > 1]
    total = sum(n for _, n in words)
    found = [(MARK + w, round(math.log(n / total), 4)) for w, n in words]
    low = found[-1][1] - 1
    return found + [(p, low) for p in [MARK] + [m + chr(i) for i in range(33, 127) for m in ("", MARK)]]


def special(i, name):
    return {
        "id": i,
        "content": name,
        "single_word": False,
        "lstrip": name == "<mask>",
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def template(*parts):
    return [
        {"Sequence": {"id": p, "type_id": 0}} if p in "AB" else {"SpecialToken": {"id": p, "type_id": 0}} for p in parts
    ]


def main(rows, out):
    pieces = learn(rows)
    vocab = [[h, 0.0] for h in HEAD] + [[p, s] for p, s in pieces] + [["<mask>", 0.0]]
    mask = len(vocab) - 1
    metaspace = {"type": "Metaspace", "replacement": MARK, "add_prefix_space": True, "prepend_scheme": "always"}
    doc = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(i, h) for i, h in enumerate(HEAD)] + [special(mask, "<mask>")],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template("<s>", "A", "</s>"),
            "pair": template("<s>", "A", "</s>", "</s>", "B", "</s>"),
            "special_tokens": {n: {"id": n, "ids": [HEAD.index(n)], "tokens": [n]} for n in ("<s>", "</s>")},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
    os.makedirs(out, exist_ok=True)
    write(out, "tokenizer.json", doc)
    write(
        out,
        "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "mask_token": "<mask>",
            "model_max_length": 512,
            "pad_token": "<pad>",
            "sep_token": "</s>",
            "tokenizer_class": "XLMRobertaTokenizer",
            "unk_token": "<unk>",
        },
    )
    write(
        out,
        "config.json",
        {
            "architectures": ["XLMRobertaForTokenClassification"],
            "model_type": "xlm-roberta",
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": 0,
            "classifier_dropout": None,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 128,
            "id2label": {"0": "drop", "1": "keep"},
            "initializer_range": 0.02,
            "intermediate_size": 384,
            "label2id": {"drop": 0, "keep": 1},
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "output_past": True,
            "pad_token_id": 1,
            "position_embedding_type": "absolute",
            "torch_dtype": "bfloat16",
            "type_vocab_size": 1,
            "use_cache": True,
            "vocab_size": len(vocab),
        },
    )


def write(folder, name, doc):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(doc, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
