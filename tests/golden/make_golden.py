#!/usr/bin/env python3
"""make_golden.py STAGE [NAME...] - makes the golden files beside it. See README.md."""
import sys

STAGES = ["decoders", "encoders", "llmlingua_ref", "train_ref", "text_ref", "random_ref", "hub_ref", "rope", "score"]

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in STAGES + ["all"]:
        sys.exit("usage: make_golden.py all|%s [NAME...]" % "|".join(STAGES))
    for stage in STAGES if sys.argv[1] == "all" else sys.argv[1:2]:
        __import__(stage).main(sys.argv[2:])
