"""Models that a workflow names and the user does not have: how to get them, and getting them when asked to.

For loader nodes: `offered` lists what can be chosen, `find_or_get` gives the file behind a choice, and
`require` the file or folder of a model that the registry knows by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from ..pipelines.errors import ModelFileError
from . import host
from .compat import io

if TYPE_CHECKING:
    from ..pipelines.registry import Model

SWITCH = "download_missing"
REPORT_SECONDS = 0.2
"""Between two messages to the browser; a download has thousands of pieces."""


def download_switch() -> io.Boolean.Input:
    """The widget that lets a loader download. It belongs at the end of the inputs, after all saved values."""
    return io.Boolean.Input(
        SWITCH,
        default=False,
        optional=True,
        tooltip="Downloads a chosen model that is not here yet, if this pack knows it by name (gigabytes; "
        "read its licence first: creative-upscaler models list). Off: an error says how to get it.",
    )


def offered(folder: str, used_by: str = "upscale") -> list[str]:
    """The files in one of ComfyUI's model folders, then those published for a use that are not there yet."""
    from ..pipelines.registry import published_models  # noqa: PLC0415

    here = host.file_names(folder)
    known = [
        m.location(Path()).name for m in published_models() if m.folder == folder and m.subfolder is None
    ]
    return [*here, *(name for name in known if name not in here)]


def find_or_get(folder: str, name: str, *, download_missing: bool) -> Path:
    """The file of a choice. Raises `ModelFileError` saying how to get it, and what a download raises."""
    from ..pipelines.registry import model_of  # noqa: PLC0415

    try:
        return host.find_file(folder, name)
    except FileNotFoundError:
        model = model_of(folder, name)
        if model is None:
            reason = (
                "is not there, and this pack does not know where to get it; choose another or put it there"
            )
            raise ModelFileError(host.models_folder(folder) / name, reason) from None
    return _get_or_refuse(model, download_missing)


def require(name: str, *, download_missing: bool) -> Path:
    """The file or folder of a published model, in any folder of its kind. Raises as `find_or_get`."""
    from ..pipelines.registry import find_model  # noqa: PLC0415

    model = find_model(name)
    for folder in host.models_folders(model.folder):
        if not model.missing(folder):
            return model.location(folder)
    return _get_or_refuse(model, download_missing)


def version(folder: str, name: str) -> str:
    """As `host.file_version`, also for a file that is not there."""
    try:
        return host.file_version(folder, name)
    except FileNotFoundError:
        return f"{name} is missing"


def how_to_get(model: Model) -> str:
    """What to do about a published model that is not here, for an error."""
    size = f"{model.size / 1e9:.2f} GB, " if model.size else ""
    folder = host.models_folder(model.folder)
    return (
        f"is not there: {model.title} ({model.use}; {size}licence: {model.licence}). Switch on {SWITCH}, or "
        f"run: {model.command} --folder {folder.parent}; or get it from {model.page} and put it into {folder}"
    )


def _get_or_refuse(model: Model, download_missing: bool) -> Path:
    folder = host.models_folder(model.folder)
    if not download_missing:
        raise ModelFileError(model.location(folder), how_to_get(model))
    from huggingface_hub import get_token  # noqa: PLC0415

    from ..pipelines.downloads import DownloadPolicy  # noqa: PLC0415
    from ..pipelines.registry.hub import HUB, Hub  # noqa: PLC0415
    from ..pipelines.registry.install import install_model  # noqa: PLC0415

    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    # A mirror is somebody else: it gets no token.
    hub = Hub(endpoint=endpoint, token=get_token() if endpoint == HUB else None)
    civitai = os.environ.get("CIVITAI_API_TOKEN")
    policy = DownloadPolicy(tokens={"civitai.com": civitai} if civitai else {})
    return install_model(
        model, folder, progress=_Seldom(host.HostProgress(host.picture_device())), hub=hub, policy=policy
    )


class _Seldom:
    """Passes a few of very many reports on: the first and the last of a stage, and one now and then."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress = progress
        self._stage, self._last = "", 0.0

    def __call__(self, stage: str, done: int, total: int, preview: object = None) -> None:
        if stage == self._stage and done < total and monotonic() - self._last < REPORT_SECONDS:
            return
        self._stage, self._last = stage, monotonic()
        self._progress(stage, done, total)
