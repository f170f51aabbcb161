"""Stage 2a: tiny token-classification encoders with logits and hidden states."""
import json
import os
import tempfile
import shutil
from collections import Counter

from common import MODELS, SEED, data_dir, fresh_dir, gsm8k, read_jsonl, save_tensors, seed_all, torch_setup, write_jsonl

PIECES = 1400           # entries of each cut vocabulary, special tokens included
STD = 0.2


def texts():
    d = data_dir()
    for r in read_jsonl(os.path.join(d, "real_cots.jsonl")):
        yield r["response_text"]
    for r in gsm8k()[:2000]:
        yield r["question"] + " " + r["answer"]
    for r in read_jsonl(os.path.join(d, "datasets", "math500", "test.jsonl")):
        yield r["problem"] + " " + r["solution"]


def genuine(folder):
    from tokenizers import Tokenizer
    path = os.path.join(data_dir(), "tokenizers", folder, "tokenizer.json")
    tok = Tokenizer.from_file(path)
    count = Counter()
    for enc in tok.encode_batch(list(texts()), add_special_tokens=False):
        count.update(enc.tokens)
    with open(path, encoding="utf-8") as f:
        return json.load(f), count


def cut_unigram():
    """Genuine charsmap and scores; pieces: ASCII characters, then what the corpus uses most."""
    j, count = genuine("xlmr-family-unigram")
    score = dict(j["model"]["vocab"])
    head = ["<s>", "<pad>", "</s>", "<unk>"]
    keep = {p for p in score if len(p) == 1 and p.isascii()} | {"\u2581"} | {"\u2581" + chr(c) for c in range(33, 127) if "\u2581" + chr(c) in score}
    for p, _ in sorted(count.items(), key=lambda x: (-x[1], x[0])):
        if len(keep) >= PIECES - 5:
            break
        if p in score and p not in head and p != "<mask>":
            keep.add(p)
    order = [p for p, _ in j["model"]["vocab"] if p in keep]        # genuine order: by score
    vocab = [[p, score[p]] for p in head + order + ["<mask>"]]
    j["model"]["vocab"] = vocab
    j["added_tokens"] = [dict(a, id=i if i < 4 else len(vocab) - 1) for i, a in enumerate(j["added_tokens"])]
    return j


def cut_wordpiece():
    j, count = genuine("mbert-cased")
    old = j["model"]["vocab"]
    head = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    keep = {p for p in old if len(p.removeprefix("##")) == 1 and p.isascii()} | {"##"}
    for p, _ in sorted(count.items(), key=lambda x: (-x[1], x[0])):
        if len(keep) >= PIECES - 5:
            break
        if p in old and p not in head:
            keep.add(p)
    order = sorted((p for p in keep if p in old), key=old.get)
    vocab = {p: i for i, p in enumerate(head + order)}
    j["model"] = {"type": "WordPiece", **{k: v for k, v in j["model"].items() if k not in ("type", "vocab")}, "vocab": vocab}
    j["added_tokens"] = [dict(a, id=vocab[a["content"]]) for a in j["added_tokens"]]
    for name, s in j["post_processor"]["special_tokens"].items():
        s["ids"] = [vocab[name]]
    return j


def config(kind, pieces):
    c = {"attention_probs_dropout_prob": 0.1, "classifier_dropout": None, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
         "hidden_size": 32, "initializer_range": STD, "intermediate_size": 64, "num_attention_heads": 4,
         "num_hidden_layers": 2, "position_embedding_type": "absolute", "torch_dtype": "float32",
         "transformers_version": "4.57.6", "use_cache": True,
         "vocab_size": pieces + 100}        # room for the 100 [NEWi] tokens that LLMLingua adds, as in the real files
    if kind == "xlmr":
        c.update(architectures=["XLMRobertaForTokenClassification"], model_type="xlm-roberta", bos_token_id=0,
                 eos_token_id=2, pad_token_id=1, layer_norm_eps=1e-5, max_position_embeddings=514, type_vocab_size=1,
                 output_past=True)
    else:
        c.update(architectures=["BertForTokenClassification"], model_type="bert", pad_token_id=0, layer_norm_eps=1e-12,
                 max_position_embeddings=512, type_vocab_size=2)
    return dict(sorted(c.items()))


