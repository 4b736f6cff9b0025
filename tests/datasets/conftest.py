"""A made-up data folder, the real one where there is one, and a web server on this machine."""

import gzip
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import SimpleNamespace

import numpy as np
import pytest

from mtl_tutorial.datasets import _fetch, _registry

REAL = os.environ.get(_fetch.VARIABLE)
ROWS = {"train": 120, "t10k": 20}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep every test away from the reader's own data; give an empty cache's path."""
    monkeypatch.delenv(_fetch.VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "cache" / "mtl_tutorial"
    monkeypatch.setattr(_fetch, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def real() -> Path:
    if not REAL:
        pytest.skip(f"no real data: {_fetch.VARIABLE} is not set")
    return Path(REAL).expanduser().absolute()


def idx(values: np.ndarray) -> bytes:
    """Write an idx file, not compressed."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def contents() -> dict[str, bytes]:
    """Make up small files under the names of the idx files."""
    generator = np.random.default_rng(0)
    files = {}
    for dataset in ("mnist", "fashion-mnist"):
        for part, rows in ROWS.items():
            images = generator.integers(0, 256, (rows, 28, 28))
            labels = np.arange(rows) % 10
            for name, values in (("images-idx3", images), ("labels-idx1", labels)):
                packed = gzip.compress(idx(values), 1, mtime=0)
                files[f"{dataset}/{part}-{name}-ubyte.gz"] = packed
    return files


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Have the registry know the made-up files."""
    assert contents.keys() <= _registry.SHA256.keys()
    for name, content in contents.items():
        monkeypatch.setitem(_registry.SHA256, name, hashlib.sha256(content).hexdigest())
    return contents


@pytest.fixture
def fill(known: dict[str, bytes]) -> Callable[[Path], Path]:
    """Give a function that writes the made-up files to a folder."""

    def write(folder: Path) -> Path:
        for name, content in known.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return write


class Handler(BaseHTTPRequestHandler):
    """Serve one file in the ways that mirrors go wrong: the first part of the path says how."""

    server: "Server"

    def do_GET(self) -> None:
        way, _, name = self.path.strip("/").partition("/")
        self.server.requests.append(self.path)
        body = self.server.files.get(name)
        if way == "missing" or body is None:
            return self.send_error(404)
        if way == "busy" or (way == "busy-once" and self.server.requests.count(self.path) == 1):
            return self.send_error(503)
        if way == "silent":
            self.server.closing.wait(10)
            return None
        if way == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if way == "labelled":
            self.send_header("Content-Type", "application/gzip")
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if way == "cut":
            return None
        if way in ("stalled", "slow"):
            self.server.closing.wait(10 if way == "stalled" else 0.1)
        if way != "stalled":
            self.wfile.write(body[half:])
        return None

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingTCPServer):
    """Unlike HTTPServer, asks no name server for its own name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()


@pytest.fixture
def server(known: dict[str, bytes]) -> Iterator[SimpleNamespace]:
    """Serve the made-up files; ``url(way, dataset)`` is a mirror that behaves that way."""
    with Server() as running:
        running.files = dict(known)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        root = f"http://127.0.0.1:{running.server_address[1]}"
        try:
            yield SimpleNamespace(
                url=lambda way, dataset="mnist": f"{root}/{way}/{dataset}/",
                requests=running.requests,
                files=running.files,
            )
        finally:
            running.closing.set()
            running.shutdown()
            thread.join()
