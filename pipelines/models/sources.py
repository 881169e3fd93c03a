"""A base model's file or folder: which family it is of, and where its parts are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelFileError
from .files import read_header, read_metadata
from .layouts import UNET_PREFIX, Kind, identify, identify_folder, identify_prediction, read_json
from .parts import Part

ModelType = Literal["SD_1_5", "SDXL"]

VAE_PREFIX = "first_stage_model."


@dataclass(frozen=True)
class BaseSource:
    """Where the parts of a base model are."""

    path: Path
    kind: Kind
    unet: Part
    vae: Part | None
    text_encoders: tuple[Part, ...]
    schedule: dict[str, Any]
    controlnet: Path | None = None
    tokenizers: tuple[Path | None, ...] = (None, None)

    @property
    def model_type(self) -> ModelType:
        return "SDXL" if self.kind is Kind.SDXL else "SD_1_5"

    @property
    def family(self) -> str:
        return "sdxl" if self.kind is Kind.SDXL else "sd15"


def open_base(path: Path) -> BaseSource:
    """Raises ModelFileError for anything but an SD1.5 or SDXL model."""
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_file(path: Path) -> BaseSource:
    header = read_header(path)
    kind = _checked(path, identify(header))
    prefixes = ["cond_stage_model.transformer."]
    if kind is Kind.SDXL:
        prefixes = ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."]
    has_vae = any(key.startswith(VAE_PREFIX) for key in header)
    return BaseSource(
        path=path,
        kind=kind,
        unet=Part.of_file(path, UNET_PREFIX),
        vae=Part.of_file(path, VAE_PREFIX) if has_vae else None,
        text_encoders=tuple(Part.of_file(path, prefix) for prefix in prefixes),
        schedule=identify_prediction(header, read_metadata(path)),
    )


def _open_folder(path: Path) -> BaseSource:
    kind = _checked(path, identify_folder(path))
    encoders = ("text_encoder", "text_encoder_2") if kind is Kind.SDXL else ("text_encoder",)
    schedule = path / "scheduler" / "scheduler_config.json"
    has_controlnet = (read_json(path / "model_index.json").get("controlnet") or [None])[0] is not None
    tokenizers = (path / name.replace("text_encoder", "tokenizer") for name in encoders)
    return BaseSource(
        path=path,
        kind=kind,
        unet=Part.of_folder(path / "unet"),
        vae=Part.of_folder(path / "vae") if (path / "vae").is_dir() else None,
        text_encoders=tuple(Part.of_folder(path / name) for name in encoders),
        schedule={"prediction_type": "epsilon", **(read_json(schedule) if schedule.is_file() else {})},
        controlnet=path / "controlnet" if has_controlnet else None,
        tokenizers=tuple(folder if folder.is_dir() else None for folder in tokenizers),
    )


def _checked(path: Path, kind: Kind) -> Kind:
    if kind not in (Kind.SD15, Kind.SDXL):
        raise ModelFileError(path, f"is {kind.value}; choose an SD 1.5 or SDXL base model")
    return kind
