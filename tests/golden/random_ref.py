"""Stage 5a: draws of CPython's and numpy's generators that the reference pipelines make."""
import os
import random

from common import HERE, write_jsonl


def main(names):
    import numpy as np
    out = []
    for seed in (42, 0, 1, 2**32 + 5):
        r = random.Random(seed)
        out.append({"what": "getrandbits32", "seed": seed, "out": [r.getrandbits(32) for _ in range(16)]})
        r = random.Random(seed)
        out.append({"what": "random", "seed": seed, "out": [r.random() for _ in range(8)]})
        for n in (1, 2, 3, 5, 6, 100, 2**31 + 1):
            r = random.Random(seed)
            out.append({"what": "choice", "seed": seed, "n": n, "out": [r.choice(range(n)) for _ in range(40)]})
        for n, k in ((128, 8), (8, 8), (21, 5), (22, 5), (1000, 8), (100, 60)):     # small and large pools take different paths
            r = random.Random(seed)
            out.append({"what": "sample", "seed": seed, "n": n, "k": k, "out": [r.sample(range(n), k) for _ in range(3)]})
        for n in (2, 10, 33):
            r = random.Random(seed)
            xs = list(range(n))
            r.shuffle(xs)
            out.append({"what": "shuffle", "seed": seed, "n": n, "out": xs})
    for seed in (42, 0, 12345):
        for n in (1, 2, 7, 20, 100, 257):
            out.append({"what": "numpy.default_rng.permutation", "seed": seed, "n": n, "out": np.random.default_rng(seed).permutation(n).tolist()})
    for n in (7473, 100000):            # long ones by their ends and a checksum sum(i * out[i]) mod 2^64
        p = np.random.default_rng(42).permutation(n).tolist()
        out.append({"what": "numpy.default_rng.permutation", "seed": 42, "n": n, "first": p[:32], "last": p[-8:],
                    "check": sum(i * x for i, x in enumerate(p)) % 2**64})
    write_jsonl(os.path.join(HERE, "random.jsonl"), out)
    print(len(out), "vectors")
