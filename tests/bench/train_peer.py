#!/usr/bin/env python3
"""train_peer.py DIR THREADS ROWS LENGTH STEPS full|lora: PyTorch (transformers, PEFT) on the steps of train_bench: the same
checkpoint and tokens, eager forward and backward, clipping, AdamW (foreach). Prints one line; the best
step counts, by the clock and by processor time divided by threads."""
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers

where, threads, rows, length, steps, method = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
torch.set_num_threads(threads)
m = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, attn_implementation="sdpa")
m.config.use_cache = False
if method == "lora":
    import peft
    m = peft.get_peft_model(m, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
m.train()
params = [p for p in m.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01)
vocab = m.config.vocab_size
ids = torch.tensor([(i * 2654435761 % 2**32) % vocab for i in range(rows * length)])
target = ids.roll(-1).view(rows, length)
ids = ids.view(rows, length)
best = busy = 1e9
for i in range(steps + 1):
    t, cpu = time.perf_counter(), time.process_time()
    opt.zero_grad(set_to_none=True)
    logits = m(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, vocab), target.reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    opt.step()
    if i:
        best = min(best, time.perf_counter() - t)
        busy = min(busy, (time.process_time() - cpu) / threads)
print("peer\t%s\ttransformers %s, torch %s\t%d threads\t%.0f tokens/s, %.0f by processor time\tloss %.6f" %
      (method, transformers.__version__, torch.__version__, threads, rows * length / best, rows * length / busy, loss.item()))
