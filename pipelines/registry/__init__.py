"""The models this pack knows by name: where they are published, what they weigh and where they belong.

All of it is in `models.json`, the only place that is to be edited. Light enough to be imported at start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a published model."""

    path: str
    """In the repository; for a file elsewhere, its name."""
    save_as: str | None = None
    """Its name here, where the published one says too little."""
    url: str | None = None
    """Where it is, if not in the model's repository."""
    size: int | None = None
    """Bytes; None where no public record was found."""
    sha256: str | None = None
    """In small letters; None where no public record was found."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A published model: one file in a folder of ComfyUI's, or a folder of files below it."""

    name: str
    title: str
    use: str
    page: str
    """Where a person reads about it."""
    licence: str
    folder: str
    """ComfyUI's model folder."""
    used_by: str = "upscale"
    """Which part of this pack loads it: upscale, ccsr, captions or safety."""
    subfolder: str | None = None
    """Below `folder`; None for a model that is a single file."""
    repository: str | None = None
    """On the Hugging Face hub; None if every file has a `url`."""
    revision: str = "main"
    files: tuple[ModelFile, ...] = ()
    """Files it must have."""
    include: tuple[str, ...] = ()
    """Patterns of the files that are taken besides, of those the repository has."""
    weights: tuple[str, ...] = ()
    """Places below `subfolder` that must each hold weights."""
    about_bytes: int | None = None
    """Roughly, for a person, where the exact size is not known."""
    unchecked: tuple[str, ...] = ()
    """What of this record was not found confirmed anywhere, in words."""

    @property
    def size(self) -> int | None:
        """Bytes of all files, roughly where not known."""
        sizes = [file.size for file in self.files]
        if self.include or None in sizes:
            return self.about_bytes
        return sum(size for size in sizes if size is not None)

    @property
    def command(self) -> str:
        """What to type to get it."""
        return f"creative-upscaler models get {self.name}"

    def location(self, folder: Path) -> Path:
        """The model's file or folder in one of ComfyUI's model folders."""
        return folder / (self.subfolder or self.files[0].save_as or self.files[0].path)

    def missing(self, folder: Path) -> list[str]:
        """What is not there, as file names and patterns; nothing when it can be used."""
        location = self.location(folder)
        if self.subfolder is None:
            return [] if location.is_file() else [location.name]
        lacking = [file.path for file in self.files if not (location / file.path).is_file()]
        lacking += [
            f"{place}/*.safetensors".removeprefix("./")
            for place in self.weights
            if not any((location / place).glob("*.safetensors")) and not any((location / place).glob("*.bin"))
        ]
        return lacking + [shard for place in self.weights for shard in _missing_shards(location / place)]


def published_models() -> tuple[Model, ...]:
    """All of them, in the order in which they should be shown."""
    table = json.loads((Path(__file__).parent / "models.json").read_text(encoding="utf-8"))
    return tuple(_read_model(entry) for entry in table["models"])


def find_model(name: str) -> Model:
    """The model of that name. Raises `ParameterError` naming those there are."""
    models = {model.name: model for model in published_models()}
    if name not in models:
        raise ParameterError("model", f"got {name!r}; known are {', '.join(models)}")
    return models[name]


def model_of(folder: str, name: str) -> Model | None:
    """The published model that is called `name` in ComfyUI's model folder `folder`."""
    return next(
        (m for m in published_models() if m.folder == folder and m.location(Path()).name == name), None
    )


def _read_model(entry: dict[str, Any]) -> Model:
    lists = {name: tuple(entry.get(name, ())) for name in ("include", "weights", "unchecked")}
    files = tuple(ModelFile(**file) for file in entry["files"])
    return Model(**{**entry, **lists, "files": files})


def _missing_shards(place: Path) -> list[str]:
    """Weights in several files come with an index, which lists them."""
    index = place / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [index.name]
    return sorted(str(name) for name in names if not (place / str(name)).is_file())
