#!/usr/bin/env python3
"""check_ours.py KIND ARGS: loads what our programs wrote in the Python stack. Exit 0 if all is well, 1 if not.

  tokenizer OURS REFERENCE           two folders or tokenizer.json files: same ids, offsets and decoded text for the lines in text/
  model FOLDER [LOGITS.safetensors]  loads in transformers, nothing missing or unexpected; logits of each ids.K equal logits.K
  adapter FOLDER BASE [MERGED]       loads in PEFT on BASE, every adapter tensor used; logits.last6 or logits.K of MERGED after merging
  wandb DIR...                       offline-run folders: every record parses; prints counts and the last history line
Options: --atol X (1e-4), --rtol X (1e-4).
"""
import argparse
import glob
import json
import os
import sys

from common import HERE, MODELS  # noqa: F401  (sets the offline environment first)

bad = []


def check(ok, what):
    print(("ok    " if ok else "WRONG ") + what)
    if not ok:
        bad.append(what)


def close(got, want, o, what):
    import torch
    d = (got - want).abs()
    ok = got.shape == want.shape and bool((d <= o.atol + o.rtol * want.abs()).all()) and not bool(torch.isnan(d).any())
    check(ok, "%s: largest difference %.3g" % (what, float(d.max())))


def tokenizer(o):
    import text_ref
    from tokenizers import Tokenizer
    a, b = [Tokenizer.from_file(os.path.join(p, "tokenizer.json") if os.path.isdir(p) else p) for p in o.args]
    with open(os.path.join(HERE, "text", "lines.jsonl"), encoding="utf-8") as f:
        specs = [json.loads(x) for x in f]
    try:
        texts = list(text_ref.expand(specs))
    except (OSError, SystemExit):
        print("shared data not here: lines that are in lines.jsonl only")
        texts = list(text_ref.expand([s for s in specs if "file" not in s]))
    wrong = [i for i, t in enumerate(texts) if text_ref.line(a, t)[1] != text_ref.line(b, t)[1]]
    check(not wrong, "%d lines, %d differ %s" % (len(texts), len(wrong), wrong[:10]))
    va, vb = a.get_vocab(), b.get_vocab()
    more = sorted((set(va.items()) - set(vb.items())), key=lambda x: x[1])
    print("      only in ours: %d tokens %s" % (len(more), more[:8]))
    check(not set(vb.items()) - set(va.items()), "every token of the reference is there with its id")


def load_model(folder):
    import torch
    import transformers
    with open(os.path.join(folder, "config.json")) as f:
        arch = json.load(f)["architectures"][0]
    cls = transformers.AutoModelForTokenClassification if "TokenClass" in arch else transformers.AutoModelForCausalLM
    m, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for k in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check(not info[k], "%s: %s" % (k, sorted(map(str, info[k]))[:5]))
    return m.eval()


def compare(m, path, o):
    import torch
    from safetensors.torch import load_file
    t = load_file(path)
    for k in sorted(t):
        if k.split(".")[0] != "logits":
            continue
        which = k[7:]
        ids = t["ids" if which == "last6" else "ids." + which]
        kw = {"attention_mask": t["mask." + which]} if "mask." + which in t else {}
        with torch.no_grad():
            z = m(input_ids=ids if ids.ndim == 2 else ids[None], **kw).logits
        z = z if ids.ndim == 2 else z[0]
        if kw:
            on = kw["attention_mask"] == 1
            close(z[on], t[k][on], o, k)
        else:
            close(z[-6:] if which == "last6" else z, t[k], o, k)


