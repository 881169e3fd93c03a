"""What the user, and no workflow, decides: limits, and servers beside fal that may be called.

The file `settings.json` in the private folder, all of it optional; `changing_settings` writes it:

    {"max_megapixels_per_run": 100, "max_megapixels_per_day": 1000,
     "max_cost_per_run": 0, "max_cost_per_day": 0, "cache_megabytes": 2048, "max_local_megapixels": 0,
     "trusted_hosts": [],
     "servers": {"box": {"queue_url": "http://192.168.1.5:8000/queue", "credentials": ["box"]}}}

A limit of 0 is none. Apps of the server `box` are called by the endpoint `box:owner/app`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ParameterError
from ..settings import Settings, declare
from .errors import RemoteError

FILE = "settings.json"
FAL = "fal"
DASHBOARD = "https://fal.ai/dashboard/requests"

_APP = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z")
_SERVER = re.compile(r"[a-z0-9_-]{1,40}\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where requests go. Keys are sent to the first three addresses only."""

    name: str
    queue_url: str
    rest_url: str = ""
    """Hands out upload tokens; without it pictures travel inside the request."""
    price_url: str = ""
    """Answers what an app costs, if anything does."""
    cdn_url: str = ""
    """Takes uploads, with a token of their own."""
    credentials: tuple[str, ...] | None = ()
    """Names of the keys it may be sent; None is any, () none: it is called without a key."""
    download_hosts: tuple[str, ...] = ()
    """Public hosts of results, beside the server itself."""

    @property
    def is_fal(self) -> bool:
        return self.name == FAL


FAL_SERVER = Server(
    name=FAL,
    queue_url="https://queue.fal.run",
    rest_url="https://rest.fal.ai",
    price_url="https://api.fal.ai/v1/models/pricing",
    cdn_url="https://v3.fal.media",
    credentials=None,
    download_hosts=(".fal.media", ".fal.ai", "storage.googleapis.com"),
)


@dataclass(frozen=True, kw_only=True)
class UserSettings(Settings):
    """The user's own limits and servers. Raises `ParameterError` for a number that is not allowed."""

    max_megapixels_per_run: float = declare(
        100.0,
        "Most megapixels of results that one run of a remote node may order. A workflow can only ask for "
        "less. 0 is no limit.",
        minimum=0,
        maximum=100000,
        step=1,
        unit="MP",
    )
    max_megapixels_per_day: float = declare(
        1000.0,
        "Most megapixels of results that all remote nodes together may order from midnight to midnight. "
        "0 is no limit.",
        minimum=0,
        maximum=999999,
        step=1,
        unit="MP",
    )
    max_cost_per_run: float = declare(
        0.0,
        "Most that one run of a remote node may cost, in the currency of the service's price list. Where it "
        "tells no price, nothing is submitted. 0 is no limit.",
        minimum=0,
        maximum=10000,
        step=0.01,
    )
    max_cost_per_day: float = declare(
        0.0,
        "Most that all remote nodes together may cost from midnight to midnight. Where the service tells no "
        "price, nothing is submitted. 0 is no limit.",
        minimum=0,
        maximum=100000,
        step=0.01,
    )
    cache_megabytes: float = declare(
        2048.0,
        "Room for results of remote nodes, which are free when they are asked for again; the oldest go "
        "first. 0 keeps none.",
        minimum=0,
        maximum=999999,
        step=1,
        unit="MB",
    )
    max_local_megapixels: float = declare(
        0.0,
        "Largest result that the local nodes may make, also where a workflow has switched "
        "override_size_limits on. 0 is no limit.",
        minimum=0,
        maximum=100000,
        step=1,
        unit="MP",
    )
    trusted_hosts: tuple[str, ...] = ()
    """Names under which the browser may change keys and settings, beside localhost and IP addresses."""
    servers: dict[str, Server] = field(default_factory=lambda: {FAL: FAL_SERVER})

    def locate(self, endpoint: str) -> tuple[Server, str]:
        """The server and the app (`owner/name[/path]`) of an endpoint, `app` or `server:app`.

        Raises `RemoteError`: an address is no endpoint, for a workflow must not say where keys go.
        """
        name, colon, app = endpoint.strip().rpartition(":")
        name = name if colon else FAL
        if not _APP.match(app) or ".." in app or not (_SERVER.match(name)):
            raise RemoteError(
                f"{endpoint[:100]!r} is no endpoint; give an app such as fal-ai/creative-upscaler, or "
                "server:owner/app for a server that is listed in your settings"
            )
        if name not in self.servers:
            raise RemoteError(
                f"the server {name} is not one of yours (known: {', '.join(self.servers)}); servers are "
                f"listed in {FILE} in the private folder, never in a workflow"
            )
        return self.servers[name], app


def load_settings(folder: Path) -> UserSettings:
    """The settings of the private folder. Raises `RemoteError` for a file that cannot be understood."""
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UserSettings()
    except (OSError, ValueError):
        raise RemoteError(f"{path} cannot be read as JSON; correct or delete it") from None
    known = [f.name for f in dataclasses.fields(UserSettings)]
    for name in values if isinstance(values, dict) else [path]:
        if name not in known:
            raise RemoteError(f"{path}: {name} is not a setting; known are {', '.join(known)}")
    servers = {FAL: FAL_SERVER}
    for name, entry in values.pop("servers", {}).items():
        servers[name] = _read_server(path, name, entry)
    hosts = check_hosts(f"{path}: trusted_hosts", values.pop("trusted_hosts", []))
    try:
        return UserSettings(**values, servers=servers, trusted_hosts=hosts)
    except ParameterError as error:
        raise RemoteError(f"{path}: {error}") from None


def check_hosts(what: str, hosts: Any) -> tuple[str, ...]:
    """Names of hosts in lower case. Raises `RemoteError` for what is none, such as an address with a path."""
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise RemoteError(f"{what} is a list of names")
    names = tuple(dict.fromkeys(host.strip().lower() for host in hosts))
    for name in names:
        if not _HOST.match(name):
            raise RemoteError(
                f"{what}: got {name[:100]!r}; allowed is the name of a host alone, such as studio.local: no "
                "https://, port, path or *"
            )
    return names


def _read_server(path: Path, name: str, entry: Any) -> Server:
    problem = f"{path}: server {name}"
    fields = [f.name for f in dataclasses.fields(Server) if f.name != "name"]
    if name == FAL or not _SERVER.match(name):
        raise RemoteError(f"{problem}: the name is taken or not of a-z, 0-9, _ and -")
    if not isinstance(entry, dict) or "queue_url" not in entry or set(entry) - set(fields):
        raise RemoteError(f"{problem}: give queue_url and, of the others, {', '.join(fields[1:])}")
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key.endswith("_url"):
            values[key] = check_server_url(f"{problem}: {key}", value)
        elif not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RemoteError(f"{problem}: {key} is a list of names")
        else:
            values[key] = tuple(value)
    return Server(name=name, **values)


def check_server_url(what: str, url: Any) -> str:
    """The address without a final slash. Raises `RemoteError` unless https, or http to a private address."""
    parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise RemoteError(f"{what}: not an http(s) address without user name and query")
    if parts.scheme == "http" and not _is_private(parts.hostname):
        raise RemoteError(f"{what}: http is allowed to private addresses only; a key would be sent readable")
    return url.rstrip("/")


def _is_private(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
