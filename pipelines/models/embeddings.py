"""Textual inversion files: words whose vectors stand in for rows of the text encoders' embedding tables.

Textual inversion: Gal et al. 2022, arXiv:2208.01618.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import ModelFileError
from .files import read_tensors


@dataclass(frozen=True)
class TextualInversion:
    """A word that a file teaches: `token`, the file's name without ending in lower case, written in a prompt.

    `vectors` has one float32 tensor `[n, width]` for each text encoder: "clip_l" and, for SDXL, "clip_g".
    """

    token: str
    vectors: dict[str, Tensor]


def read_embedding(path: Path, widths: Mapping[str, int]) -> TextualInversion:
    """Read a textual inversion in the layout of A1111 (`.pt`, `.safetensors`) or diffusers (`.bin`).

    `widths` are those of the loaded model's embedding tables: {"clip_l": 768} for SD1.5, {"clip_l": 768,
    "clip_g": 1280} for SDXL. Where a file does not say which encoder a tensor is for, the width tells.
    Raises ModelFileError if the file is not one word with vectors for each of these encoders and no other.
    """
    vectors: dict[str, Tensor] = {}
    for name, tensor in _word_tensors(path).items():
        tensor = tensor[None] if tensor.ndim == 1 else tensor
        if tensor.ndim != 2 or tensor.numel() == 0 or not tensor.is_floating_point():
            raise ModelFileError(
                path, f"is no textual inversion: {name} is {list(tensor.shape)}, not [n, width]"
            )
        width = tensor.shape[1]
        encoder = _ENCODERS.get(name) or next((key for key, value in widths.items() if value == width), None)
        if encoder is None or widths.get(encoder) != width:
            wanted = " and ".join(f"{value} ({key})" for key, value in widths.items())
            raise ModelFileError(
                path,
                f"is for {_family(name, width)}, the loaded model needs {wanted}; choose one made for it",
            )
        if encoder in vectors:
            raise ModelFileError(path, f"has several words; one file is one word here ({name} is the second)")
        vectors[encoder] = tensor.float()
    for encoder in widths:
        if encoder not in vectors:
            found = " and ".join(f"{key} (width {widths[key]})" for key in vectors)
            raise ModelFileError(
                path,
                f"has vectors for {found} only, the loaded model also needs {encoder}; choose another file",
            )
    return TextualInversion(path.stem.lower(), vectors)


# Names by which files say which encoder they mean; those without are the names of words.
_ENCODERS = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "text_encoders_0": "clip_l",  # diffusers' advanced training scripts
    "text_encoders_1": "clip_g",
}
_A1111_WORDS = "string_to_param."


def _word_tensors(path: Path) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    words = {
        key.removeprefix(_A1111_WORDS): tensor
        for key, tensor in tensors.items()
        if key.startswith(_A1111_WORDS)
    }
    if not (words or tensors):
        raise ModelFileError(path, "has no tensors, so it is no textual inversion")
    return words or tensors


def _family(name: str, width: int) -> str:
    """What the file was made for, in the published widths."""
    if _ENCODERS.get(name) == "clip_g" or width == 1280:
        return f"SDXL (width {width} for clip_g)"
    families = {768: "SD 1.x", 1024: "SD 2.x"}
    return f"{families.get(width, 'another model')} (width {width})"
