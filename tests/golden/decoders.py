"""Stage 1: tiny decoder checkpoints with transformers' logits, hidden states and greedy continuations."""
import json
import math
import os
import shutil
import sys
import tempfile

from common import MODELS, SEED, fresh_dir, gsm8k, save_tensors, seed_all, torch_setup, write_jsonl
import tokenizers_tiny as tt

TOKENS = 600            # entries of both tokenizers
STD = 0.2               # initializer_range; 0.02 would leave attention almost without effect at this width
NEW = 32                # greedy tokens
MIN_MARGIN = 1e-2
LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32, "rope_type": "llama3"}
LONGROPE = {"type": "longrope",
            "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8],
            "long_factor": [1.0, 1.3, 1.8, 2.5, 3.4, 4.6, 6.2, 8.0]}

QWEN_GEN = {"bos_token_id": 595, "do_sample": True, "eos_token_id": [597, 595], "pad_token_id": 595,
            "temperature": 0.6, "top_k": 20, "top_p": 0.95}
PHI_GEN = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": [595, 596, 598], "pad_token_id": 595}


def base(arch, model_type, D, F, L, H, KV, tie, **kw):
    c = {"architectures": [arch], "attention_dropout": 0.0, "bos_token_id": 595, "eos_token_id": 597, "pad_token_id": 595,
         "hidden_act": "silu", "hidden_size": D, "initializer_range": STD, "intermediate_size": F,
         "max_position_embeddings": 512, "model_type": model_type, "num_attention_heads": H, "num_hidden_layers": L,
         "num_key_value_heads": KV, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": tie,
         "torch_dtype": "float32", "transformers_version": "4.57.6", "use_cache": True, "vocab_size": TOKENS}
    c.update(kw)
    return c


def qwen3(D, F, L, H, KV, tie, **kw):
    return base("Qwen3ForCausalLM", "qwen3", D, F, L, H, KV, tie, attention_bias=False, head_dim=16, rope_scaling=None,
                **dict(dict(use_sliding_window=False, sliding_window=None, max_window_layers=L, rope_theta=1000000), **kw))


def qwen2(D, F, L, H, KV, tie, **kw):
    return base("Qwen2ForCausalLM", "qwen2", D, F, L, H, KV, tie, use_sliding_window=False, sliding_window=64,
                max_window_layers=L, rope_theta=1000000.0, **kw)


def llama(D, F, L, H, KV, tie, **kw):
    return base("LlamaForCausalLM", "llama", D, F, L, H, KV, tie, **dict(
        dict(attention_bias=False, mlp_bias=False, pretraining_tp=1, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=None), **kw))


def phi3(D, F, L, H, KV, **kw):
    return base("Phi3ForCausalLM", "phi3", D, F, L, H, KV, False, **dict(dict(
        rms_norm_eps=1e-5, rope_scaling=None, sliding_window=None, original_max_position_embeddings=512,
        bos_token_id=1, eos_token_id=595, embd_pdrop=0.0, resid_pdrop=0.0, attention_bias=False), **kw))


# name: config, then what the folder is made to show
FAMILIES = {
    "qwen3": dict(config=qwen3(48, 80, 3, 4, 2, True, vocab_size=608), template=tt.THINKING, hidden=True),
    "qwen3-untied": dict(config=qwen3(32, 56, 2, 3, 1, False), template=tt.CHATML, v5=True),
    "qwen2": dict(config=qwen2(48, 64, 2, 6, 2, True), template=tt.CHATML_SYSTEM),
    "qwen2-sharded": dict(config=qwen2(32, 48, 2, 4, 2, False), template=tt.CHATML_SYSTEM, shards=2),
    "llama3": dict(config=llama(32, 64, 3, 4, 2, False, rope_scaling=LLAMA3_ROPE), template=tt.CHATML, hidden=True),
    "llama3-tied": dict(config=llama(48, 64, 2, 3, 1, True, rope_scaling=dict(LLAMA3_ROPE, factor=32.0), head_dim=16), template=tt.CHATML),
    "phi3": dict(config=phi3(32, 48, 2, 4, 4)),
    "phi3-longrope": dict(config=phi3(32, 48, 2, 2, 1, rope_scaling=LONGROPE, max_position_embeddings=128,
                                      original_max_position_embeddings=32), lengths=(1, 20, 50)),
    "qwen3-sliding": dict(config=qwen3(32, 48, 3, 2, 1, True, use_sliding_window=True, sliding_window=8, max_window_layers=1),
                          template=tt.CHATML),
    "phi3-sliding": dict(config=phi3(32, 48, 2, 4, 2, sliding_window=8)),
    "llama-bias": dict(config=llama(32, 48, 2, 4, 2, True, attention_bias=True, mlp_bias=True, head_dim=12, rope_theta=10000.0),
                       template=tt.CHATML),
    "phi3-partial": dict(config=phi3(32, 48, 2, 2, 2, partial_rotary_factor=0.5)),
    "qwen3-bf16": dict(config=qwen3(32, 48, 2, 2, 1, True, torch_dtype="bfloat16"), template=tt.CHATML),
    "llama-fp16": dict(config=llama(32, 48, 2, 2, 2, False, torch_dtype="float16", rope_theta=10000.0), template=tt.CHATML),
}


