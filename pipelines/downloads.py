"""Reading addresses that a stranger may have chosen: in a workflow file, or in a server's answer.

`open_public(url, policy)` is the one door to the network for such addresses. What it promises, at the first
request and again at every redirect:

- https only, certificates checked, no user name in the address, only ports and hosts the policy allows;
- the name is resolved once, every address found must be public, and the connection goes to one of exactly
  these, so that a name which changes its mind (DNS rebinding) or a proxy setting leads nowhere else;
- a token goes to the host it is for and only while the request has not left that host;
- redirects are few; waiting ends, in all and between two pieces; the size is limited, both what is announced
  and what arrives; a body shorter than announced or compressed on the way is an error, never a short result;
- errors name host and path but never the query, which may hold a secret.

    policy = DownloadPolicy(hosts=frozenset({".fal.media"}), max_bytes=256 * 2**20)
    with open_public(url, policy, waiting=check_interrupt) as response:
        for chunk in response.chunks():
            ...

`pipelines.fetching` builds on it to keep large files: resumed, verified, placed atomically.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from .connections import TimedSocket, connect, is_public, resolve_name
from .errors import DownloadError, DownloadRefused

CHUNK_BYTES: Final = 2**18
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
AGENT: Final = "comfyui-creative-upscaler"


def _nothing() -> None:
    """Nobody has to be asked while waiting."""


@dataclass(frozen=True, kw_only=True)
class DownloadPolicy:
    """What may be read from the network, and for how long; made by the caller, never from a workflow."""

    hosts: frozenset[str] | None = None
    """Hosts that may be asked, redirects included: `civitai.com` is that one, `.hf.co` also all below it.
    None allows every public host."""
    max_bytes: int = 16 * 2**30
    """Largest body."""
    max_redirects: int = 5
    connect_seconds: float = 15.0
    """For the connection to one address, and for its TLS handshake."""
    idle_seconds: float = 30.0
    """Longest silence of a server."""
    total_seconds: float = 6 * 3600.0
    """For everything, from the first name looked up to the last byte."""
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Host to bearer token. Sent only if the first address is of that very host, and no longer once a
    redirect has led elsewhere."""
    ports: frozenset[int] = frozenset({443})
    ssl_context: ssl.SSLContext | None = None
    """Whom to trust; None trusts whom the system trusts."""
    own_addresses: frozenset[str] = frozenset()
    """IP addresses that are used although they are not public: a server of one's own, and those of tests."""
    resolve: Callable[[str, int], list[str]] = resolve_name
    """Host and port to IP addresses; raises OSError."""


class PublicResponse:
    """An answer that is being read. Close it, or use it as a context."""

    def __init__(self, url: str, response: http.client.HTTPResponse, socket: TimedSocket, limit: int) -> None:
        self.url = url
        """Where the last redirect led. Not to be shown: its query may hold a secret."""
        self.status = response.status
        self.headers = response.headers
        """Of the last answer; names in any case."""
        self.length = _announced_length(url, response)
        """Bytes of the body, where the server tells."""
        self._response, self._socket, self._limit = response, socket, limit
        if self.length is not None and self.length > limit:
            self.close()
            raise DownloadRefused(url, f"has {self.length} bytes; at most {limit} are allowed")

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces of at most `CHUNK_BYTES`.

        Raises `DownloadError` if it is too large, too slow or ends early.
        """
        received = 0
        while received != self.length:
            wanted = CHUNK_BYTES if self.length is None else min(CHUNK_BYTES, self.length - received)
            with _as_download_error(self.url):
                piece = self._response.read1(wanted)  # what is there, so that a slow server can be stopped
            if not piece:
                break
            received += len(piece)
            if received > self._limit:
                raise DownloadRefused(self.url, f"has more than the {self._limit} bytes allowed")
            yield piece
        if self.length is not None and received != self.length:
            raise DownloadError(self.url, f"ended after {received} of {self.length} bytes; try again")

    def read(self) -> bytes:
        """The whole body in memory. Raises as `chunks`."""
        return b"".join(self.chunks())

    def close(self) -> None:
        self._response.close()
        self._socket.close()

    def __enter__(self) -> PublicResponse:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_public(
    url: str,
    policy: DownloadPolicy,
    *,
    headers: Mapping[str, str] | None = None,
    waiting: Callable[[], None] = _nothing,
) -> PublicResponse:
    """Ask for `url` as the policy allows, following redirects; the answer's status is 2xx.

    `headers` go to every host on the way: no secrets in them (`policy.tokens` is for these). `waiting` is
    called about every half second while a server is silent and may raise to stop.
    Raises `DownloadRefused` for what the policy forbids and `DownloadError` for what failed; its `status` is
    that of the answer, if there was one.
    """
    deadline = monotonic() + policy.total_seconds
    first = check_url(url, policy)
    token = policy.tokens.get(first.hostname or "")
    for _ in range(policy.max_redirects + 1):
        parts = check_url(url, policy)
        if parts.netloc != first.netloc:
            token = None  # and not again, should the chain come back
        response, socket = _ask(parts, policy, dict(headers or {}), token, deadline, waiting)
        try:
            if response.status not in REDIRECTS:
                _check_answer(url, response)
                return PublicResponse(url, response, socket, policy.max_bytes)
            location = response.headers.get("Location")
            if not location:
                raise DownloadError(url, f"is redirected ({response.status}) to nowhere")
            url = urljoin(url, location)
        except BaseException:
            response.close()
            socket.close()
            raise
        response.close()
        socket.close()
    raise DownloadError(url, f"is the end of more than {policy.max_redirects} redirects")


def check_url(url: str, policy: DownloadPolicy) -> SplitResult:
    """The parts of an address the policy allows, before anything is looked up.

    Raises `DownloadRefused`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 443
        host = (parts.hostname or "").encode("ascii").decode()
    except ValueError as error:
        raise DownloadRefused(url, "is no address that can be asked for") from error
    if parts.scheme != "https":
        raise DownloadRefused(url, "is not an https address; only these are read")
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise DownloadRefused(url, "has characters in it that an address must spell with %")
    if parts.username is not None or parts.password is not None:
        raise DownloadRefused(url, "has a user name or password in it; give a token in the settings instead")
    if not host:
        raise DownloadRefused(url, "names no host")
    if port not in policy.ports:
        raise DownloadRefused(url, f"is on port {port}; allowed: {', '.join(map(str, sorted(policy.ports)))}")
    if policy.hosts is not None and not any(_is_of(host, allowed) for allowed in policy.hosts):
        listed = ", ".join(sorted(policy.hosts)) or "none"
        raise DownloadRefused(url, f"is on {host}, which is not one of the allowed hosts ({listed})")
    return parts


