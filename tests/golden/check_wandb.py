#!/usr/bin/env python3
"""check_wandb.py REPORT FOLDER [OLD]: has the program REPORT export made-up results and training logs below FOLDER, and has W&B's own
package read the runs: `wandb sync`, as users call it, uploads them to a server on 127.0.0.1 that stands in for wandb.ai. What
arrives there (history, summary, config, exit code, files) is compared with what went in. Then every record is parsed by W&B's
schema: no unknown field; and with OLD, a folder that holds an unpacked wandb before 0.22 (pip download --no-deps wandb==0.19.11, unzip),
also by the reader in Python that it still had. The last outcome is in wandb/check_wandb.txt."""
import glob
import hashlib
import http.server
import json
import math
import os
import re
import struct
import subprocess
import sys
import threading

import numpy
import wandb
from wandb.proto import wandb_internal_pb2 as pb

sys.argv[1:] = map(os.path.abspath, sys.argv[1:])
report, out = sys.argv[1:3]
os.makedirs(out, exist_ok=True)
os.chdir(out)
bad = 0


def check(ok, what):
    global bad
    print(("ok    " if ok else "WRONG ") + what)
    bad += not ok


# ---- what goes in ----

def write(name, lines):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as f:
        f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in lines)


def rows(ratio, n):
    """n samples whose lengths and verdicts follow from their numbers; every 7th has no answer, every 5th is cut."""
    for i in range(n):
        think = int((20 + i * i % 97) * ratio)
        ok = (i * 7919) % 10 < 4 + 4 * ratio and i % 7 > 0
        yield {"benchmark": "math", "source_id": "math_test_%d" % i, "sample_index": 0, "question": "¿%d? " % i + "q" * (i % 3 * 400),
               "gold_answer": str(i), "compression_ratio": ratio, "prompt_format": "tokenskip",
               "response_text": "<think>\nstep %d \"é\"\n</think>\n\nIt is \\boxed{%d}." % (i, i), "reasoning": "step %d \"é\"" % i,
               "extracted": None if i % 7 == 0 else str(i), "is_correct": ok, "num_tokens": think + 9, "think_tokens": think,
               "finish_reason": "length" if i % 5 == 0 else "stop"}


def log(steps):
    """More than the 32 KiB of a block, several times."""
    for s in range(1, steps + 1):
        yield {"step": s, "epoch": s / 100, "loss": 3 * math.exp(-s / 90) + 1e-7 * s, "grad_norm": 1 / s, "learning_rate": 1e-3 / s,
               "tokens": 512 * s, "tokens_per_second": 1024.0, "memory": 10 ** 8 + s}
        if s % 50 == 0:
            yield {"step": s, "epoch": s / 100, "eval_loss": 3 * math.exp(-s / 90) + 0.1}


sets = {1.0: list(rows(1.0, 40)), 0.5: list(rows(0.5, 30))}
for r, lines in sets.items():
    write("math_eval_ratio_%g.jsonl" % r, lines)
steps = list(log(300))
write("model/metrics.jsonl", steps)
subprocess.run([report, "-q", "--wandb", ".", "--project", "check", "--run-name", "x", "math_eval_ratio_1.jsonl", "math_eval_ratio_0.5.jsonl",
                "model/metrics.jsonl", "-o", "table.txt"], check=True, env={**os.environ, "LATENT_RUNS": os.path.join(out, "log")})
folders = sorted(glob.glob("wandb/offline-run-*"))
check(len(folders) == 3, "three runs: two ratios and a training")


# ---- the server ----

