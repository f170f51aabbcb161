"""Stage 3: losses, gradients, LoRA adapters, short trainings and schedules from torch, PEFT and transformers."""
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")      # PEFT asks the hub whether a base named "qwen3" is there

from common import HERE, MODELS, SEED, fresh_dir, gsm8k, save_tensors, seed_all, torch_setup, write_json, write_jsonl

DECODERS = ["qwen2", "qwen3", "llama3", "phi3"]
ENCODERS = ["xlmr", "bert"]
OUT = os.path.join(HERE, "train")
STEPS = 20
DUALS = {"dual-tied": "qwen3", "dual-untied": "qwen3-untied"}
SHAPES = [(9, 15), (14, 27), (4, 9), (20, 20), (1, 30), (11, 3), (30, 12), (6, 17)]     # (prompt, answer) lengths of the 8 rows


def rows_for(name):
    """Eight rows; the first three are the gradient batch, step t of a training takes rows 2t and 2t+1 modulo 8."""
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(MODELS, name, "tokenizer.json"))
    rows = []
    for k, (p, a) in enumerate(SHAPES):
        r = gsm8k()[100 + k]
        q = tok.encode(r["question"], add_special_tokens=False).ids
        s = tok.encode(r["answer"], add_special_tokens=False).ids
        assert len(q) >= p and len(s) >= a
        if name in ENCODERS:            # keep labels that depend on the piece; specials are not trained
            cls, sep = (0, 2) if name == "xlmr" else (2, 3)
            body = q[:p] + s[:a - 2]
            rows.append({"ids": [cls] + body + [sep], "labels": [-100] + [int(i % 3 == 0) for i in body] + [-100]})
        else:
            rows.append({"ids": q[:p] + s[:a], "labels": [-100] * p + s[:a]})
    return rows


def batch(rows, pad):
    import torch
    w = max(len(r["ids"]) for r in rows)
    return dict(input_ids=torch.tensor([r["ids"] + [pad] * (w - len(r["ids"])) for r in rows]),
                attention_mask=torch.tensor([[1] * len(r["ids"]) + [0] * (w - len(r["ids"])) for r in rows]),
                labels=torch.tensor([r["labels"] + [-100] * (w - len(r["labels"])) for r in rows]))


def load(name):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
    cls = AutoModelForTokenClassification if name in ENCODERS else AutoModelForCausalLM
    return cls.from_pretrained(os.path.join(MODELS, name), dtype=torch.float32, attn_implementation="eager").eval()


def sparse(tensors):
    """A matrix with more than half of its rows zero becomes NAME@rows (I64) and NAME@values."""
    out = {}
    for n, t in tensors.items():
        used = t.abs().sum(-1).nonzero().flatten() if t.ndim == 2 else None
        if used is not None and t.shape[0] > 100 and len(used) * 2 < t.shape[0]:
            out[n + "@rows"], out[n + "@values"] = used, t[used]
        else:
            out[n] = t
    return out


def short(name):
    """Parameter name of a PEFT model -> name in adapter_model.safetensors."""
    return name.replace(".default", "")


