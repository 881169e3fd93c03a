"""An HTTPS server on this machine with an authority of its own, and every fault a server can have."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme

from creative_upscaler.pipelines.downloads import DownloadPolicy

HOSTS = ("models.test", "other.test", "localhost", "127.0.0.1", "127.0.0.2")


@dataclass
class Served:
    """What a path answers."""

    body: bytes = b""
    status: int = 200
    etag: str | None = '"1"'
    type: str = "application/octet-stream"
    location: str | None = None
    length: int | None = None
    """What is announced, if not the truth."""
    dies_after: int | None = None
    """Bytes after which the first answer breaks off."""
    stalls_after: int | None = None
    """Where in the file nothing comes any more."""
    headers: dict[str, str] = field(default_factory=dict)


class HttpsServer(ThreadingHTTPServer):
    """Answers from `served`, by path; `asked` are the headers of all requests, with the path as `:path`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.served: dict[str, Served] = {}
        self.asked: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str, host: str = "models.test") -> str:
        return f"https://{host}:{self.port}{path}"

    def policy(self, **settings: object) -> DownloadPolicy:
        """A policy that can reach this server at 127.0.0.1 and nowhere else, in little time."""
        defaults = {
            "ports": frozenset({self.port}),
            "ssl_context": self.trust,
            "own_addresses": frozenset({"127.0.0.1"}),
            "resolve": lambda host, port: [host if host[0].isdigit() else "127.0.0.1"],
            "idle_seconds": 0.3,
            "total_seconds": 20.0,
        }
        return DownloadPolicy(**{**defaults, **settings})

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpsServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append({":path": self.path, **self.headers})
        served = self.server.served.get(self.path.partition("?")[0], Served(status=404))
        start, status = 0, served.status
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and status == 200 and self.headers.get("If-Range", served.etag) == served.etag:
            start, status = int(asked[1]), 206
            if start >= len(served.body):
                start, status, served = 0, 416, Served()
        body = served.body[start:]
        self.send_response(status)
        length = served.length if served.length is not None else len(body)
        headers = {"Content-Length": str(length), "Content-Type": served.type, **served.headers}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(served.body) - 1}/{len(served.body)}"
        if served.etag:
            headers["ETag"] = served.etag
        if served.location:
            headers["Location"] = served.location
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        if served.dies_after is not None:
            body, served.dies_after = body[: served.dies_after], None
        if served.stalls_after is not None:
            self.wfile.write(body[: max(0, served.stalls_after - start)])
            self.server.closing.wait(10)
            return
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def running() -> Iterator[HttpsServer]:
    """The server, until the end of the context."""
    server = HttpsServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
