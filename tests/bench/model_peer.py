"""model_peer.py DIR THREADS - transformers' figure for model_bench: 512 tokens of the same checkpoint, fp32, logits of all rows."""
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from transformers import AutoModelForCausalLM

torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
ids = torch.tensor([[i * 2654435761 % 2**32 % model.config.vocab_size for i in range(512)]])
best = 1e9
with torch.inference_mode():
    for _ in range(20):
        t = time.perf_counter()
        model(ids, use_cache=False)
        best = min(best, time.perf_counter() - t)
print("peer\t%s\ttransformers %s, torch %s\t%s threads\t512 tokens\t%.0f tokens/s" % (
    os.path.basename(sys.argv[1]), transformers.__version__, torch.__version__, sys.argv[2], 512 / best))
