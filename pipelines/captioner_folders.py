"""Which folders hold a captioner, told from their config.json alone; light enough to be imported at start."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import ModelFileError

ACCEPTED = "a BLIP-2 (OPT or Flan-T5), a Florence-2 of florence-community, or a BLIP captioning model"

PARTS = ("text_config", "vision_config", "qformer_config")

OUTSIDE_CODE = ("quantization_config", "attn_implementation", "_attn_implementation")
"""Settings by which a folder can ask transformers for other packages, or for kernels from a hub."""


class CaptionerKind(Enum):
    """The captioners that are known here, the best first; the value is their `model_type` in config.json."""

    FLORENCE2 = "florence2"
    """Sentences to a paragraph, by 0.2 or 0.8 thousand million parameters (arXiv:2311.06242)."""
    BLIP2 = "blip-2"
    """One short sentence, by 3.7 or 3.9 thousand million parameters (arXiv:2301.12597)."""
    BLIP = "blip"
    """One short sentence, by 0.2 or 0.4 thousand million parameters (arXiv:2201.12086)."""


def recognize(folder: Path) -> CaptionerKind:
    """The kind of captioner in `folder`. Raises `ModelFileError` if it holds none that can be used."""
    config = read_config(folder)
    model_type, text = config.get("model_type"), config.get("text_config") or {}
    vision = config.get("vision_config") or {}
    if model_type == "florence2" and vision.get("model_type") != "florence_vision":
        raise ModelFileError(
            folder,
            "is a Florence-2 in its first layout, which needs program code from the model folder; use the "
            "same model in the layout of florence-community, such as florence-community/Florence-2-large",
        )
    if model_type == "blip-2" and text.get("model_type", "opt") not in ("opt", "t5"):
        raise ModelFileError(
            folder, f"is a BLIP-2 with {text['model_type']} as language model; OPT and T5 are known"
        )
    kinds = {kind.value: kind for kind in CaptionerKind}
    architecture = next(iter(config.get("architectures") or []), "ForConditionalGeneration")
    if model_type not in kinds or not str(architecture).endswith("ForConditionalGeneration"):
        raise ModelFileError(folder, f"is {architecture} of type {model_type}; choose {ACCEPTED}")
    return kinds[str(model_type)]


def best_captioner(folders: Iterable[Path]) -> Path | None:
    """The folder with the captioner that tells most: by kind, then by size; None where there is none.

    Folders of another kind are passed over.
    """
    found = []
    for folder in folders:
        try:
            rank = list(CaptionerKind).index(recognize(folder))
        except ModelFileError:
            continue
        found.append((rank, -_weights_bytes(folder), str(folder), folder))
    return min(found)[3] if found else None


def read_config(folder: Path) -> dict[str, Any]:
    """The table in `folder`/config.json. Raises `ModelFileError`."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFileError(folder, f"is no model folder: it has no config.json; choose {ACCEPTED}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(path, f"cannot be read: {error}") from error
    parts = [config, *(config.get(name) or {} for name in PARTS)] if isinstance(config, dict) else [config]
    if not all(isinstance(part, dict) for part in parts):
        raise ModelFileError(path, "is damaged: it holds no table of settings")
    for part in parts:
        for name in OUTSIDE_CODE:
            if part.get(name):
                raise ModelFileError(path, f"sets {name}, which needs program code from elsewhere; remove it")
    return config


def _weights_bytes(folder: Path) -> int:
    endings = (".safetensors", ".bin")
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in endings)
