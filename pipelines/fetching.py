"""Large files from the network to the disk: resumed, verified, and placed only when they are whole.

While it is fetched a file is `<name>.part`, with a note of where it comes from in `<name>.part.json`; both
lie beside the place the file gets, so that putting it there is one rename. A program that dies leaves a part
that the next attempt goes on with; nothing ever reads a part as a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from filelock import FileLock, Timeout

from .downloads import DownloadPolicy, open_public
from .errors import DownloadError, DownloadRefused, without_secrets

if TYPE_CHECKING:
    from .runtime import Progress

RESERVED_BYTES: Final = 2**28
"""Disk space that a download leaves free."""
ATTEMPTS: Final = 3
"""Connections for one file, as long as each brings it on."""
LOCK_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a source sends."""

    start: int
    """Position in the file of the first byte: what was asked for, or 0 from a source that starts again."""
    total: int | None
    """Bytes of the whole file, where the source tells."""
    etag: str | None
    """Names this version of the file; None if the source does not say whether it stays the same."""
    chunks: Iterator[bytes]


class Source(Protocol):
    """Where a file comes from."""

    key: str
    """Tells this file from all others. Kept on the disk: no secrets."""
    label: str
    """For messages: no secrets."""

    def open(self, start: int, etag: str | None, waiting: Callable[[], None]) -> AbstractContextManager[Body]:
        """Ask for what follows the first `start` bytes of the version `etag`, or of any if that is None.

        `waiting` is called now and then while nothing comes. Raises `DownloadError`.
        """


class UrlSource:
    """A file at an https address, read through `open_public`."""

    def __init__(self, url: str, policy: DownloadPolicy, key: str | None = None) -> None:
        self.url, self.policy = url, policy
        self.label = without_secrets(url)
        self.key = key or hashlib.sha256(url.encode()).hexdigest()

    @contextmanager
    def open(self, start: int, etag: str | None, waiting: Callable[[], None]) -> Iterator[Body]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and etag:
            headers["If-Range"] = etag
        with open_public(self.url, self.policy, headers=headers, waiting=waiting) as response:
            if response.headers.get_content_type() == "text/html":
                reason = "is a web page, not a model; the link is wrong or needs a login"
                raise DownloadRefused(self.label, reason)
            given, total = 0, response.length
            if response.status == 206:
                given, total = _read_range(self.label, response.headers.get("Content-Range", ""), start)
            if total is not None and total > self.policy.max_bytes:
                reason = f"has {total} bytes; at most {self.policy.max_bytes} are allowed"
                raise DownloadRefused(self.label, reason)
            found = response.headers.get("ETag")
            # A weak one (RFC 9110 8.8.1) promises only the same meaning, not the same bytes.
            strong = found if found and not found.startswith("W/") else None
            if given and etag and strong not in (None, etag):
                raise DownloadError(self.label, "changed while it was fetched; try again", 416)
            yield Body(start=given, total=total, etag=strong, chunks=response.chunks())


def _read_range(label: str, text: str, start: int) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text.strip())
    if match is None or int(match[1]) != start or start == 0:
        raise DownloadError(label, f"answers another range ({text or 'none'}) than was asked for")
    return start, None if match[3] == "*" else int(match[3])


def fetch_file(
    source: Source,
    target: Path,
    *,
    progress: Progress,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Fetch a file to `target`, going on where an earlier attempt ended; a file that is there is kept.

    `progress` is told bytes and may raise to stop. Size, SHA-256 and `check` (given the path of the whole
    part; raises if it is no good) must hold before the file gets its name; a part that fails is deleted.
    Raises `DownloadError`, and what `check` and `progress` raise.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target, progress):
        if target.exists():
            return target
        part = _Part(target, source.key, size, sha256)
        try:
            _receive_all(source, part, size, progress, f"downloading {target.name}")
            try:
                _verify(source.label, part.path, size, sha256, progress, f"checking {target.name}")
                if check is not None:
                    check(part.path)
            except ValueError:
                part.discard()
                raise
            part.place(target)
        except OSError as error:
            raise DownloadError(source.label, f"cannot be kept: {error}") from error
    return target


