"""What every stage of make_golden.py shares: paths, seeds, small writers."""
import hashlib
import json
import os
import random
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "models")
SEED = 20250


def data_dir():
    """The shared data folder: $LATENT_SHARED_DATA, else shared/data beside the repository or one level up."""
    env = os.environ.get("LATENT_SHARED_DATA")
    repo = os.path.dirname(os.path.dirname(HERE))
    for d in [env, os.path.join(repo, "shared", "data"), os.path.join(os.path.dirname(repo), "shared", "data")]:
        if d and os.path.isdir(d):
            return d
    sys.exit("make_golden: set LATENT_SHARED_DATA to the shared data folder")


def seed_all(seed):
    import numpy as np
    import torch
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def torch_setup():
    import torch
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)


def fresh_dir(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_json(path, obj, indent=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(obj, f, ensure_ascii=False, indent=indent, **({} if indent else {"separators": (",", ":")}))
        f.write("\n")


def write_jsonl(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        for r in rows:
            f.write(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n")


def sha256(b):
    if isinstance(b, str):
        b = b.encode("utf-8")
    return hashlib.sha256(b).hexdigest()


def sha256_file(path):
    with open(path, "rb") as f:
        return sha256(f.read())


def save_tensors(path, tensors, metadata=None):
    """Writes torch tensors as safetensors. The file is a function of names and values only."""
    from safetensors.torch import save_file
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path,
              metadata=dict({"format": "pt"}, **(metadata or {})))


def gsm8k(split="train"):
    return read_jsonl(os.path.join(data_dir(), "datasets", "gsm8k", split + ".jsonl"))
