#!/usr/bin/env python3
"""check_train.py TRAIN SCORE FOLDER: trains small models with the programs TRAIN and SCORE into FOLDER and loads them in the Python
stack: adapters in PEFT on their bases, merged and full folders in transformers. Logits of PEFT's own merge equal those of merged/
within 1e-4 x max, and log-probabilities of `score` equal transformers'. The last outcome is in train/check_train.txt."""
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import subprocess
import sys

from common import HERE, MODELS
import peft
import torch
import transformers

train, score, out = map(os.path.abspath, sys.argv[1:4])
os.makedirs(out, exist_ok=True)
rows, words, texts = (os.path.join(out, n) for n in ("rows.jsonl", "words.jsonl", "texts.jsonl"))
with open(rows, "w") as f:
    for i in range(24):
        f.write(json.dumps({"messages": [{"role": "user", "content": "What is %d+%d?" % (i, i % 5)}, {
            "role": "assistant", "content": "Add %d and %d.\n\n</think>\n\n%d" % (i, i % 5, i + i % 5)}]}) + "\n")
with open(words, "w") as f:
    for i in range(12):
        f.write(json.dumps({"words": ["Hello", "the", "world", "is", str(i)], "labels": [1, 0, 1, 0, i % 2]}) + "\n")
with open(texts, "w") as f:
    f.write(json.dumps({"prompt": "What is", "completion": " seven and five? It is twelve."}) + "\n")
bad = 0


def check(ok, what):
    global bad
    print(("ok    " if ok else "WRONG ") + what)
    bad += not ok


def load(folder):
    with open(os.path.join(folder, "config.json")) as f:
        arch = json.load(f)["architectures"][0]
    cls = transformers.AutoModelForTokenClassification if "TokenClass" in arch else transformers.AutoModelForCausalLM
    m, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    clean = not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return m.eval(), clean


def logits(m, ids):
    with torch.no_grad():
        return m(input_ids=ids).logits


def close(name, a, b, part):
    d, top = float((a - b).abs().max()), float(b.abs().max())
    check(d <= part * top, "%s: largest difference %.3g, largest logit %.3g" % (name, d, top))


def ours(name, folder, m):
    r = json.loads(subprocess.run([score, "-q", "-t", "-m", folder, texts], check=True, capture_output=True).stdout)["tokens"]
    ids = torch.tensor([r["ids"]])
    p = torch.log_softmax(logits(m, ids)[0].double(), -1)
    want = torch.tensor([float(p[i - 1, ids[0, i]]) for i in range(r["first"], ids.shape[1])])
    close(name + ": score against transformers", torch.tensor(r["logprobs"]), want, 1e-4)


def run(name, model, *args):
    folder = os.path.join(out, name)
    data = words if model in ("xlmr", "bert") else rows
    subprocess.run([train, "-q", "-m", os.path.join(MODELS, model), "-o", folder, "--lr", "0.01", "--max-steps", "12", *args, data],
                   check=True)
    return folder


print("transformers %s, peft %s, torch %s" % (transformers.__version__, peft.__version__, torch.__version__))
for model in ("qwen2", "qwen3", "qwen3-bf16", "llama3", "llama3-tied", "phi3", "xlmr", "bert"):
    folder = run(model + "-lora", model, *(["--rslora"] if model == "llama3" else []))
    base, _ = load(os.path.join(MODELS, model))
    before = logits(base, torch.tensor([[7, 11, 13, 17, 19, 23, 29, 31]]))
    m = peft.PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), torch_dtype=torch.float32).eval()
    ids = torch.tensor([[7, 11, 13, 17, 19, 23, 29, 31]])
    adapted = logits(m, ids)
    check(float((adapted - before).abs().max()) > 1e-3, model + ": the adapter does something")
    merged, clean = load(os.path.join(folder, "merged"))
    check(clean, model + ": merged/ has every tensor and no other")
    close(model + ": merged/ against PEFT", logits(merged, ids), adapted, 1e-2 if "bf16" in model else 1e-4)
    if model not in ("xlmr", "bert"):
        ours(model + ": merged/", os.path.join(folder, "merged"), merged)
    folder = run(model + "-full", model, "--method", "full", "--lr", "0.002")
    full, clean = load(folder)
    check(clean, model + ": full has every tensor and no other")
    if model not in ("xlmr", "bert"):
        ours(model + ": full", folder, full)
# latent rows beside LoRA: PEFT's trainable tokens
for model in ("qwen3", "qwen2", "llama3", "llama3-tied", "phi3"):
    dual = os.path.join(out, "dual-" + model)
    subprocess.run([os.path.join(os.path.dirname(train), "dualize"), "-q", "-m", os.path.join(MODELS, model), "--think-missing", "add", "-o", dual],
                   check=True)
    folder = run("rows-" + model, dual, "--train-rows", "latent")
    base, _ = load(dual)
    first = json.load(open(os.path.join(dual, "dual_vocab_meta.json")))["V"]
    visible = base.get_input_embeddings().weight[:first].clone()
    ids = torch.tensor([[7, 11, 13, first + 17, first + 19, 23, first + 29, 31]])
    before = logits(base, ids)
    m = peft.PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), torch_dtype=torch.float32).eval()
    adapted = logits(m, ids)
    check(float((adapted - before)[..., first:].abs().max()) > 1e-2, "rows of " + model + ": latent logits differ from the base's")
    merged, clean = load(os.path.join(folder, "merged"))
    check(clean, "rows of " + model + ": merged/ has every tensor and no other")
    check(torch.equal(merged.get_input_embeddings().weight[:first], visible), "rows of " + model + ": visible rows are the base's to the bit")
    close("rows of " + model + ": merged/ against PEFT", logits(merged, ids), adapted, 1e-4)
    close("rows of " + model + ": PEFT's own merge", logits(m.merge_and_unload(), ids), adapted, 1e-4)
    ours("rows of " + model + ": merged/", os.path.join(folder, "merged"), merged)
sys.exit(1 if bad else 0)