def train(model, rows, pad, lr, decay):
    """AdamW, betas .9 .999, eps 1e-8, constant lr, gradient norm clipped to 1; loss and norm before each update."""
    import torch
    ps = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW([{"params": [p for p in ps if p.ndim >= 2], "weight_decay": decay},
                             {"params": [p for p in ps if p.ndim < 2], "weight_decay": 0.0}],
                            lr=lr, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    log = []
    for t in range(STEPS):
        loss = model(**batch([rows[2 * t % 8], rows[(2 * t + 1) % 8]], pad)).loss
        opt.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(ps, 1.0)
        opt.step()
        log.append({"step": t, "loss": float("%.9g" % loss.item()), "grad_norm": float("%.9g" % norm.item())})
    return log


def with64(log, log64):
    """The same training with weights and activations in double: how much rounding matters at each step."""
    print("    loss - loss64, steps 0, 9, 19:", ["%.1e" % (log[i]["loss"] - log64[i]["loss"]) for i in (0, 9, 19)])
    return [dict(a, loss64=b["loss"], grad_norm64=b["grad_norm"]) for a, b in zip(log, log64)]


def stats(tensors):
    return [{"name": n, "shape": list(t.shape), "norm": float("%.9g" % t.double().norm().item()), "sum": float("%.9g" % t.double().sum().item()),
             "first": [float("%.9g" % x) for x in t.flatten()[:8].tolist()]} for n, t in sorted(tensors.items())]


def full(name, out):
    import torch
    model, rows = load(name), rows_for(name)
    pad = model.config.pad_token_id
    write_jsonl(os.path.join(out, "rows.jsonl"), rows)
    loss = model(**batch(rows[:3], pad)).loss
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    save_tensors(os.path.join(out, "full_grads.safetensors"), sparse(grads))
    norm = torch.stack([g.double().norm() for g in grads.values()]).norm()
    write_json(os.path.join(out, "full.json"), {"loss": float("%.9g" % loss.item()), "grad_norm": float("%.9g" % norm),
                                               "targets": sum(sum(x != -100 for x in (r["labels"] if name in ENCODERS else r["labels"][1:])) for r in rows[:3])})
    model.zero_grad()
    log = train(model, rows, pad, 1e-3, 0.01)
    write_jsonl(os.path.join(out, "full_steps.jsonl"), with64(log, train(load(name).double(), rows, pad, 1e-3, 0.01)))
    write_jsonl(os.path.join(out, "full_final.jsonl"), stats(dict(model.named_parameters())))


def adapter(name, path, seed, load=load, **kw):
    """A PEFT model on a fresh base, every LoRA tensor and saved module drawn anew; the folder is what PEFT writes."""
    import torch
    from peft import LoraConfig, get_peft_model
    seed_all(seed)
    conf = LoraConfig(**dict(dict(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"), **kw))
    base = load(name)
    base.config._name_or_path = base.name_or_path = name
    conf.base_model_name_or_path = name
    m = get_peft_model(base, conf).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in sorted(m.named_parameters()):
            if "lora_B" in n:
                p.copy_(torch.randn(p.shape, generator=g) * 0.1)
            elif p.requires_grad and "lora_" not in n or "magnitude" in n:
                p.mul_(1 + torch.randn(p.shape, generator=g) * 0.1)
    fresh_dir(path)
    m.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    f = os.path.join(path, "adapter_config.json")
    with open(f) as h:
        c = json.load(h)
    for k, v in c.items():              # PEFT keeps sets; their order is not fixed
        if isinstance(v, list) and all(isinstance(x, str) for x in v):
            c[k] = sorted(v)
    c["base_model_name_or_path"] = name
    with open(f, "w") as h:
        json.dump(c, h, indent=2, sort_keys=True)
        h.write("\n")
    return m


def merged(m, rows):
    """Logits of the last 6 positions of row 1 after merge_and_unload, and how far they are from adapter beside base."""
    import torch
    ids = torch.tensor([rows[1]["ids"]])
    with torch.no_grad():
        a = m(input_ids=ids).logits[0]
        b = m.merge_and_unload()(input_ids=ids).logits[0]
    return {"ids": ids[0], "logits.last6": b[-6:]}, float((a - b).abs().max())


def lora(name, out):
    rows = rows_for(name)
    m = adapter(name, os.path.join(out, "adapter"), SEED)
    pad = m.config.pad_token_id
    loss = m(**batch(rows[:3], pad)).loss
    loss.backward()
    save_tensors(os.path.join(out, "lora_grads.safetensors"), {short(n): p.grad for n, p in m.named_parameters() if p.requires_grad})
    write_json(os.path.join(out, "lora.json"), {"loss": float("%.9g" % loss.item())})
    m.zero_grad()
    log = train(m, rows, pad, 1e-2, 0.0)
    m64 = adapter(name, os.path.join(out, "adapter"), SEED).double()
    write_jsonl(os.path.join(out, "lora_steps.jsonl"), with64(log, train(m64, rows, pad, 1e-2, 0.0)))
    save_tensors(os.path.join(out, "lora_final.safetensors"), {short(n): p for n, p in m.named_parameters() if p.requires_grad})
    variants = {"adapter": {}}
    if name == "qwen2":
        variants["adapter-rslora"] = dict(use_rslora=True, r=3)
        variants["adapter-pattern"] = dict(target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"q_proj": 2, "layers.1.mlp.down_proj": 6},
                                           alpha_pattern={"v_proj": 32})
        variants["adapter-dora"] = dict(use_dora=True, target_modules=["q_proj", "o_proj", "gate_proj"])
    if name == "llama3":
        variants["adapter-head"] = dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], modules_to_save=["lm_head"])
    for v, kw in variants.items():
        t, d = merged(adapter(name, os.path.join(out, v), SEED, **kw), rows)
        save_tensors(os.path.join(out, v, "merged_logits.safetensors"), t)
        print(name, v, "merged - beside: %.2g" % d, flush=True)


def load_dual(name):
    """The model that `dualize --mode subset` makes: rows of subset.json once more behind the others, in embedding and head."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, Qwen3Config
    folder = os.path.join(MODELS, DUALS[name])
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    c["rope_theta"] = c.pop("rope_parameters", c).get("rope_theta")        # transformers 4 reads only the old spelling
    ids = subset(name)
    c["vocab_size"] += len(ids)
    t = load_file(os.path.join(folder, "model.safetensors"))
    for n in ("model.embed_tokens.weight", "lm_head.weight"):
        if n in t:
            t[n] = torch.cat([t[n], t[n][ids]])
    m = AutoModelForCausalLM.from_config(Qwen3Config.from_dict(c), attn_implementation="eager").float()
    missing, strangers = m.load_state_dict(t, strict=False)
    assert not strangers and missing == (["lm_head.weight"] if c["tie_word_embeddings"] else [])
    m.tie_weights()
    m.name_or_path = name
    return m.eval()


def subset(name):
    with open(os.path.join(MODELS, DUALS[name], "config.json")) as f:
        return list(range(1, json.load(f)["vocab_size"], 5))


def dual(name, out):
    """Latent rows beside LoRA, as PEFT's trainable tokens: half of each answer in latent ids where there are any."""
    ids = subset(name)
    with open(os.path.join(MODELS, DUALS[name], "config.json")) as f:
        c = json.load(f)
    first = c["vocab_size"]
    latent = {s: first + i for i, s in enumerate(ids)}
    with open(os.path.join(out, "subset.json"), "w") as f:
        json.dump(ids, f)
        f.write("\n")
    rows = []
    for (p, a), r in zip(SHAPES, rows_for(DUALS[name])):
        r = r["ids"][:p] + [latent.get(i, i) for i in r["ids"][p:p + a // 2]] + r["ids"][p + a // 2:]
        rows.append({"ids": r, "labels": [-100] * p + r[p:]})
    write_jsonl(os.path.join(out, "rows.jsonl"), rows)
    tokens = list(range(first, first + len(ids)))
    kw = dict(load=load_dual, trainable_token_indices={m: tokens for m in ["embed_tokens"] + ["lm_head"] * (not c["tie_word_embeddings"])})
    m = adapter(name, os.path.join(out, "adapter"), SEED, **kw)
    loss = m(**batch(rows[:3], c["pad_token_id"])).loss
    loss.backward()
    save_tensors(os.path.join(out, "lora_grads.safetensors"), {short(n): p.grad for n, p in m.named_parameters() if p.requires_grad})
    write_json(os.path.join(out, "lora.json"), {"loss": float("%.9g" % loss.item())})
    m.zero_grad()
    log = train(m, rows, c["pad_token_id"], 1e-2, 0.0)
    m64 = adapter(name, os.path.join(out, "adapter"), SEED, **kw).double()
    write_jsonl(os.path.join(out, "lora_steps.jsonl"), with64(log, train(m64, rows, c["pad_token_id"], 1e-2, 0.0)))


def schedules():
    import math
    import torch
    from transformers import get_scheduler
    out = []
    for T, ratio in ((20, 0.1), (7, 0.05), (20, 0.0)):
        w = math.ceil(T * ratio)
        for name in ("linear", "cosine", "constant", "constant_with_warmup"):
            opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            s = get_scheduler(name, opt, num_warmup_steps=w, num_training_steps=T)
            lr = []
            for _ in range(T):
                lr.append(s.get_last_lr()[0])
                opt.step()
                s.step()
            out.append({"name": name, "steps": T, "warmup_ratio": ratio, "warmup_steps": w, "lr": lr})
    write_jsonl(os.path.join(OUT, "schedules.jsonl"), out)


def main(names):
    import warnings
    warnings.filterwarnings("ignore", message="Could not find a config file")
    torch_setup()
    if not names:
        schedules()
    for name in names or DECODERS + ENCODERS + list(DUALS):
        out = fresh_dir(os.path.join(OUT, name))
        if name in DUALS:
            dual(name, out)
            continue
        full(name, out)
        if name in DECODERS:
            lora(name, out)
        with open(os.path.join(out, "full_steps.jsonl")) as f:
            ls = [json.loads(x)["loss"] for x in f]
        print(name, "full", ls[0], ls[-1], flush=True)
