"""A real web server on this machine that can be told to misbehave."""

import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes) and writes down every request and the bytes it sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.resumes = True  # honours Range
        self.cuts = []  # bytes after which each coming answer breaks off; then none does
        self.statuses = []  # status of each coming answer, as far as they go, in place of its own
        self.shift = 0  # resumes this many bytes away from what was asked for
        self.requests = []  # (path, the Range header or None)
        self.sent = 0

    def handle_error(self, request, address):
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.statuses:
            return self.answer(server.statuses.pop(0))
        if self.path not in server.files:
            return self.answer(404)
        content = server.files[self.path]
        if asked is None or not server.resumes:
            return self.answer(200, content)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + server.shift
        if start >= len(content):
            return self.answer(416, content_range=f"bytes */{len(content)}")
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, content[start:], content_range)

    def answer(self, status, body=b"", content_range=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if body and self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        self.server.sent += len(body)
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
