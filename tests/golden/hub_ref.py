"""Stage 5b: the cache folder that huggingface_hub makes from a small server on this machine, and what it asked for."""
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading

from common import HERE, fresh_dir, sha256, write_jsonl

OUT = os.path.join(HERE, "hub")
COMMIT, PR = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
REPOS = {       # prefix of the URL, files; LFS ones are redirected to /cdn as the hub does
    "latent/tiny": {"config.json": b'{"model_type":"qwen3"}\n', "model.safetensors": bytes(range(256)) * 12, "empty.txt": b"",
                    "sub/dir/notes file.txt": b"a name with a blank, two folders down\n"},
    "datasets/latent/questions": {"main/train.jsonl": b'{"question":"1+1?","answer":"#### 2"}\n'},
}
LFS = ("safetensors",)
CLIENT = """
import sys
from huggingface_hub import snapshot_download, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
snapshot_download("latent/tiny", max_workers=1, token="hf_example")
hf_hub_download("latent/tiny", "config.json", revision="refs/pr/1", token=False)
try:
    hf_hub_download("latent/tiny", "chat_template.jinja", token=False)
except EntryNotFoundError:
    pass
hf_hub_download("latent/questions", "main/train.jsonl", repo_type="dataset", token=False)
hf_hub_download("latent/tiny", "sub/dir/notes file.txt", token=False)      # a second time: a HEAD only
"""


def etag(path, body):
    if path.endswith(LFS):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    log = []

    def log_message(self, *a):
        pass

    def answer(self, status, headers, body=b""):
        headers = dict(headers)
        headers.setdefault("Content-Length", str(len(body)))
        keep = ("Accept-Encoding", "Authorization", "Range")
        Hub.log.append({"method": self.command, "path": self.path, "request": {k: self.headers[k] for k in keep if self.headers[k]},
                        "status": status, "response": headers})
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        from urllib.parse import unquote
        path = self.path[1:].split("?")[0]
        for repo, files in REPOS.items():
            kind = "" if repo.startswith("datasets/") else "models/"
            if path.startswith("api/%s%s/revision/" % (kind, repo)):
                body = json.dumps({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}).encode()
                return self.answer(200, {"Content-Type": "application/json"}, body)
            if path.startswith(repo + "/resolve/"):
                rev, name = path[len(repo) + 9:].split("/", 1)
                name, commit = unquote(name), PR if "pr" in rev else COMMIT
                if name not in files:
                    return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit, "X-Error-Message": "Entry not found"})
                body = files[name]
                if name.endswith(LFS):
                    return self.answer(302, {"X-Repo-Commit": commit, "X-Linked-Etag": '"%s"' % etag(name, body), "X-Linked-Size": str(len(body)),
                                             "ETag": '"the-cdn-has-another"', "Location": "%s/cdn/%s" % (self.server.base, etag(name, body))})
                return self.answer(200, {"X-Repo-Commit": commit, "ETag": '"%s"' % etag(name, body), "Content-Type": "text/plain"}, body)
        for files in REPOS.values():
            for name, body in files.items():
                if path == "cdn/" + etag(name, body):
                    return self.answer(200, {"ETag": '"cdn"'}, body)
        self.answer(404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET


def main(names):
    fresh_dir(OUT)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.base = "http://127.0.0.1:%d" % server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        env.update(HF_ENDPOINT=server.base, HF_HOME=home, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        subprocess.run([sys.executable, "-c", CLIENT], env=env, check=True)
        server.shutdown()
        top = os.path.join(home, "hub")
        rows, tar = [], io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as t:
            for folder, dirs, files in sorted(os.walk(top)):
                dirs.sort()
                for f in sorted(dirs + files):
                    full = os.path.join(folder, f)
                    rel = os.path.relpath(full, top)
                    info = t.gettarinfo(full, rel)
                    info.mtime = info.uid = info.gid = 0
                    info.uname = info.gname = ""
                    if info.issym():
                        rows.append({"path": rel, "link": info.linkname})
                        t.addfile(info)
                    elif info.isdir():
                        rows.append({"path": rel, "dir": True})
                        t.addfile(info)
                    else:
                        with open(full, "rb") as h:
                            body = h.read()
                        rows.append({"path": rel, "bytes": len(body), "sha256": sha256(body)})
                        t.addfile(info, io.BytesIO(body))
    write_jsonl(os.path.join(OUT, "tree.jsonl"), sorted(rows, key=lambda r: r["path"]))
    log = json.loads(json.dumps(Hub.log).replace(server.base, "ENDPOINT"))
    write_jsonl(os.path.join(OUT, "requests.jsonl"), log)
    import zstandard
    with open(os.path.join(OUT, "cache.tar.zst"), "wb") as f:
        f.write(zstandard.ZstdCompressor(level=19).compress(tar.getvalue()))
    print(len(rows), "entries,", len(log), "requests")