runs = {}  # by run id: config, name, history lines, summary, exit code, files


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def answer(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        n = self.headers.get("Content-Length")
        data = self.rfile.read(int(n)) if n else b""
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip
            data = gzip.decompress(data)
        return data

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        _, _, run, name = self.path.split("/", 3)
        runs[run]["files"][name] = self.body()
        self.answer({})

    def do_POST(self):
        data = json.loads(self.body() or b"{}")
        if self.path.startswith("/graphql"):
            return self.answer({"data": self.graphql(data.get("query", ""), data.get("variables") or {})})
        stream = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            r = runs[stream.group(1)]
            for name, part in (data.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    r["history"][part["offset"]:] = [json.loads(x) for x in part["content"]]
                elif name == "wandb-summary.json":
                    r["summary"].update(json.loads(part["content"][-1]))
            if data.get("complete"):
                r["exit"] = data["exitcode"]
        self.answer({})

    def graphql(self, query, v):
        op = re.search(r"(?:query|mutation)\s+(\w+)", query)
        op = op.group(1) if op else ""
        if op == "UpsertBucket":
            r = runs.setdefault(v["name"], {"history": [], "summary": {}, "files": {}, "exit": None})
            r.update({k: v[k] for k in ("displayName", "groupName", "jobType", "project") if v.get(k)})
            if v.get("config"):
                r["config"] = json.loads(v["config"])
            return {"upsertBucket": {"inserted": True, "bucket": {
                "id": v["name"], "name": v["name"], "displayName": v.get("displayName"), "description": "", "config": v.get("config"),
                "sweepName": None, "historyLineCount": 0, "project": {"id": "p", "name": v.get("project"), "entity": {"id": "e", "name": "someone"}}}}}
        if op == "CreateRunFiles":
            base = "http://127.0.0.1:%d/up/%s/" % (self.server.server_port, v["run"])
            return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": [{"name": f, "uploadUrl": base + f} for f in v["files"]]}}
        if op == "Viewer":
            return {"viewer": {"id": "u", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}}
        return {}


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *a):  # wandb's process ends with connections open
        pass


server = Quiet(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = os.path.join(out, "home")
os.makedirs(home, exist_ok=True)
env = {**os.environ, "HOME": home, "WANDB_BASE_URL": "http://127.0.0.1:%d" % server.server_port, "WANDB_API_KEY": "0" * 40,
       "WANDB_ENTITY": "someone", "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": home}
for k in [k for k in env if k.lower().endswith("_proxy")]:
    del env[k]
done = subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], env=env, capture_output=True, text=True, timeout=300)
check(done.returncode == 0, "wandb %s sync exits 0" % wandb.__version__)
if done.returncode or not runs:
    print(done.stdout + done.stderr)


# ---- what came out ----

by_name = {r.get("displayName"): (k, r) for k, r in runs.items()}
check(set(by_name) == {"x_math_ratio1", "x_math_ratio0.5", "x_model"}, "names: %s" % sorted(map(str, by_name)))
for ratio, lines in sets.items():
    name = "x_math_ratio%g" % ratio
    if name not in by_name:
        continue
    run, r = by_name[name]
    h = r["history"][0] if r["history"] else {}
    right = [x for x in lines if x["is_correct"]]
    n = len(lines)
    want = {"eval/accuracy": len(right) / n, "eval/num_correct": len(right), "eval/num_samples": n,
            "eval/avg_tokens": sum(x["num_tokens"] for x in lines) / n, "eval/avg_thinking_tokens": sum(x["think_tokens"] for x in lines) / n,
            "eval/avg_tokens_correct": sum(x["num_tokens"] for x in right) / len(right),
            "eval/truncated": sum(x["finish_reason"] == "length" for x in lines) / n, "eval/unanswered": sum(x["extracted"] is None for x in lines) / n}
    check(len(r["history"]) == 1 and all(h.get(k) == v for k, v in want.items()), "%s: %d scalars" % (name, len(want)))
    counts, edges = numpy.histogram([x["think_tokens"] for x in lines], bins=64)
    hist = h.get("eval/thinking_length_distribution", {})
    check(hist.get("values") == counts.tolist() and numpy.allclose(hist.get("bins"), edges, rtol=1e-15), "%s: histogram is numpy's" % name)
    c = {k: v.get("value") for k, v in r["config"].items()}
    check((c.get("benchmark"), c.get("compression_ratio"), c.get("num_samples"), c.get("tokenskip_prompt")) == ("math", ratio, n, True), "%s: config" % name)
    t = h.get("eval/sample_cots", {})
    raw = r["files"].get(t.get("path", ""), b"")
    check(hashlib.sha256(raw).hexdigest() == t.get("sha256") and len(raw) == t.get("size"), "%s: the table's file arrived whole" % name)
    table = json.loads(raw or b"{}")
    want = [[x["source_id"], x["question"][:500], x["gold_answer"], x["reasoning"], x["response_text"].split("</think>")[1].strip(),
             x["extracted"], x["is_correct"], x["think_tokens"], x["num_tokens"]] for x in lines[:20]]
    check(table.get("data") == want and table["columns"][4] == "answer_part" and t.get("nrows") == 20, "%s: table of 20 samples" % name)
    check(r["exit"] == 0 and r.get("groupName") == "math" and r.get("jobType") == "eval" and r.get("project") == "check", "%s: exit code, group, type, project" % name)
    check(r["summary"].get("eval/accuracy") == len(right) / n, "%s: summary" % name)
