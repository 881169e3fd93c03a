"""Files of the Hugging Face hub, listed and read through huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from ..errors import DownloadError
from ..fetching import Body

HUB: Final = "https://huggingface.co"
PIECE_BYTES: Final = 2**20
"""How much is read between two chances to stop."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository, at one commit."""

    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None
    """The hub's own record; None for small text files, of which it keeps none."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The hub, or a mirror of it. A token comes from the caller only, never from the user's login."""

    endpoint: str = HUB
    token: str | None = None

    def list_files(self, repository: str, revision: str) -> list[HubFile]:
        """All files of a repository at a revision (a branch, a commit or `refs/pr/N`), by path.

        Raises `DownloadError`.
        """
        from huggingface_hub import HfApi  # noqa: PLC0415  half a second, and not needed to list what is known
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

        api = HfApi(endpoint=self.endpoint, token=self.token or False)
        with _as_download_error(f"{self.endpoint}/{repository}"):
            commit = str(api.model_info(repository, revision=revision).sha)
            entries = list(api.list_repo_tree(repository, recursive=True, revision=commit))
        return [
            HubFile(
                repository=repository,
                commit=commit,
                path=entry.path,
                size=entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else None,
            )
            for entry in sorted(entries, key=lambda entry: entry.path)
            if isinstance(entry, RepoFile)
        ]


class HubSource:
    """A file of the hub as a `fetching.Source`. A commit never changes, so any part can be gone on with."""

    def __init__(self, hub: Hub, file: HubFile) -> None:
        self.hub, self.file = hub, file
        self.label = f"{hub.endpoint}/{file.repository}/resolve/{file.commit}/{file.path}"
        self.key = f"{file.repository}@{file.commit}/{file.path}"

    @contextmanager
    def open(self, start: int, etag: str | None, waiting: Callable[[], None]) -> Iterator[Body]:
        from huggingface_hub import HfFileSystem  # noqa: PLC0415

        system = HfFileSystem(
            endpoint=self.hub.endpoint, token=self.hub.token or False, skip_instance_cache=True
        )
        with _as_download_error(self.label):
            stream = system.open(self.key, "rb", block_size=0)  # one answer, read as it comes
        try:
            stream.loc = start  # where its first request begins
            first = self._read(stream)
            # Some mirrors and versions of huggingface_hub begin at the start whatever was asked for.
            is_rest = getattr(stream.response, "status_code", None) == 206
            chunks = chain((first,), iter(lambda: self._read(stream), b""))
            given = start if is_rest else 0
            yield Body(start=given, total=self.file.size, etag=self.file.commit, chunks=chunks)
        finally:
            stream.close()

    def _read(self, stream: Any) -> bytes:
        with _as_download_error(self.label):
            return stream.read(PIECE_BYTES)


@contextmanager
def _as_download_error(label: str) -> Iterator[None]:
    """huggingface_hub's errors are of many kinds, and of others in other versions."""
    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = {
            401: "needs a login, or does not exist",
            403: "needs its licence to be accepted on its page, and a token",
            404: "does not exist",
        }.get(status or 0, "could not be read from the hub")
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        detail = re.sub(r"\?\S+", "", lines[0])  # what follows an address may be a signature
        raise DownloadError(label, f"{reason} ({type(error).__name__}: {detail[:300]})", status) from error
