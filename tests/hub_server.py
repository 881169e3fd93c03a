"""A Hugging Face hub on this machine, with the routes that listing and reading a repository need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class HubServer(ThreadingHTTPServer):
    """Serves `files` by path as those of one repository; `asked` are all requests."""

    daemon_threads = True

    def __init__(self, repository: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.files: dict[str, bytes] = {}
        self.claimed: dict[str, str] = {}
        """SHA-256 that is told for a path, if not the truth."""
        self.dies_after: dict[str, int] = {}
        """Where every answer for a path breaks off."""
        self.ignores_ranges = False
        self.pause_seconds = 0.0
        """After each MiB that is sent."""
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self, path: str) -> list[str | None]:
        """The ranges that were asked for of a file."""
        return [headers.get("range") for route, headers in self.asked if route == f"GET {path}"]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        headers = {name.lower(): value for name, value in self.headers.items()}
        repository = self.server.repository
        file = path.partition(f"/{repository}/resolve/{COMMIT}/")[2]
        self.server.asked.append((f"{self.command} {file or path}", headers))
        if file in self.server.files:
            self.send_file(file, headers)
        elif re.fullmatch(rf"/api/models/{repository}/revision/(main|[0-9a-f]{{40}})", path):
            self.send_json({"id": repository, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        elif path == f"/api/models/{repository}/tree/{COMMIT}":
            self.send_json([self.entry(name) for name in sorted(self.server.files)])
        else:
            self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = self.rfile.read(length).decode()
        names = [name for name in sorted(self.server.files) if name in unquote(asked).replace('"', "")]
        self.send_json([self.entry(name) for name in names])

    def entry(self, name: str) -> dict[str, object]:
        body = self.server.files[name]
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(body), "oid": "b" * 40}
        if name.endswith((".safetensors", ".bin")):
            oid = self.server.claimed.get(name, hashlib.sha256(body).hexdigest())
            entry["lfs"] = {"oid": oid, "size": len(body), "pointerSize": 130}
        return entry

    def send_file(self, name: str, headers: dict[str, str]) -> None:
        body = self.server.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        asked = None if self.server.ignores_ranges else asked
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", '"e"')
        self.send_header("X-Repo-Commit", COMMIT)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.server.dies_after.get(name, len(body))
        if end < len(body):
            self.close_connection = True
        for position in range(start, end, 2**20):
            self.wfile.write(body[position : min(position + 2**20, end)])
            time.sleep(self.server.pause_seconds)

    def send_json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def running(repository: str = "own/model") -> Iterator[HubServer]:
    """The server, until the end of the context."""
    server = HubServer(repository)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