def _is_of(host: str, allowed: str) -> bool:
    return host == allowed.lstrip(".") or (allowed.startswith(".") and host.endswith(allowed))


def _ask(
    parts: SplitResult,
    policy: DownloadPolicy,
    headers: dict[str, str],
    token: str | None,
    deadline: float,
    waiting: Callable[[], None],
) -> tuple[http.client.HTTPResponse, TimedSocket]:
    """One request to one host, on a connection to an address that was checked."""
    url, host, port = parts.geturl(), parts.hostname or "", parts.port or 443
    addresses = _public_addresses(url, host, port, policy)
    context = policy.ssl_context or ssl.create_default_context()
    with _as_download_error(url):
        timed = connect(addresses, port, host, context, policy.connect_seconds, deadline)
    timed.idle_seconds, timed.waiting = policy.idle_seconds, waiting
    connection = http.client.HTTPConnection(host, port)
    # It writes to what it is given and never connects by itself: the checked address is the only one.
    connection.auto_open = 0
    connection.sock = timed
    sent = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
    sent |= headers
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with _as_download_error(url):
            connection.request("GET", target, headers={"Host": parts.netloc, **sent})
            return connection.getresponse(), timed
    except BaseException:
        timed.close()
        raise


def _public_addresses(url: str, host: str, port: int, policy: DownloadPolicy) -> list[str]:
    try:
        addresses = policy.resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise DownloadError(url, f"is on {host}, a name that cannot be resolved: {error}") from error
    if not addresses:
        raise DownloadError(url, f"is on {host}, a name without an address")
    for address in addresses:
        # One bad address spoils them all: a name with both kinds is no accident.
        if address not in policy.own_addresses and not is_public(address):
            raise DownloadRefused(url, f"is on {host}, whose address {address} is not a public one")
    return addresses


def _check_answer(url: str, response: http.client.HTTPResponse) -> None:
    status = response.status
    if not 200 <= status < 300:
        reason = {
            401: "needs a login or a token",
            403: "may not be read with these rights",
            404: "does not exist",
            410: "is gone",
            429: "was asked for too often; wait a while",
        }.get(status, "was not given")
        raise DownloadError(url, f"{reason} (the server answered {status} {response.reason})", status)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError(url, "comes compressed, which was not asked for")


def _announced_length(url: str, response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or response.chunked:
        return None
    if not text.strip().isdecimal():
        raise DownloadError(url, "announces a length that is no number")
    return int(text)


@contextmanager
def _as_download_error(url: str) -> Iterator[None]:
    """Turns what sockets, TLS and HTTP raise into `DownloadError`; what a `waiting` raises passes."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        reason = f"is on a server whose certificate is not trusted ({error.verify_message})"
        raise DownloadError(url, reason) from error
    except TimeoutError as error:
        raise DownloadError(url, f"took too long: {error}; try again") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(url, f"broke off ({error or type(error).__name__}); try again") from error
