"""decode_peer.py DIR THREADS BATCH PROMPT NEW - transformers' figure for decode_bench: generate() at temperature 0.7, fp32,
the same checkpoint. The steps behind the first ten count: the time of NEW - 10 tokens less that of 10, each the best of three."""
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers

where, (threads, batch, prompt, new) = sys.argv[1], map(int, sys.argv[2:6])
torch.set_num_threads(threads)
torch.manual_seed(1)
model = transformers.AutoModelForCausalLM.from_pretrained(where, torch_dtype=torch.float32).eval()
model.generation_config.eos_token_id = None
ids = torch.tensor([[3 + (7 * i + k) % 1000 for i in range(prompt)] for k in range(batch)])


def best(tokens):
    times = []
    for _ in range(3):
        t = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.7, top_k=0, max_new_tokens=tokens,
                             pad_token_id=0)
        times.append(time.perf_counter() - t)
        assert out.shape == (batch, prompt + tokens)
    return min(times)


with torch.inference_mode():
    best(2)
    seconds = best(new - 10) - best(10)
print("peer\ttransformers %s, torch %s\t%d threads\tbatch %d\t%.0f tokens/s" % (
    transformers.__version__, torch.__version__, threads, batch, batch * (new - 20) / seconds))
