#!/usr/bin/env python3
"""device_peer.py: transformers and PEFT on the first CUDA device, with random weights of Qwen3-4B's shape in bf16: what the
timings of device_bench (decode, prefill, train) are held against. Prints one line a measurement."""
import os
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import peft
import torch
import transformers

config = transformers.Qwen3Config(
    hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
    head_dim=128, vocab_size=151936, max_position_embeddings=4096, tie_word_embeddings=True)
with torch.device("cuda"):
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
print("# transformers %s, peft %s, torch %s, %s" % (
    transformers.__version__, peft.__version__, torch.__version__, torch.cuda.get_device_name()))


def timed(what, tokens, run):
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    print("%-44s %9.1f ms %10.0f tokens/s" % ("peer " + what, 1e3 * seconds, tokens / seconds), flush=True)


def ids(rows, length):
    return torch.randint(config.vocab_size, (rows, length), device="cuda")


with torch.inference_mode():
    for batch in (1, 32):
        prompt = ids(batch, 150)
        timed("generate, %d x (150 + 64 new)" % batch, batch * 64, lambda: model.generate(
            prompt, max_new_tokens=64, min_new_tokens=64, do_sample=True, top_k=20, top_p=0.95))
    prompt = ids(16, 256)
    timed("prefill, 16 x 256", 16 * 256, lambda: model(prompt, logits_to_keep=1))

model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")).train()
model.config.use_cache = False
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
rows = ids(4, 700)


def step():
    optimizer.zero_grad(set_to_none=True)
    model(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()


timed("LoRA step, 4 x 700", 4 * 700, step)
