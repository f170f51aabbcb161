"""The peer of text_bench: MB/s of the tokenizers package, one text a call and in batches, and a hash of all ids.
usage: peer_tokenizers.py FOLDER TEXTS.jsonl; exits 1 where the package is not installed."""
import json
import sys
import time

try:
    from tokenizers import Tokenizer
except ImportError:
    sys.exit(1)

texts = []
for line in open(sys.argv[2], encoding="utf-8"):
    row = json.loads(line)
    texts += [row["question"], row["answer"]]
size = sum(len(t.encode()) for t in texts)
tok = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tok.no_truncation()
tok.no_padding()
single = batch = 1e9
for _ in range(2):
    begin = time.process_time()
    for t in texts:
        tok.encode(t, add_special_tokens=False)
    single = min(single, time.process_time() - begin)
    begin = time.process_time()
    tok.encode_batch_fast(texts, add_special_tokens=False)
    batch = min(batch, time.process_time() - begin)
h = 0xcbf29ce484222325
for t in texts:
    for i in tok.encode(t, add_special_tokens=False).ids:
        h = ((h ^ i) * 0x100000001b3) & 0xffffffffffffffff
print("%f %f %x" % (size / single / 1e6, size / batch / 1e6, h))
