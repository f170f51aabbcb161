"""Stage: the reference's quality score (sums over regions) and plain completions, with transformers in fp32."""
import json
import os

from common import MODELS, fresh_dir, torch_setup, write_jsonl

HERE = os.path.dirname(os.path.abspath(__file__))
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
ROWS = [
    {"source_id": "gsm8k_train_7_s3", "question": "A pen costs 3 dollars. What do 12 pens cost?", "answer": "36",
     "compressed_reasoning": "12 pens, 3 dollars each: 36", "compression_ratio": 0.5},
    {"source_id": "math_train_1_s0", "question": "Half of a half?", "answer": "\\frac{1}{4}",
     "compressed_reasoning": "half × half → quarter", "compression_ratio": 1.0},
    {"source_id": "math_s_2_s11", "question": "Sum of 1 and 2, in words?", "answer": "three", "reasoning": "1 + 2 = 3\n\nthree"},
    {"prompt": "The pen is on ", "completion": "the table. So \\boxed{x{y}} it is."},
    {"source_id": "plain", "prompt": "One and one is", "completion": " two."},
]


def regions(text, answer):
    box = text.rfind("\\boxed{")
    a0 = box + 7
    end = text.rfind("</think>")
    return {"answer": (a0, a0 + len(answer)), "boxed": (box, a0 + len(answer) + 1), "post_cot": (end, a0 + len(answer) + 2)}


def token_scores(model, ids):
    import torch
    with torch.no_grad():
        z = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    lp = [None] + [float(z[t - 1, ids[t]]) for t in range(1, len(ids))]
    en = [None] + [float(-(z[t - 1].exp() * z[t - 1]).sum()) for t in range(1, len(ids))]
    return lp, en


def score(model, tok, row, delimiter):
    if "prompt" in row:
        text, want = row["prompt"] + row["completion"], {}
        spans = {"completion": (len(row["prompt"]), len(text))}
        if "\\boxed{" in text:
            at = text.rfind("\\boxed{")
            spans.update(answer=(at + 7, at + 11), boxed=(at, at + 12))      # x{y}
    else:
        ratio = row.get("compression_ratio", 1.0) if "compressed_reasoning" in row else 1.0
        suffix = "" if ratio == 1.0 else "%s%g%s" % (delimiter, ratio, delimiter)
        cot = row.get("compressed_reasoning", row.get("reasoning"))
        turns = [{"role": "system", "content": "You are a helpful assistant."},
                 {"role": "user", "content": INSTRUCTION + "\n" + row["question"] + suffix}]
        said = cot + "\n\n</think>\n\nThe final answer is: $\\boxed{" + row["answer"] + "}$"
        prompt = tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        text = tok.apply_chat_template(turns + [{"role": "assistant", "content": said}], tokenize=False)
        assert text.startswith(prompt)
        spans, want = dict(regions(text, row["answer"]), completion=(len(prompt), len(text))), {}
    enc = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = enc["input_ids"], enc["offset_mapping"]
    lp, en = token_scores(model, ids)
    want["input_token_count"] = len(ids)
    for name, (a, b) in spans.items():
        inside = [t for t, (s, e) in enumerate(offsets) if t >= 1 and e > s and s < b and e > a]
        key = "logprob" if name == "completion" else "logprob_" + name
        want[key] = round(sum(lp[t] for t in inside), 5)
        want["num_tokens" if name == "completion" else "num_%s_tokens" % name] = len(inside)
        if name == "completion":
            want["entropy"] = round(sum(en[t] for t in inside) / len(inside), 5)
    return want


def main(_names=None):
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    torch_setup()
    out = fresh_dir(os.path.join(HERE, "score"))
    write_jsonl(os.path.join(out, "rows.jsonl"), ROWS)
    for name, delimiter in (("qwen3", "<|im_end|>"), ("qwen2", "<|im_end|>"), ("llama3", "<|eot_id|>")):
        path = os.path.join(MODELS, name)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        tok = PreTrainedTokenizerFast.from_pretrained(path)
        write_jsonl(os.path.join(out, name + ".jsonl"), [score(model, tok, r, delimiter) for r in ROWS])


if __name__ == "__main__":
    main()