def model(o):
    from transformers import AutoTokenizer, GenerationConfig
    folder = o.args[0]
    m = load_model(folder)
    try:
        tok = AutoTokenizer.from_pretrained(folder)
        check(len(tok) <= m.get_input_embeddings().weight.shape[0], "%s, %d tokens, %d rows" % (type(tok).__name__, len(tok), m.get_input_embeddings().weight.shape[0]))
        if tok.chat_template:
            print("      " + repr(tok.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)))
        if m.can_generate():
            print("      stop ids", GenerationConfig.from_pretrained(folder).eos_token_id)
    except Exception as e:  # noqa: BLE001  (any failure to load is the finding)
        check(False, "tokenizer or generation config: %s" % e)
    for path in o.args[1:]:
        compare(m, path, o)


def adapter(o):
    import torch
    from peft import PeftModel
    from safetensors import safe_open
    folder, base = o.args[:2]
    m = PeftModel.from_pretrained(load_model(base), folder).eval()
    have = {}
    for n, p in m.named_parameters():
        have[n.replace(".default", "").replace(".modules_to_save", "")
             .replace("magnitude_vector.weight", "magnitude_vector")] = p
    f = os.path.join(folder, "adapter_model.safetensors")
    with safe_open(f, "pt") as h:
        for k in h.keys():
            t = h.get_tensor(k)
            if k not in have or not torch.equal(have[k].detach().float(), t.float()):
                check(False, "%s is not in the loaded model as written" % k)
        named = set(h.keys())
    lost = [n for n in have if "lora_" in n and n not in named]
    check(not lost, "adapter tensors that the file lacks: %s" % lost[:5])
    merged = m.merge_and_unload()
    for path in o.args[2:]:
        compare(merged, path, o)


def leveldb_records(path):
    """Payloads of a .wandb file: 7-byte header, then blocks of 32 KiB with crc32c, length and type before each part."""
    import struct
    with open(path, "rb") as f:
        data = f.read()
    ident, magic, version = struct.unpack("<4sHB", data[:7])
    check((ident, magic, version) == (b":W&B", 0xBEE1, 0), "header %r %#x %d" % (ident, magic, version))
    pos, part = 7, b""
    while pos < len(data):
        left = 32768 - pos % 32768
        if left < 7:
            pos += left
            continue
        crc, n, kind = struct.unpack("<IHB", data[pos:pos + 7])
        body = data[pos + 7:pos + 7 + n]
        check_crc(crc, kind, body)
        pos += 7 + n
        part = body if kind in (1, 2) else part + body
        if kind in (1, 4):
            yield part


def check_crc(crc, kind, body):
    import zlib
    want = zlib.crc32(bytes([kind]) + body)     # a plain CRC-32, not LevelDB's masked CRC-32C
    if crc != want:
        check(False, "checksum %08x, expected %08x" % (crc, want))


def wandb(o):
    from collections import Counter
    from wandb.proto import wandb_internal_pb2 as pb
    for d in o.args:
        files = glob.glob(os.path.join(d, "*.wandb"))
        check(len(files) == 1, "%s: one .wandb file" % d)
        check(os.path.isdir(os.path.join(d, "files")), "%s: files/ exists" % d)
        count, last, summary, num = Counter(), None, {}, []
        for raw in leveldb_records(files[0]):
            r = pb.Record.FromString(raw)
            kind = r.WhichOneof("record_type")
            count[kind] += 1
            num.append(r.num)
            if kind == "history":
                last = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
            if kind == "summary":
                summary.update({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in r.summary.update})
        check(num == sorted(set(num)), "record numbers rise")
        check(count["run"] == 1 and count["exit"] <= 1, "one run record, at most one exit")
        print("      " + json.dumps({"records": count, "last": last, "summary": summary}))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=["tokenizer", "model", "adapter", "wandb"])
    p.add_argument("args", nargs="+")
    p.add_argument("--atol", type=float, default=1e-4)
    p.add_argument("--rtol", type=float, default=1e-4)
    o = p.parse_args()
    if {"tokenizer": 2, "adapter": 2}.get(o.kind, 1) > len(o.args):
        p.error("too few arguments for " + o.kind)
    globals()[o.kind](o)
    sys.exit(1 if bad else 0)
