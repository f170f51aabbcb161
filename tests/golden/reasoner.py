"""Greedy texts of the embedded reasoner, a trained model, as transformers writes them:

    bin/dataset arith --split test --limit 24 > tests/golden/reasoner/questions.jsonl
    python tests/golden/reasoner.py [data/models/reasoner]

float32 on the CPU from the stored weights, of the first 8 questions whose text is clear: it ends, and at every step the
two highest logits are at least 0.0005 apart, so that no rounding decides. Made again whenever the model is: `model` is
the sha256 of model.safetensors.
"""
import hashlib
import json
import os
import sys

from common import HERE, torch_setup

torch_setup()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CASES = 8
MOST = 400
SYSTEM = "You are a helpful assistant."
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}.\n"


def main(model_dir):
    out = os.path.join(HERE, "reasoner")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, torch_dtype=torch.float32, attn_implementation="eager").eval()
    stops = model.generation_config.eos_token_id
    digest = hashlib.sha256(open(os.path.join(model_dir, "model.safetensors"), "rb").read()).hexdigest()
    rows = []
    for line in open(os.path.join(out, "questions.jsonl"), encoding="utf-8"):
        q = json.loads(line)
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": INSTRUCTION + q["question"]}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            made = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                                  do_sample=False, max_new_tokens=MOST, pad_token_id=stops[-1])[0].tolist()
            logits = model(torch.tensor([made])).logits[0, len(prompt) - 1:-1]
        ids = made[len(prompt):]
        top = logits.topk(2).values
        margin = float((top[:, 0] - top[:, 1]).min())
        if ids[-1] not in stops or ids != logits.argmax(-1).tolist() or margin < 5e-4:
            print("%s: no clear greedy text (margin %g)" % (q["source_id"], margin))
            continue
        rows.append({"source_id": q["source_id"], "ids": prompt, "out": ids, "min_margin": round(margin, 6),
                     "text": tokenizer.decode(ids, skip_special_tokens=True), "model": digest})
        if len(rows) == CASES:
            break
    with open(os.path.join(out, "greedy.jsonl"), "w", encoding="utf-8") as f:
        for r in rows:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(HERE)), "data/models/reasoner"))
