"""Connections to public addresses that were looked up once, with an end to all waiting."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from time import monotonic
from typing import Any, Final

POLL_SECONDS: Final = 0.5
"""How often a waiting connection asks whether to stop."""
MAX_ADDRESSES: Final = 4
"""How many addresses of a name are tried."""
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""What networks without IPv4 translate public IPv4 addresses to: RFC 6052."""
_RELAYS: Final = ("192.88.99.", "192.31.196.", "192.52.193.", "192.175.48.")
"""6to4 and AMT relays and AS112, which ipaddress calls global: RFC 7526, 7450, 7534, 7535."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not of this machine, its network or a provider's.

    IPv6 addresses that carry an IPv4 address in them are judged by that one, or refused (6to4, Teredo).
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        return _is_public_6(found)
    return _is_public_4(found)


def _is_public_4(address: IPv4Address) -> bool:
    refused = address.is_multicast or address.is_reserved or str(address).startswith(_RELAYS)
    return address.is_global and not refused


def _is_public_6(address: IPv6Address) -> bool:
    carried = address.ipv4_mapped
    if carried is None and address in _NAT64:
        carried = IPv4Address(int(address) & 0xFFFFFFFF)
    if carried is not None:
        return _is_public_4(carried)
    is_tunnel = address.sixtofour is not None or address.teredo is not None
    return address in _GLOBAL_UNICAST and address.is_global and not is_tunnel


def resolve_name(host: str, port: int) -> list[str]:
    """The system's addresses of a name, IPv4 first: a broken IPv6 is the commoner fault. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return sorted(addresses, key=lambda address: ":" in address)


class TimedSocket:
    """What `http.client` needs of a socket; every wait ends after `idle_seconds` and at the deadline."""

    def __init__(self, connected: ssl.SSLSocket, deadline: float) -> None:
        self.idle_seconds = 30.0
        self.waiting: Callable[[], None] = lambda: None
        self._socket = connected
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(self._remaining(self.idle_seconds))
        self._socket.sendall(data)

    def receive_into(self, buffer: Any) -> int:
        """As `socket.recv_into`, in short waits. Raises TimeoutError."""
        silent_until = monotonic() + self.idle_seconds
        while True:
            wait = min(POLL_SECONDS, max(0.001, silent_until - monotonic()))
            self._socket.settimeout(self._remaining(wait))
            try:
                return self._socket.recv_into(buffer)
            except TimeoutError:
                self.waiting()
                if monotonic() >= silent_until:
                    message = f"the server was silent for {self.idle_seconds:g} seconds"
                    raise TimeoutError(message) from None

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Stream(self), 2**16)

    def close(self) -> None:
        self._socket.close()

    def _remaining(self, limit: float) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole download is used up")
        return min(limit, left)


class _Stream(io.RawIOBase):
    """Reads a `TimedSocket`; closing it leaves the socket to its owner."""

    def __init__(self, timed: TimedSocket) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.receive_into(buffer)


def connect(
    addresses: list[str], port: int, host: str, context: ssl.SSLContext, seconds: float, deadline: float
) -> TimedSocket:
    """A TLS connection to the first of these IP addresses that answers, checked to be `host`'s.

    Nothing is looked up here. Raises OSError, of the last address tried.
    """
    failure: OSError = OSError("no address to connect to")
    for address in addresses[:MAX_ADDRESSES]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(max(0.01, min(seconds, deadline - monotonic())))
            plain.connect((address, port))
            return TimedSocket(context.wrap_socket(plain, server_hostname=host), deadline)
        except ssl.SSLCertVerificationError:
            plain.close()
            raise
        except OSError as error:
            plain.close()
            failure = error
    raise failure