def build(config, seed):
    """A model with transformers' own init at std STD, then biases and norm weights moved off 0 and 1."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    seed_all(seed)
    cfg = AutoConfig.for_model(**{k: v for k, v in config.items() if k not in ("torch_dtype", "architectures")})
    m = AutoModelForCausalLM.from_config(cfg, attn_implementation="eager")
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(m.named_parameters()):
            if name.endswith(".bias"):
                p.copy_(torch.randn(p.shape, generator=g) * STD)
            elif "norm" in name:
                p.copy_(1 + torch.randn(p.shape, generator=g) * 0.2)
            elif p.shape[0] == config["vocab_size"] > TOKENS:
                p[TOKENS:] = 0          # spare rows that no token has
        dt = getattr(torch, config["torch_dtype"])
        if dt != torch.float32:         # the reference works in fp32 on the values that are stored
            for p in m.parameters():
                p.copy_(p.to(dt).to(torch.float32))
    return m.eval()


def greedy(model, ids, new, floor):
    """Full forward each step, no cache, no stop token. None as soon as a margin is under `floor`."""
    import torch
    out, worst = [], math.inf
    for _ in range(new):
        with torch.no_grad():
            z = model(torch.tensor([ids + out]), use_cache=False).logits[0, -1]
        top = torch.topk(z, 2)
        worst = min(worst, float(top.values[0] - top.values[1]))
        if not worst >= floor:
            return None
        out.append(int(top.indices[0]))
    return {"ids": ids, "out": out, "min_margin": round(worst, 6)}


def prompts(tok, lengths, seed):
    """Token prefixes of GSM8K questions, one question a length."""
    rows = gsm8k()
    out = []
    for k, n in enumerate(lengths):
        text = "<|im_start|>" if n > 2 and tok.token_to_id("<|im_start|>") is not None else ""
        ids = tok.encode(text + " ".join(r["question"] for r in rows[seed % 1000 + 3 * k:][:3]), add_special_tokens=False).ids
        assert len(ids) >= n
        out.append(ids[:n])
    return out


def write_folder(path, spec, model, tok_json, tok_cfg):
    import torch
    config, v5 = dict(spec["config"]), spec.get("v5")
    tt.dump(path, tok_json, tok_cfg)
    if v5:                              # the spelling of transformers 5
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
        config.pop("rope_scaling")
        config["dtype"] = config.pop("torch_dtype")
        config["transformers_version"] = "5.0.0"
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
        config = dict(sorted(config.items()))
    for name, obj in (("config.json", config),
                      ("generation_config.json", PHI_GEN if config["model_type"] == "phi3" else QWEN_GEN)):
        with open(os.path.join(path, name), "w") as f:
            json.dump(obj, f, indent=2)
            f.write("\n")
    with tempfile.TemporaryDirectory() as tmp:
        dt = getattr(torch, spec["config"]["torch_dtype"])
        size = sum(p.numel() for p in model.parameters()) * 4
        extra = {"max_shard_size": size * 6 // 10} if spec.get("shards") else {}
        (model.to(dt) if dt != torch.float32 else model).save_pretrained(tmp, **extra)
        for f in sorted(os.listdir(tmp)):
            if ".safetensors" in f:
                shutil.copyfile(os.path.join(tmp, f), os.path.join(path, f))


def make_one(name):
    import torch
    from transformers import AutoModelForCausalLM
    spec = FAMILIES[name]
    config = spec["config"]
    path = fresh_dir(os.path.join(MODELS, name))
    if config["model_type"] == "phi3":
        tok_json = SP
        tok_cfg = tt.as_config(SP, "PreTrainedTokenizerFast", tt.PHI, "<|endoftext|>", "<|endoftext|>", bos="<s>", unk="<unk>")
    else:
        tok_json = BPE
        cls = "Qwen2Tokenizer" if config["model_type"].startswith("qwen") else "PreTrainedTokenizerFast"
        tok_cfg = tt.as_config(BPE, cls, spec["template"], "<|im_end|>", "<|endoftext|>")
    tok = tt.dump(path, tok_json, tok_cfg)
    assert tok.get_vocab_size() == TOKENS
    for seed in range(SEED, SEED + 5000):
        model = build(config, seed)
        rows = []
        for ids in prompts(tok, (1, 6, 23, 60), seed):
            r = greedy(model, ids, NEW, MIN_MARGIN)
            if r is None or len(set(r["out"])) < 8:      # no margin, or a loop that would show nothing
                break
            rows.append(r)
        if len(rows) == 4:
            break
    else:
        sys.exit("no seed for " + name)
    write_folder(path, spec, model, tok_json, tok_cfg)
    if not spec.get("v5"):              # the reference is what from_pretrained makes of the folder
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        again = [greedy(model, r["ids"], NEW, 0) for r in rows]
        assert again == rows, name
    tensors = {}
    for k, ids in enumerate(prompts(tok, spec.get("lengths", (1, 7, 33)), seed + 17)):
        with torch.no_grad():
            o = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        tensors["ids.%d" % k] = torch.tensor(ids)
        tensors["logits.%d" % k] = o.logits[0].float()
        if spec.get("hidden"):
            for i, h in enumerate(o.hidden_states):
                tensors["hidden.%d.%d" % (k, i)] = h[0].float()
            assert torch.equal(model.lm_head(o.hidden_states[-1]), o.logits)
    save_tensors(os.path.join(path, "golden", "logits.safetensors"), tensors)
    write_jsonl(os.path.join(path, "golden", "greedy.jsonl"), rows)
    print("%-14s seed %d  margins %s  distinct %s  max|logit| %.1f" % (
        name, seed, [r["min_margin"] for r in rows], [len(set(r["out"])) for r in rows],
        max(float(t.abs().max()) for n, t in tensors.items() if n.startswith("logits"))), flush=True)
    return seed


def main(names):
    global BPE, SP
    torch_setup()
    BPE, SP = tt.byte_bpe(TOKENS), tt.sp_bpe(TOKENS)
    for n in names or FAMILIES:
        make_one(n)
