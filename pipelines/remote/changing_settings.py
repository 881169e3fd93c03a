"""Changing the user's own settings in their file, one at a time, as the settings page does."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from .credentials import make_private_folder
from .errors import RemoteError
from .settings import FAL, FILE, UserSettings, check_hosts, check_server_url, load_settings

HOSTS, SERVERS = "trusted_hosts", "servers"


def change_setting(folder: Path, name: str, value: Any) -> UserSettings:
    """Set one of `UserSettings` in the private folder's file; returns all of them as they are then.

    A number, or None for its default; `trusted_hosts` a list of names; `servers` an address for each name.
    Which keys a server may be sent is not said here: a new server, or one with another address, gets none
    until the file grants it some. Other entries of a server that keeps its address stay.
    Raises `ParameterError` or `RemoteError` for a value that is not allowed, and for a file that cannot be
    understood, which is left as it is.
    """
    load_settings(folder)
    path = folder / FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {parameter.name: parameter for parameter in UserSettings.declared()}
    if name == HOSTS:
        content[name] = list(check_hosts(name, value))
    elif name == SERVERS:
        content[name] = _servers(value, content.get(name, {}))
    elif name not in known:
        raise RemoteError(f"{name[:80]} is not a setting; known are {', '.join([*known, HOSTS, SERVERS])}")
    elif value is None:
        content.pop(name, None)
    else:
        content[name] = known[name].check(value)
    _write(folder, content)
    return load_settings(folder)


def _servers(addresses: Any, before: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(addresses, dict):
        raise RemoteError(f"{SERVERS}: give an address for each name")
    servers = {}
    for name, address in addresses.items():
        url = check_server_url(f"server {name[:80]}", address)
        entry = before.get(name, {})
        servers[name] = entry if entry.get("queue_url", "").rstrip("/") == url else {"queue_url": url}
    if FAL in servers:
        raise RemoteError(f"the name {FAL} is taken: that server is always there")
    return servers


def _write(folder: Path, content: dict[str, Any]) -> None:
    """Replace the file by one that holds this and can be understood, or leave it as it is."""
    path = make_private_folder(folder) / FILE
    trial = path.parent / f".{FILE}.{secrets.token_hex(4)}"
    trial.mkdir(mode=0o700)
    part = trial / FILE
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        try:
            load_settings(trial)
        except RemoteError as error:
            raise RemoteError(str(error).removeprefix(f"{part}: ")) from None
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        trial.rmdir()