def tok_config(kind):
    if kind == "xlmr":
        return {"bos_token": "<s>", "clean_up_tokenization_spaces": True, "cls_token": "<s>", "eos_token": "</s>",
                "mask_token": "<mask>", "model_max_length": 512, "pad_token": "<pad>", "sep_token": "</s>",
                "tokenizer_class": "XLMRobertaTokenizer", "unk_token": "<unk>"}
    return {"clean_up_tokenization_spaces": True, "cls_token": "[CLS]", "do_lower_case": False, "mask_token": "[MASK]",
            "model_max_length": 512, "pad_token": "[PAD]", "sep_token": "[SEP]", "strip_accents": None,
            "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer", "unk_token": "[UNK]"}


def build(cfg, seed):
    """transformers' own init at std STD; then biases, norms and the pad row moved off their constants."""
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification
    seed_all(seed)
    conf = AutoConfig.for_model(**{k: v for k, v in cfg.items() if k not in ("torch_dtype", "architectures")})
    m = AutoModelForTokenClassification.from_config(conf, attn_implementation="eager")
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(m.named_parameters()):
            if name.endswith("LayerNorm.weight"):
                p.copy_(1 + torch.randn(p.shape, generator=g) * 0.2)
            elif name.endswith(".bias"):
                p.copy_(torch.randn(p.shape, generator=g) * STD)
            elif name.endswith("word_embeddings.weight"):
                p[conf.pad_token_id] = torch.randn(p.shape[1], generator=g) * STD
    return m.eval()


def main(names):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForTokenClassification
    torch_setup()
    for kind, cut in (("xlmr", cut_unigram), ("bert", cut_wordpiece)):
        if names and kind not in names:
            continue
        path = fresh_dir(os.path.join(MODELS, kind))
        j = cut()
        n = len(j["model"]["vocab"])
        cfg = config(kind, n)
        with open(os.path.join(path, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(j, f, ensure_ascii=False, separators=(",", ":"))
        for name, obj in (("config.json", cfg), ("tokenizer_config.json", tok_config(kind))):
            with open(os.path.join(path, name), "w") as f:
                json.dump(obj, f, indent=2)
                f.write("\n")
        with tempfile.TemporaryDirectory() as tmp:
            build(cfg, SEED + len(kind)).save_pretrained(tmp)
            shutil.copyfile(os.path.join(tmp, "model.safetensors"), os.path.join(path, "model.safetensors"))
        model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        tok = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
        pad = cfg["pad_token_id"]
        rows, tensors = [], {}
        for k, (i, length) in enumerate(((0, 3), (5, 20), (9, 70))):
            r = gsm8k("test")[i]
            rows.append(tok.encode(r["question"] + " " + r["answer"]).ids[:length - 1] + [2 if kind == "xlmr" else 3])
            with torch.no_grad():
                o = model(input_ids=torch.tensor([rows[-1]]), output_hidden_states=True)
            tensors["ids.%d" % k] = torch.tensor(rows[-1])
            tensors["logits.%d" % k] = o.logits[0]
            for layer, h in enumerate(o.hidden_states):
                tensors["hidden.%d.%d" % (k, layer)] = h[0]
        width = max(map(len, rows))
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        with torch.no_grad():
            tensors["logits.batch"] = model(input_ids=ids, attention_mask=mask).logits
        tensors["ids.batch"], tensors["mask.batch"] = ids, mask
        for k, r in enumerate(rows):
            print(kind, len(r), "padded - alone:", float((tensors["logits.batch"][k, :len(r)] - tensors["logits.%d" % k]).abs().max()))
        p = torch.softmax(tensors["logits.2"], -1)[:, 1]
        print(kind, "pieces", n, "keep probability quantiles", [round(float(q), 3) for q in torch.quantile(p, torch.tensor([0., .1, .5, .9, 1.]))], flush=True)
        save_tensors(os.path.join(path, "golden", "logits.safetensors"), tensors)
