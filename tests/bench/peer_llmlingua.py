"""The peer of compress_bench: seconds (CPU, one thread) the llmlingua package takes, and a hash of each compressed text.
usage: peer_llmlingua.py FOLDER TEXTS.jsonl CL100K OUT R...; FOLDER's name must hold "xlm-roberta-large", as the package
wants it. TEXTS has {"text"} a line. Exits 1 where the package is not installed."""
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time

try:
    import torch
    from llmlingua import PromptCompressor
except ImportError:
    sys.exit(1)

folder, texts, cl100k, out = sys.argv[1:5]
rates = [float(r) for r in sys.argv[5:]]
cache = tempfile.mkdtemp()
url = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
shutil.copyfile(cl100k, os.path.join(cache, hashlib.sha1(url.encode()).hexdigest()))
os.environ["TIKTOKEN_CACHE_DIR"] = cache
os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)
c = PromptCompressor(folder, use_llmlingua2=True, device_map="cpu")
texts = [json.loads(line)["text"] for line in open(texts, encoding="utf-8")]
c.compress_prompt(texts[0], rate=0.5)
begin = time.process_time()
results = [c.compress_prompt(t, rate=r)["compressed_prompt"] for r in rates for t in texts]
seconds = time.process_time() - begin
shutil.rmtree(cache)


def fnv(text):
    h = 0xcbf29ce484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return h


with open(out, "w") as f:
    for r in results:
        f.write("%x\n" % fnv(r))
print("%f" % seconds)
