"""`creative-upscaler models`: what is published, what of it is here, getting and verifying it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pipelines.downloads import DownloadPolicy
from ..pipelines.errors import DownloadError, ModelFileError
from ..pipelines.registry import Model, find_model, published_models
from ..pipelines.registry.hub import HUB, Hub
from .exit_codes import MODEL_FILE_ERROR, OK


def add_models_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `models list`, `models get` and `models verify`."""
    models = commands.add_parser("models", help="list, get and verify model files", allow_abbrev=False)
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="print the models known by name", allow_abbrev=False)
    getting = actions.add_parser("get", help="download models", allow_abbrev=False)
    verifying = actions.add_parser(
        "verify", help="compare models with their published size and SHA-256", allow_abbrev=False
    )
    getting.add_argument("names", nargs="+", metavar="NAME", help="as in `models list`")
    verifying.add_argument(
        "names", nargs="*", metavar="NAME", help="as in `models list` (default: all that are here)"
    )
    for action in (listing, getting, verifying):
        action.add_argument(
            "--folder",
            type=Path,
            metavar="DIR",
            help="ComfyUI's models folder, with checkpoints, loras and so on in it (default: that of the "
            "ComfyUI in whose custom_nodes this is)",
        )
    listing.add_argument("--json", action="store_true", help="print JSON")
    verifying.add_argument("--online", action="store_true", help="ask the hub for what is not known here")
    for action in (getting, verifying):
        action.add_argument("--quiet", action="store_true", help="show no progress")
        action.add_argument(
            "--endpoint", default=HUB, metavar="URL", help="a mirror of the hub (default: %(default)s)"
        )


def run_models(arguments: argparse.Namespace) -> int:
    """Carry out one of them; returns the exit code. Raises `UpscalerError`."""
    folder = arguments.folder or default_folder()
    if arguments.action == "list":
        return _list(folder, as_json=arguments.json)
    if folder is None:
        print("creative-upscaler: error: give --folder, ComfyUI's models folder", file=sys.stderr)
        return MODEL_FILE_ERROR
    if arguments.action == "get":
        return _get([find_model(name) for name in arguments.names], folder, arguments)
    named = [find_model(name) for name in arguments.names]
    here = [model for model in published_models() if model.location(folder / model.folder).exists()]
    return _verify(named or here, folder, arguments)


def default_folder() -> Path | None:
    """The models folder of the ComfyUI this pack is installed in, if it is."""
    pack = Path(__file__).absolute().parents[1]
    models = pack.parent.parent / "models"
    return models if pack.parent.name == "custom_nodes" and models.is_dir() else None


def describe(model: Model) -> list[str]:
    """What a person should know before getting a model."""
    lines = [
        f"{model.name}: {model.title} ({model.use}), {_size(model)}",
        f"  licence: {model.licence}",
        f"  from:    {model.page}",
    ]
    if model.unchecked:
        lines.append(f"  not checked: {', '.join(model.unchecked)}")
    return lines


def _list(folder: Path | None, *, as_json: bool) -> int:
    states = [(model, _state(model, folder)) for model in published_models()]
    if as_json:
        print(json.dumps([_record(model, state) for model, state in states], indent=1))
        return OK
    rows = [
        ("NAME", "USE", "SIZE", "HERE", "LICENCE"),
        *((model.name, model.use, _size(model), state, model.licence) for model, state in states),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
    if folder is None:
        print("\nGive --folder, ComfyUI's models folder, to see what is there.")
    return OK


def _get(models: Sequence[Model], folder: Path, arguments: argparse.Namespace) -> int:
    from huggingface_hub import get_token  # noqa: PLC0415

    from ..pipelines.registry.install import install_model  # noqa: PLC0415

    # A mirror is somebody else: it gets no token.
    hub = Hub(endpoint=arguments.endpoint, token=get_token() if arguments.endpoint == HUB else None)
    civitai = os.environ.get("CIVITAI_API_TOKEN")
    policy = DownloadPolicy(tokens={"civitai.com": civitai} if civitai else {})
    failed = False
    for model in models:
        category = folder / model.folder
        if not model.missing(category):
            print(f"{model.name} is here already: {model.location(category)}")
            continue
        print("\n".join(describe(model)), flush=True)
        try:
            with _Bar(quiet=arguments.quiet) as bar:
                location = install_model(model, category, progress=bar, hub=hub, policy=policy)
        except (DownloadError, ModelFileError) as error:
            print(f"creative-upscaler: error: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"  here:    {location}")
    return MODEL_FILE_ERROR if failed else OK


def _verify(models: Sequence[Model], folder: Path, arguments: argparse.Namespace) -> int:
    from ..pipelines.registry.install import verify_model  # noqa: PLC0415

    hub = Hub(endpoint=arguments.endpoint) if arguments.online else None
    bad = 0
    for model in models:
        with _Bar(quiet=arguments.quiet) as bar:
            findings = verify_model(model, folder / model.folder, progress=bar, hub=hub)
        for finding in findings:
            print(f"{'ok ' if finding.is_good else 'BAD'} {model.name}: {finding.path} {finding.text}")
            bad += not finding.is_good
    if not models:
        print(f"none of the models known by name is in {folder}")
    return MODEL_FILE_ERROR if bad else OK


def _state(model: Model, folder: Path | None) -> str:
    if folder is None:
        return "?"
    category = folder / model.folder
    if not model.missing(category):
        return "yes"
    return "in part" if model.location(category).exists() else "no"


def _record(model: Model, state: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "use": model.use,
        "bytes": model.size,
        "licence": model.licence,
        "page": model.page,
        "folder": model.folder,
        "path": str(model.location(Path(model.folder))),
        "unchecked": list(model.unchecked),
        "here": state,
    }


def _size(model: Model) -> str:
    return "size unknown" if model.size is None else f"{model.size / 1e9:.2f} GB"


class _Bar:
    """A `Progress` of bytes on a terminal; nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        disable = True if quiet else None  # tqdm's own test for a terminal
        self._bar = tqdm(file=sys.stderr, disable=disable, leave=False, unit="B", unit_scale=True, total=1)
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, preview: object = None) -> None:
        if stage != self._stage or total != self._bar.total or done < self._bar.n:
            self._stage = stage
            self._bar.set_description_str(stage, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