def sha256_of(path: Path, progress: Progress, stage: str) -> str:
    """The SHA-256 of a file, in small letters. Raises OSError, and what `progress` raises."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(2**23):
            digest.update(piece)
            done += len(piece)
            progress(stage, done, total)
    return digest.hexdigest()


class _Part:
    """The beginning of a file, and the note about it."""

    def __init__(self, target: Path, key: str, size: int | None, sha256: str | None) -> None:
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self._identity = {"key": key, "size": size, "sha256": sha256}
        self.etag: str | None = None
        note = self._read_note()
        # Without an etag only the hash can tell that two pieces are of one version.
        is_usable = all(note.get(name) == value for name, value in self._identity.items())
        if self.path.is_file() and is_usable and (note.get("etag") or sha256):
            self.etag = str(note["etag"]) if note.get("etag") else None
        else:
            self.discard()

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, body: Body) -> None:
        """Keep what comes before the body, and write down what it is part of."""
        self.etag = body.etag
        self.path.touch()
        os.truncate(self.path, body.start)
        self._note.write_text(json.dumps({**self._identity, "etag": body.etag}), encoding="utf-8")

    def discard(self) -> None:
        self.etag = None
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def place(self, target: Path) -> None:
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)

    def _read_note(self) -> dict[str, str | int | None]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}


def _receive_all(source: Source, part: _Part, size: int | None, progress: Progress, stage: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        before = part.length
        if size is not None and before == size:
            return
        try:
            _receive(source, part, size, progress, stage)
            return
        except DownloadRefused:
            part.discard()
            raise
        except DownloadError as error:
            if error.status == 416:  # what is here is no beginning of what is there (any more)
                part.discard()
            is_better = part.length > before or error.status == 416
            if attempt == ATTEMPTS or not is_better:
                raise


def _receive(source: Source, part: _Part, size: int | None, progress: Progress, stage: str) -> None:
    start = part.length
    done, total = start, size

    def waiting() -> None:
        progress(stage, done, max(total or 0, done, 1))

    with source.open(start, part.etag, waiting) as body:
        if None not in (size, body.total) and body.total != size:
            raise DownloadRefused(source.label, f"has {body.total} bytes; the published file has {size}")
        total = size if size is not None else body.total
        done = body.start
        check_room(source.label, part.path.parent, (total or 0) - done)
        part.begin(body)
        with part.path.open("ab") as file:
            for piece in body.chunks:
                done += len(piece)
                if total is not None and done > total:
                    raise DownloadRefused(source.label, f"sends more than its {total} bytes")
                file.write(piece)
                waiting()
    if total is not None and done != total:
        raise DownloadError(source.label, f"ended after {done} of {total} bytes; try again")


def check_room(label: str, folder: Path, needed: int) -> None:
    """Raise `DownloadError` unless `folder`, which exists, has room for `needed` bytes more."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVED_BYTES > free:
        raise DownloadError(
            label,
            f"needs {needed} bytes more in {folder}, which has {free} free ({RESERVED_BYTES} stay free); "
            "make room or give another folder",
        )


def _verify(
    label: str, path: Path, size: int | None, sha256: str | None, progress: Progress, stage: str
) -> None:
    length = path.stat().st_size if path.exists() else 0
    if size is not None and length != size:
        raise DownloadRefused(label, f"has {length} bytes; the published file has {size}")
    if sha256 is not None and (found := sha256_of(path, progress, stage)) != sha256.lower():
        raise DownloadRefused(label, f"is not the published file: its SHA-256 is {found}, not {sha256}")


@contextmanager
def _only_one(target: Path, progress: Progress) -> Iterator[None]:
    """Two programs that want the same file: one fetches it, the other waits and finds it there."""
    path = target.with_name(target.name + ".lock")
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
            break
        except Timeout:
            progress(f"waiting for another download of {target.name}", 0, 1)
    try:
        yield
    finally:
        # While others wait for it the lock must stay the same file; once the target is there they only leave.
        if target.exists():
            with suppress(OSError):  # Windows keeps a file that is open
                path.unlink()
        lock.release()
