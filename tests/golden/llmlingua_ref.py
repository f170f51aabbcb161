"""Stage 2b: the llmlingua package itself, run with the two tiny encoders."""
import hashlib
import os
import shutil
import tempfile

from common import HERE, MODELS, data_dir, fresh_dir, read_jsonl, sha256, torch_setup, write_jsonl

RATES = [0.1, 0.3, 0.5, 0.7, 0.9]
LLAMA3 = dict(force_tokens=["Step", ":"], force_reserve_digit=True, drop_consecutive=True)
FULL, FULL_FORCED, LABELS, FORCED = 20, 5, 5, 40
JOINED = [list(range(0, 4)), list(range(4, 12)), list(range(40, 60)), [7, 7]]
URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def reasoning(text):
    """Text before the first `</think>`, the whole text if there is none; white space stripped at both ends."""
    return text.split("</think>")[0].strip()


class Spy:
    """Stands for numpy inside the package; notes how near a word came to each threshold."""

    def __init__(self, np):
        self.np, self.gap, self.dtypes = np, float("inf"), set()

    def __getattr__(self, name):
        return getattr(self.np, name)

    def percentile(self, a, q):
        t = self.np.percentile(a, q)
        self.dtypes.add((str(self.np.asarray(a).dtype), str(self.np.asarray(t).dtype)))
        d = [abs(float(x) - float(t)) for x in a if float(x) != float(t)]
        self.gap = min([self.gap] + d)
        return t


def main(names):
    import numpy
    cache = tempfile.mkdtemp()
    shutil.copyfile(os.path.join(data_dir(), "tokenizers", "cl100k", "cl100k_base.tiktoken"),
                    os.path.join(cache, hashlib.sha1(URL.encode()).hexdigest()))
    os.environ["TIKTOKEN_CACHE_DIR"] = cache
    torch_setup()
    import llmlingua.prompt_compressor as pc
    cots = [reasoning(r["response_text"]) for r in read_jsonl(os.path.join(data_dir(), "real_cots.jsonl"))]
    inputs = [({"source": i}, t) for i, t in enumerate(cots)]
    inputs += [({"join": j}, "\n\n".join(cots[i] for i in j)) for j in JOINED]
    for kind, name in (("xlmr", "xlm-roberta-large-x"), ("bert", "bert-base-multilingual-cased-x")):
        if names and kind not in names:
            continue
        folder = os.path.join(cache, name)
        shutil.copytree(os.path.join(MODELS, kind), folder)
        c = pc.PromptCompressor(folder, use_llmlingua2=True, device_map="cpu")
        pc.np = spy = Spy(numpy)
        words_of = []
        merge = c._PromptCompressor__token_prob_to_word_prob
        c._PromptCompressor__token_prob_to_word_prob = lambda p, convert_mode="mean": words_of.append(merge(p, convert_mode)) or words_of[-1]
        raw_of = []
        group = c._PromptCompressor__merge_token_to_word

        def grouped(*a, **k):
            g = group(*a, **k)
            raw_of.extend(g[0])         # the package strips U+2581 later, in place of the list
            return g
        c._PromptCompressor__merge_token_to_word = grouped
        chunk_of = []
        chunk = c._PromptCompressor__chunk_context
        c._PromptCompressor__chunk_context = lambda *a, **k: chunk_of.append(chunk(*a, **k)) or chunk_of[-1]
        rows, full, labels, chunks = [], [], [], 0
        for n, (ref, text) in enumerate(inputs):
            for mode, extra in (("rate", {}), ("llama3", LLAMA3)):
                if mode == "llama3" and n >= FORCED and "join" not in ref:
                    continue
                row = dict(ref, args=mode, asked=RATES)
                outs = []
                for rate in RATES:
                    spy.gap = float("inf")
                    chunk_of.clear()
                    r = c.compress_prompt(text, rate=rate, **extra)
                    row.update(chunks=len(chunk_of[0]), origin_tokens=r["origin_tokens"])
                    outs.append(r["compressed_prompt"])
                    for key, v in (("compressed_tokens", r["compressed_tokens"]), ("rate", r["rate"]), ("ratio", r["ratio"]),
                                   ("sha256", sha256(outs[-1])[:16]), ("gap", float("%.2g" % spy.gap))):
                        row.setdefault(key, []).append(v)
                chunks = max(chunks, row["chunks"])
                rows.append(row)
                if n < (FULL if mode == "rate" else FULL_FORCED) or ref == {"join": JOINED[0]}:
                    full.append(dict(ref, args=mode, asked=RATES, compressed=outs))
            if n < LABELS or ref == {"join": JOINED[0]}:
                words_of.clear()
                raw_of.clear()
                r = c.compress_prompt(text, rate=0.5, return_word_label=True)
                pairs = [x.rsplit(" ", 1) for x in r["fn_labeled_original_prompt"].split("\t\t|\t\t")]
                probs = [float("%.9g" % p) for w in words_of for p in w]
                assert [p[0] for p in pairs] == [w.lstrip("\u2581") if kind == "xlmr" else w for w in raw_of] and len(pairs) == len(probs)
                labels.append(dict(ref, words=list(raw_of), labels=[int(p[1]) for p in pairs], probs=probs,
                                   words_in_chunk=[len(w) for w in words_of], chunk_texts=chunk_of[-1]))
        out = os.path.join(HERE, "llmlingua", kind)
        fresh_dir(out)
        write_jsonl(os.path.join(out, "results.jsonl"), rows)
        write_jsonl(os.path.join(out, "texts.jsonl"), full)
        write_jsonl(os.path.join(out, "words.jsonl"), labels)
        near = sorted(g for r in rows for g in r["gap"])
        print(kind, len(rows), "results, most chunks", chunks, "nearest word to a threshold", near[:5], "dtypes", spy.dtypes, flush=True)
    shutil.rmtree(cache)
