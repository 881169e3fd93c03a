"""Published models: fetched, put where they belong, and verified there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..downloads import DownloadPolicy
from ..errors import DownloadError, DownloadRefused, ModelFileError
from ..fetching import Source, UrlSource, check_room, fetch_file, sha256_of
from . import Model, ModelFile
from .hub import Hub, HubFile, HubSource

if TYPE_CHECKING:
    from ..runtime import Progress


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one file of a model."""

    path: Path
    is_good: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One file to fetch: from where, to where below the model's folder, and how it is known to be right."""

    path: PurePosixPath
    source: Source
    size: int | None
    sha256: str | None


def install_model(
    model: Model,
    folder: Path,
    *,
    progress: Progress,
    hub: Hub | None = None,
    policy: DownloadPolicy | None = None,
) -> Path:
    """Fetch what is missing of `model` into `folder`, one of ComfyUI's model folders; returns its location.

    Everything is verified by size and SHA-256 as the registry and the hub know them, and safetensors by their
    header, before it gets its name; a new folder of files gets its own when all are there. `hub` is where
    repositories are read, `policy` how other addresses are.
    Raises `DownloadError`, `ModelFileError` and what `progress` raises.
    """
    location = model.location(folder)
    if not model.missing(folder):
        return location
    pieces = _plan(model, hub or Hub(), policy or DownloadPolicy())
    folder.mkdir(parents=True, exist_ok=True)
    check_room(model.page, folder, sum(piece.size or 0 for piece in pieces))
    if model.subfolder is None:
        (piece,) = pieces
        return _fetch(piece, location, progress)
    # Somebody's own folder is completed; a new one is hidden until it is whole, for it would be offered.
    stage = location if location.exists() else location.with_name(f".{location.name}.part")
    for piece in pieces:
        _fetch(piece, stage / piece.path, progress)
    if stage != location:
        os.replace(stage, location)
    if lacking := model.missing(folder):
        raise DownloadError(model.page, f"is published without {', '.join(lacking)}")
    return location


def verify_model(model: Model, folder: Path, *, progress: Progress, hub: Hub | None = None) -> list[Finding]:
    """Read every file of an installed model and compare it with what is known of it.

    With a `hub` its own records are used too. Raises `DownloadError` if that cannot be asked.
    """
    location = model.location(folder)
    known = {file.path: file for file in model.files}
    listed: dict[str, HubFile] = {}
    if hub is not None and model.repository:
        listed = {file.path: file for file in hub.list_files(model.repository, model.revision)}
    if model.subfolder is None:
        paths = {model.files[0].path: location}
    else:
        present = (path for path in location.rglob("*") if path.is_file())
        paths = {path.relative_to(location).as_posix(): path for path in sorted(present)}
    findings = [
        Finding(path=location / name, is_good=False, text="is missing")
        for name in model.missing(folder)
        if model.subfolder is not None
    ]
    for name, path in paths.items():
        file, record = known.get(name, ModelFile(path=name)), listed.get(name)
        sha256 = file.sha256 or (record.sha256 if record else None)
        size = file.size or (record.size if record else None)
        findings.append(_examine(path, size, sha256, progress))
    return findings


def _examine(path: Path, size: int | None, sha256: str | None, progress: Progress) -> Finding:
    if not path.is_file():
        return Finding(path=path, is_good=False, text="is missing")
    length = path.stat().st_size
    if size is not None and length != size:
        return Finding(path=path, is_good=False, text=f"has {length} bytes; the published file has {size}")
    if sha256 is not None:
        found = sha256_of(path, progress, f"checking {path.name}")
        if found != sha256.lower():
            return Finding(path=path, is_good=False, text=f"has SHA-256 {found}; the published file {sha256}")
        return Finding(path=path, is_good=True, text="is the published file (SHA-256)")
    if path.suffix == ".safetensors":
        try:
            _check_safetensors(path)
        except ModelFileError as error:
            return Finding(path=path, is_good=False, text=str(error).removeprefix(f"{path}: "))
        return Finding(path=path, is_good=True, text="is whole; no SHA-256 of it is known to compare with")
    return Finding(path=path, is_good=True, text=f"has {length} bytes; nothing is known to compare with")


def _plan(model: Model, hub: Hub, policy: DownloadPolicy) -> list[_Piece]:
    pieces = [
        _Piece(
            path=PurePosixPath(file.path),
            source=UrlSource(file.url, policy),
            size=file.size,
            sha256=file.sha256,
        )
        for file in model.files
        if file.url
    ]
    if model.repository is None:
        return pieces
    listed = {file.path: file for file in hub.list_files(model.repository, model.revision)}
    known = {file.path: file for file in model.files if not file.url}
    for path in [*known, *_besides(listed, model.include, known)]:
        file, record = known.get(path, ModelFile(path=path)), listed.get(path)
        if record is None:
            raise DownloadError(model.page, f"has no file {path} (any more)")
        if None not in (file.sha256, record.sha256) and file.sha256 != record.sha256:
            raise DownloadRefused(model.page, f"has another {path} than the one this program knows")
        pieces.append(
            _Piece(
                path=_safe_path(model, path),
                source=HubSource(hub, record),
                size=record.size if file.size is None else file.size,
                sha256=file.sha256 or record.sha256,
            )
        )
    for place in model.weights:
        if not any(p.path.suffix == ".safetensors" and p.path.parent == PurePosixPath(place) for p in pieces):
            raise DownloadError(model.page, f"has no safetensors in {place}; other files are not fetched")
    return pieces


def _besides(listed: Iterable[str], patterns: Iterable[str], known: Iterable[str]) -> list[str]:
    """Files to take besides those known: of weights that are there in several forms the plainest."""
    names = {
        name
        for name in listed
        if any(name.count("/") == p.count("/") and fnmatchcase(name, p) for p in patterns)
    }
    plainer = {
        name: {name.replace(".fp16.", "."), re.sub(r"-\d+-of-\d+", "", name)} - {name} for name in names
    }
    return sorted(name for name in names - set(known) if not plainer[name] & names)


def _safe_path(model: Model, path: str) -> PurePosixPath:
    """A server names the files; none may lie outside of the model's folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path:
        raise DownloadRefused(model.page, f"has a file of the name {path!r}, which leads elsewhere")
    return parts


def _fetch(piece: _Piece, target: Path, progress: Progress) -> Path:
    check = _check_safetensors if target.suffix == ".safetensors" else None
    return fetch_file(
        piece.source, target, progress=progress, size=piece.size, sha256=piece.sha256, check=check
    )


def _check_safetensors(path: Path) -> None:
    from ..models.files import check_safetensors  # noqa: PLC0415  imports torch

    check_safetensors(path)
