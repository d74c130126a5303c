"""Models of the hub, fetched from a server on this machine that speaks its endpoints."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asr.checkpoints import hub
from asr.errors import UserError

ROOT = Path(__file__).parents[3]
COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """One repository, ``them/model``: what it holds, and what goes wrong with it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.large: set[str] = set()  # in git-lfs
        self.cut = 0  # bytes after which the coming answer breaks off; then none does
        self.damaged = False
        self.asked: list[tuple[str, str | None]] = []  # files that were sent, with the Range asked for

    def handle_error(self, request, address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if re.fullmatch(rf"/api/models/them/model(/revision/(main|v1|{COMMIT}))?", path):
            return self.answer(200, json.dumps(self.about()).encode(), {"Content-Type": "application/json"})
        if path.startswith("/api/models/them/model/"):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        found = re.fullmatch(r"/them/model/resolve/(?:main|v1)/(.+)", path)
        if not found or found[1] not in self.server.files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"})
        self.send_file(found[1])

    def about(self) -> dict:
        siblings = []
        for name, content in self.server.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            item = {"rfilename": name, "size": len(content), "blobId": blob}
            if name in self.server.large:
                digest = hashlib.sha256(content).hexdigest()
                item["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(item)
        return {"id": "them/model", "modelId": "them/model", "sha": COMMIT, "siblings": siblings}

    def send_file(self, name: str) -> None:
        content, asked = self.server.files[name], self.headers.get("Range")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.command == "GET":
            self.server.asked.append((name, asked))
            if self.server.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
        if asked:
            start = int(re.fullmatch(r"bytes=(\d+)-\d*", asked)[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], headers)
        self.answer(200, content, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut and len(body) > self.server.cut:
            body, self.server.cut = body[: self.server.cut], 0
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture()
def server(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub")
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"  # as HF_ENDPOINT sets both, at the first import
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        yield server
        server.shutdown()
        thread.join()


OURS = {"config.json": b"{}", "model.safetensors": b"weights" * 100_000, "tokenizer.model": b"pieces"}


def publish(server: Hub, files: dict[str, bytes]) -> None:
    server.files, server.large = files, {"model.safetensors", "model.nemo"} & files.keys()


@pytest.mark.parametrize("name", ["hf:them/model", "hf:them/model@v1"])
def test_a_model_is_fetched_once_and_nothing_else_of_its_repository(server, name):
    publish(server, {**OURS, "README.md": b"card", "pytorch_model.bin": b"pickle", "run.py": b"program"})
    folder = hub.fetch(name)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {**OURS, "README.md": b"card"}
    assert len(server.asked) == 4
    assert hub.fetch(name) == folder and len(server.asked) == 4


def test_an_archive_alone_is_the_model(server):
    publish(server, {"model.nemo": b"archive", "README.md": b"card"})
    assert hub.fetch("hf:them/model").read_bytes() == b"archive"
    assert [name for name, _ in server.asked] == ["model.nemo"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, monkeypatch):
    publish(server, OURS)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)  # what it keeps; 10 MiB by default
    server.cut = 300_000
    try:
        folder = hub.fetch("hf:them/model")
    except UserError as error:  # huggingface_hub tries again by itself, or the next call does
        assert "goes on from there" in str(error)
        folder = hub.fetch("hf:them/model")
    assert (folder / "model.safetensors").read_bytes() == OURS["model.safetensors"]
    sent = [asked for name, asked in server.asked if name == "model.safetensors"]
    start = int(re.match(r"bytes=(\d+)-", sent[1])[1])  # what had arrived
    assert len(sent) == 2 and sent[0] is None and 0 < start <= 300_000


def test_a_damaged_file_is_removed_and_fetched_again(server):
    publish(server, OURS)
    server.damaged = True
    with pytest.raises(UserError, match=r"hf:them/model: .* was damaged on its way, and removed; try again"):
        hub.fetch("hf:them/model")
    server.damaged = False
    folder = hub.fetch("hf:them/model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == OURS


def test_without_a_network_the_cache_serves(server, monkeypatch):
    publish(server, OURS)
    folder = hub.fetch("hf:them/model")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch("hf:them/model") == folder
    with pytest.raises(UserError, match=r"hf:them/other: the hub does not answer .* cache does not hold it"):
        hub.fetch("hf:them/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:them", "hf:them: wants hf:OWNER/NAME"),
        ("hf:them/nothing", "hf:them/nothing: no such model, or a private or gated one"),
        ("hf:them/model@v9", "the model has no revision v9"),
        ("hf:them/model", r"holds no exported model \(config.json, model.safetensors, tokenizer.model\)"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(server, name, message):
    publish(server, {"pytorch_model.bin": b"pickle"})
    with pytest.raises(UserError, match=message):
        hub.fetch(name)


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf:a/b: wants the package huggingface_hub: pip install"):
        hub.fetch("hf:a/b")


def test_decode_takes_it_where_it_takes_a_checkpoint(server, tmp_path):
    publish(server, {**OURS, "config.json": b"no json"})
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    environment["HF_HOME"] = str(tmp_path / "home")
    command = [sys.executable, "decode.py", "--checkpoint", "hf:them/model", "--audio", "a.wav"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {tmp_path}/home/hub/.*/config\.json: not JSON\n", done.stderr), done.stderr
