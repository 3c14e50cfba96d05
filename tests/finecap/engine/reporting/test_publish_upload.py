"""Uploading a dataset to a Hub: every file, no token in a message, nothing of an older dataset."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finecap.engine.reporting.publish import push
from tests.support.packed_run import everything


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"}, "HF_HUB_OFFLINE is set"),
        ({"HF_HUB_OFFLINE": "0"}, "no token for the Hub"),
        ({"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:9"}, "the upload failed"),
    ],
)
def test_an_upload_that_cannot_work_says_why_and_never_names_the_token(published, tmp_path, environment, message):
    result = push_elsewhere(published, tmp_path, environment)
    assert message in result.stderr
    assert "ValueError" in result.stderr
    assert "hf_secret" not in result.stdout + result.stderr


def push_elsewhere(folder, home, environment):
    """`push` in a process of its own: the Hub's client reads its settings when it is imported."""
    code = "import pathlib\nfrom finecap.engine.reporting import publish\n"
    code += f"print(publish.push(pathlib.Path({str(folder)!r}), 'me/x'))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {**clean, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, timeout=60)


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that an upload of small files asks for."""

    def answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        files = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in self.server.files]
        self.answer(files if "/tree/" in self.path else {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path.endswith("/create"):
            self.server.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/x"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            self.take([json.loads(line) for line in body.splitlines()])
            url = f"http://{self.headers['Host']}/datasets/me/x/commit/{'0' * 40}"
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({})

    def take(self, operations):
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del self.server.files[value["path"]]

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.tokens, server.created = {}, set(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_upload_brings_every_file_and_removes_those_of_an_older_dataset(published, tmp_path, hub):
    old = {"data/train-00000-of-00007.parquet": b"old", "LICENSE": b"mine"}
    hub.files.update(old)
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    settings = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret", "HF_ENDPOINT": endpoint}
    result = push_elsewhere(published, tmp_path, settings)
    assert result.stdout.strip() == f"{endpoint}/datasets/me/x", result.stderr
    assert hub.files == {**everything(published), "LICENSE": b"mine"}
    assert hub.tokens == {"Bearer hf_secret"}
    (created,) = hub.created
    assert created["type"] == "dataset"
    assert created.get("visibility") == "private" or created.get("private")
    assert "hf_secret" not in result.stdout + result.stderr


def test_only_a_dataset_is_uploaded(tmp_path):
    with pytest.raises(ValueError, match="no published dataset is here"):
        push(tmp_path, "me/x")
