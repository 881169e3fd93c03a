"""Models given by their address, as fal's `base_model_url` and its like: fetched once, kept, checked.

A workflow from a stranger can carry an address, so it is the user's settings, never the workflow, that make
the policy; without one nothing is fetched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from .downloads import DownloadPolicy, check_url
from .errors import DownloadRefused, ModelFileError, without_secrets
from .fetching import UrlSource, fetch_file, sha256_of

if TYPE_CHECKING:
    from .runtime import Progress

MODEL_HOSTS: Final = frozenset(
    {
        "huggingface.co",
        ".huggingface.co",
        ".hf.co",  # where the hub's large files lie
        "civitai.com",
        ".civitai.com",
        # where Civitai's files lie
        "civitai-delivery-worker-prod.5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com",
    }
)
"""Hosts that model addresses may be on, and be redirected to, unless the user adds others."""
MODEL_SUFFIX: Final = ".safetensors"
SECRETS: Final = frozenset({"token", "api_key", "key"})
"""Parts of a query that tell who asks, not what for."""


def model_policy(hosts: Iterable[str] = (), tokens: Mapping[str, str] | None = None) -> DownloadPolicy:
    """The policy for model addresses: the usual hosts and the user's own, the user's tokens by host."""
    return DownloadPolicy(hosts=MODEL_HOSTS | frozenset(hosts), tokens=dict(tokens or {}))


def resolve_url(url: str, policy: DownloadPolicy | None, cache: Path, progress: Progress) -> Path:
    """The file at an https address, from the cache or fetched into it; its stem is that of the address.

    `policy` is None where the user's settings do not allow downloads. Only safetensors are accepted, by name
    and by content. What is in the cache is used only as it was fetched: its SHA-256 is kept beside it.
    Raises `DownloadError` (`DownloadRefused` for what is not allowed), `ModelFileError` for a file that is
    damaged, hostile or was changed in the cache, and what `progress` raises.
    """
    if policy is None:
        raise DownloadRefused(
            url, "is not fetched, for the settings do not allow it; download it and give the file"
        )
    name = _file_name(url)
    check_url(url, policy)
    key = hashlib.sha256(_without_token(url).encode()).hexdigest()
    folder = cache / key[:32]
    path, note = folder / name, folder / "fetched.json"
    record = _read_note(note)
    if path.is_file() and record:
        _check_unchanged(path, note, record, progress)
        return path
    path.unlink(missing_ok=True)  # without its record nobody knows what it is

    def check(part: Path) -> None:
        _check_safetensors(part)
        sha256 = sha256_of(part, progress, f"checking {name}")
        # Before the file has its name, so that no other program finds one without the other.
        _write_note(note, {"url": without_secrets(url), "sha256": sha256, **_state(part)})

    return fetch_file(UrlSource(url, policy, key), path, progress=progress, check=check)


def _file_name(url: str) -> str:
    """A name that is safe on every system. Raises `DownloadRefused` unless it promises safetensors.

    Addresses without an ending (Civitai's end in a number) are left to the check of the content.
    """
    last = PurePosixPath(unquote(urlsplit(url).path)).name
    stem, suffix = PurePosixPath(last).stem, PurePosixPath(last).suffix.lower()
    if suffix != MODEL_SUFFIX and re.fullmatch(r"\d+", last) is None:
        raise DownloadRefused(url, f"does not end in {MODEL_SUFFIX}; models of other kinds are not fetched")
    stem = stem if suffix == MODEL_SUFFIX else last
    return (re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("._-")[:100] or "model") + MODEL_SUFFIX


def _without_token(url: str) -> str:
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() not in SECRETS]
    return urlunsplit((parts.scheme, parts.netloc.lower(), parts.path, urlencode(query), ""))


def _check_unchanged(path: Path, note: Path, record: dict[str, Any], progress: Progress) -> None:
    if all(record.get(name) == value for name, value in _state(path).items()):
        return
    if sha256_of(path, progress, f"checking {path.name}") != record.get("sha256"):
        raise ModelFileError(path, "was changed since it was fetched; delete it to fetch it again")
    _write_note(note, {**record, **_state(path)})


def _state(path: Path) -> dict[str, int]:
    state = path.stat()
    return {"size": state.st_size, "modified_ns": state.st_mtime_ns}


def _read_note(note: Path) -> dict[str, Any]:
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_note(note: Path, record: dict[str, Any]) -> None:
    note.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _check_safetensors(path: Path) -> None:
    from .models.files import check_safetensors  # noqa: PLC0415  imports torch

    check_safetensors(path)
