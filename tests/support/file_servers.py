"""Files behind HTTP on the loopback, and servers in front of them that fail as real ones do."""

import json
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

# What a client sees before it gets an answer: a busy server, a connection that is lost before or in the middle of the
# body, fewer bytes than were asked for in an answer that looks whole, and one that comes too late.
FAULTS = ("503", "429", "lost", "cut", "short")


class FileServer:
    """A server whose answers come from `answer(method, path, headers, body)` as (status, headers, body).

    Attributes:
        faults: the fault of each of the next GET requests in turn; None is none. The last one stays if `forever`.
        sent: bytes of all bodies.
        asked: method, path and status of each request.
    """

    def __init__(self, answer):
        self.answer, self.faults, self.forever, self.sent, self.asked = answer, [], False, 0, []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def fault(self):
        with self._lock:
            if not self.faults:
                return None
            return self.faults[0] if self.forever and len(self.faults) == 1 else self.faults.pop(0)

    def _handler(outer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer._serve(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        return Handler

    def _serve(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        status, headers, data = self.answer(
            request.command, request.path, {name.lower(): value for name, value in request.headers.items()}, body
        )
        fault = self.fault() if request.command == "GET" else None
        if fault in ("503", "429"):
            status, headers, data = int(fault), {}, b"busy"
        self.asked.append((request.command, request.path, status))
        if fault == "late":
            time.sleep(1.5)
        if fault == "short":
            data = data[: len(data) // 2]
        if fault == "lost":
            request.close_connection = True
            return
        request.send_response(status)
        for name, value in ({"Content-Length": len(data)} | headers).items():
            request.send_header(name, str(value))
        request.end_headers()
        data = b"" if request.command == "HEAD" else data[: len(data) // 2] if fault == "cut" else data
        request.wfile.write(data)
        request.close_connection = request.close_connection or fault == "cut"
        self.sent += len(data)


def files_of(folder, ranges=True):
    """Answers with the files below a folder, and with ranges of them."""

    def answer(method, path, headers, _):
        file = folder / unquote(urlsplit(path).path).lstrip("/")
        if not file.is_file():
            return 404, {}, b"not here"
        data = file.read_bytes()
        asked = headers.get("range") if ranges else None
        said = {"Accept-Ranges": "bytes"} if ranges else {}
        if method == "HEAD":
            return 200, {**said, "Content-Length": len(data)}, b""
        if not asked:
            return 200, said, data
        start, stop = asked.removeprefix("bytes=").split("-")
        part = data[int(start) : int(stop) + 1] if stop else data[int(start) :]
        return 206, {**said, "Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}, part

    return answer


def in_front_of(url):
    """Answers with what another server says."""
    host = urlsplit(url).netloc

    def answer(method, path, headers, body):
        connection = HTTPConnection(host, timeout=30)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        own = ("connection", "date", "server", "transfer-encoding", *(["content-length"] if method != "HEAD" else []))
        return reply.status, {name: value for name, value in reply.getheaders() if name.lower() not in own}, data

    return answer


@contextmanager
def s3_server(monkeypatch):
    """A fake S3, and a server in front of it to which all clients of this process go; yields both and a client."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    behind = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    behind.start()
    host, port = behind.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with FileServer(in_front_of(f"http://{host}:{port}")) as front:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", front.url)
            yield front, boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        behind.stop()


def hub_of(folder):
    """Answers of a Hub whose data set `o/n` is a folder: what its client asks to list and to read files."""
    files, api, words = files_of(folder), "/api/datasets/o/n", {"Content-Type": "application/json"}

    def entry(path):
        size = {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory", "size": 0}
        return {**size, "path": path.relative_to(folder).as_posix(), "oid": "1" * 40}

    def answer(method, path, headers, body):
        place = unquote(urlsplit(path).path)
        if place.startswith("/datasets/o/n/resolve/main/"):
            return files(method, place.removeprefix("/datasets/o/n/resolve/main"), headers, body)
        if place in (api, f"{api}/revision/main"):
            return 200, words, json.dumps({"id": "o/n", "sha": "0" * 40, "siblings": [], "tags": []}).encode()
        below = folder / place.removeprefix(f"{api}/tree/main").strip("/")
        if place.startswith(f"{api}/tree/main") and below.is_dir():
            found = below.rglob("*") if "recursive=true" in path.lower() else below.iterdir()
            return 200, words, json.dumps([entry(one) for one in sorted(found)]).encode()
        if place == f"{api}/paths-info/main":
            asked = [folder / one for one in parse_qs(body.decode()).get("paths", [])]
            return 200, words, json.dumps([entry(one) for one in asked if one.exists()]).encode()
        return 404, words, b"{}"

    return answer