if "x_model" in by_name:
    r = by_name["x_model"][1]
    names = {"step": "train/global_step", "eval_loss": "eval/loss"}
    want = [{names.get(k, "train/" + k): v for k, v in x.items()} for x in steps]
    got = [{k: v for k, v in x.items() if not k.startswith("_")} for x in r["history"]]
    check(len(got) == len(want) and all(all(g.get(k) == v for k, v in w.items()) for g, w in zip(got, want)), "x_model: %d rows of history, every value" % len(want))
    check([x["_step"] for x in r["history"]] == list(range(len(steps))), "x_model: _step counts")
    check(abs(r["history"][-1]["_runtime"] - 150) < 1e-9, "x_model: _runtime is tokens over speed")
    check(r["summary"].get("train/loss") == steps[-2]["loss"] and r["summary"].get("eval/loss") == steps[-1]["eval_loss"], "x_model: summary has the last losses")
    metrics = r["config"].get("_wandb", {}).get("value", {}).get("m", [])
    check(any("train/global_step" in str(m) for m in metrics) and len(metrics) == 9, "x_model: 9 metrics, curves over train/global_step")
    check(r["exit"] == 0, "x_model: exit code")

# ---- the schema ----

for f in sorted(glob.glob("wandb/offline-run-*/*.wandb")):
    data = open(f, "rb").read()
    pos, part, n, exact = 7, b"", 0, True
    while pos < len(data):
        left = 32768 - pos % 32768
        if left < 7:
            pos += left
            continue
        _, size, kind = struct.unpack("<IHB", data[pos:pos + 7])
        body = data[pos + 7:pos + 7 + size]
        part = body if kind in (1, 2) else part + body
        pos += 7 + size
        if kind in (1, 4):
            r = pb.Record.FromString(part)
            n += 1
            again = r.SerializeToString(deterministic=True)
            r.DiscardUnknownFields()
            exact &= r.num == n and r.SerializeToString(deterministic=True) == again and len(again) == len(part)
    check(exact and n > 0, "every record is W&B's to the byte, nothing unknown in it")
if len(sys.argv) > 3:
    scan = """if 1:
    import importlib.util, sys, wandb
    wandb._assert_is_internal_process = lambda *a: None
    spec = importlib.util.spec_from_file_location("datastore", sys.argv[1] + "/wandb/sdk/internal/datastore.py")
    store = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(store)  # the rest of the package is today's: its messages need today's protobuf
    from wandb.proto import wandb_internal_pb2 as pb
    for f in sys.argv[2:]:
        d, n = store.DataStore(), 0
        d.open_for_scan(f)
        while (raw := d.scan_data()) is not None:
            n += 1
            assert pb.Record.FromString(raw).num == n
        print(n)
    """
    files = sorted(glob.glob("wandb/offline-run-*/*.wandb"))
    got = subprocess.run([sys.executable, "-c", scan, sys.argv[3], *files], env=env, capture_output=True, text=True)
    counts = got.stdout.split()
    check(got.returncode == 0 and not got.stderr and len(counts) == 3, "the old reader in Python: %s records" % ", ".join(counts) if counts else got.stderr)
sys.exit(1 if bad else 0)
