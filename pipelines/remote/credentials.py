"""API keys: from the environment, or from a file that only the user can read. Referred to by name.

The file `credentials.json` in the private folder is `{name: key}`, of mode 0600.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import CredentialError

FILE = "credentials.json"
DEFAULT = "default"
"""The credential that the environment's FAL_KEY goes by, before any in the file."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_KEY = re.compile(r"[\x21-\x7e]{8,512}\Z")


@dataclass(frozen=True)
class Credential:
    """A key and where it is from: "environment" or "file"."""

    name: str
    source: str
    key: str = field(repr=False)


def find_credential(name: str, *, folder: Path, environment: Mapping[str, str]) -> Credential:
    """The key that goes by `name`.

    `default` (or no name) is `FAL_KEY`, else `FAL_KEY_ID` with `FAL_KEY_SECRET`, of the environment, else
    the key of that name in the file; any other name is one in the file.
    Raises `CredentialError`, which never repeats what the key is.
    """
    name = check_name(name or DEFAULT)
    if name == DEFAULT:
        key = _environment_key(environment)
        if key:
            return Credential(name, "environment", check_key(key, "FAL_KEY in the environment"))
    keys = _read(folder)
    if name not in keys:
        known = ", ".join(sorted(keys)) or "none"
        raise CredentialError(
            f"there is no key under the name {name} (known: {known}); set FAL_KEY in the environment, or set "
            "the key in the settings, or with `creative-upscaler remote key`. Never put it into a workflow"
        )
    return Credential(name, "file", check_key(keys[name], f"the key {name} in {FILE}"))


def list_credentials(*, folder: Path, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """The name and source of every credential; never a key."""
    in_file = [(name, "file") for name in sorted(_read(folder))]
    if not _environment_key(environment):
        return in_file
    return [(DEFAULT, "environment"), *(entry for entry in in_file if entry[0] != DEFAULT)]


def store_credential(name: str, key: str, *, folder: Path) -> None:
    """Write a key to the file. Raises `CredentialError` for a name or key that cannot be one."""
    keys = {**_read(folder), check_name(name): check_key(key, "the key")}
    _write(folder, keys)


def delete_credential(name: str, *, folder: Path) -> None:
    """Forget a key of the file. Raises `CredentialError` if there is none of that name."""
    keys = _read(folder)
    if name not in keys:
        raise CredentialError("there is no key of that name")
    del keys[name]
    _write(folder, keys)


def check_name(name: str) -> str:
    """Raise `CredentialError` unless `name` can name a key; a key in its place is not repeated."""
    if not _NAME.match(name):
        raise CredentialError(
            "the name of a credential is up to 64 letters, digits, dots, dashes and underscores; "
            "what was given is not (if it is the key itself: keys do not belong there)"
        )
    return name


def check_key(key: str, what: str) -> str:
    """Raise `CredentialError` unless `key` can be sent in a header; nothing of it is repeated."""
    if not isinstance(key, str) or not _KEY.match(key):
        if isinstance(key, str) and re.search(r"[\s\x00-\x1f\x7f]", key):
            reason = "has whitespace or control characters in it or around it"
        elif isinstance(key, str) and not key.isascii():
            reason = "has characters that are not ASCII"
        else:
            reason = "is empty, too short or too long"
        raise CredentialError(f"{what} {reason}; copy it again from the service's dashboard")
    if key[0] in "'\"" or key[-1] in "'\"":
        raise CredentialError(f"{what} has quotes around it; give it without them")
    return key


def make_private_folder(folder: Path) -> Path:
    """Make a folder that only the user can enter; returns it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _environment_key(environment: Mapping[str, str]) -> str:
    if environment.get("FAL_KEY"):
        return environment["FAL_KEY"]
    if environment.get("FAL_KEY_ID") and environment.get("FAL_KEY_SECRET"):
        return f"{environment['FAL_KEY_ID']}:{environment['FAL_KEY_SECRET']}"
    return ""


def _read(folder: Path) -> dict[str, str]:
    path = folder / FILE
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise CredentialError(f"{path} can be read by others (mode {mode:o}); run chmod 600 on it")
            keys = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if isinstance(error, CredentialError):
            raise
        # The error of a parser may quote what it could not read.
        raise CredentialError(f"{path} cannot be read; delete it and set the keys again") from None
    if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
        raise CredentialError(f"{path} does not hold keys by name; delete it and set the keys again")
    return keys


def _write(folder: Path, keys: dict[str, str]) -> None:
    path = make_private_folder(folder) / FILE
    part = path.with_name(f".{FILE}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(keys, file, indent=2)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
