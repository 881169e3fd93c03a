"""Results that were paid for, as the bytes that were downloaded, up to a size; the longest unused go."""

from __future__ import annotations

import os
from pathlib import Path

from .credentials import make_private_folder
from .journal import Entry

FOLDER = "results"


class ResultCache:
    """A folder of results in the private folder, named by their journal entries."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = make_private_folder(folder / FOLDER)
        self.max_bytes = max_bytes

    def holds(self, entry: Entry) -> bool:
        return self._path(entry).is_file()

    def get(self, entry: Entry) -> bytes | None:
        """The result, which counts as used now, or None."""
        path = self._path(entry)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, entry: Entry, data: bytes) -> None:
        """Keep a result, whole or not at all. It stays at least until the next one comes."""
        path = self._path(entry)
        part = path.with_suffix(f".{os.getpid()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        self._shrink(path)

    def _shrink(self, newest: Path) -> None:
        files = []
        for path in self.folder.glob("*.picture"):
            try:
                state = path.stat()
            except OSError:
                continue  # another process was faster
            files.append((path == newest, state.st_mtime, state.st_size, path))
        total = sum(size for _, _, size, _ in files)
        for is_newest, _, size, path in sorted(files):
            if total <= self.max_bytes or is_newest:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, entry: Entry) -> Path:
        return self.folder / f"{entry.id}-{entry.fingerprint[:16].replace(':', '_')}.picture"
