"""The tokenizer and the configuration of the embedded reasoner, made once:

    bin/dataset arith --limit 6000 > arith.jsonl
    python tests/golden/embedded_tokenizer.py arith.jsonl pipelines/embedded/reasoner

Byte-level BPE in Qwen2's form (NFC, its pattern: every digit is a token), learnt from the questions, the solutions and the texts that
the prompt formats put around them, so that a common word is one token. Needs the tokenizers package (versions.json).
Deterministic: the same file gives the same bytes.
"""
import json
import os
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
AROUND = [
    "You are a helpful assistant.",
    "Please reason step by step, and put your final answer within \\boxed{}.\n",
    "\n\nThe final answer is: $\\boxed{7}$",
    "system\nuser\nassistant\n",
]
SPECIAL = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False), ("</think>", False)]
VOCAB = 768


def main(rows, out):
    texts = list(AROUND) * 200
    with open(rows, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            texts += [row["question"], row["solution"]]
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    t.train_from_iterator(texts, trainer)
    base = t.get_vocab_size()
    doc = json.loads(t.to_str())
    doc["added_tokens"] = [
        {
            "id": base + i,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": special,
        }
        for i, (name, special) in enumerate(SPECIAL)
    ]
    ids = {name: base + i for i, (name, _) in enumerate(SPECIAL)}
    os.makedirs(out, exist_ok=True)
    write(out, "tokenizer.json", doc)
    with open(os.path.join(os.path.dirname(__file__), "models/qwen3/tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config["added_tokens_decoder"] = {
        str(a["id"]): {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
        for a in doc["added_tokens"]
    }
    config["model_max_length"] = 1024
    write(out, "tokenizer_config.json", config)
    end, stop = ids["<|endoftext|>"], ids["<|im_end|>"]
    write(out, "generation_config.json", {"bos_token_id": end, "eos_token_id": [stop, end], "pad_token_id": end})
    write(
        out,
        "config.json",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": end,
            "eos_token_id": stop,
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": 128,
            "initializer_range": 0.02,
            "intermediate_size": 384,
            "max_position_embeddings": 1024,
            "max_window_layers": 4,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 10000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": VOCAB,
        },
    )


def write(folder, name, doc):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(doc, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
