"""What a result says about how it was made: one JSON object inside the picture.

In PNG it is the text chunk `creative_upscaler`, in JPEG and WebP the EXIF field UserComment. It names files
without their folders:

    {"creative_upscaler": version, "source": {"name", "sha256"}, "seed", "prompt",
     "width", "height", "settings": {...}, "models": {...}, "safety_checked": false}
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..pipelines.parameters import UpscaleParameters

KEY = "creative_upscaler"

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Formats that are read and written, with the suffix they are given."""
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
# EXIF 2.32, table 9: the comment's character code comes first, in eight bytes.
ASCII = b"ASCII\0\0\0"


def make_record(
    source: Path,
    *,
    parameters: UpscaleParameters,
    models: dict[str, Any],
    seed: int,
    prompt: str,
    width: int,
    height: int,
    safety_checked: bool,
) -> dict[str, Any]:
    """The record of a result made from the picture `source` with these settings."""
    return {
        KEY: _version(),
        "source": {"name": source.name, "sha256": sha256(source)},
        "seed": seed,
        "prompt": prompt,
        "width": width,
        "height": height,
        "settings": settings_of(parameters),
        "models": models,
        "safety_checked": safety_checked,
    }


def settings_of(parameters: UpscaleParameters) -> dict[str, Any]:
    """Every setting but the seed, which a record has apart, and the paths of models, which are private."""
    return {
        parameter.name: getattr(parameters, parameter.name)
        for parameter in parameters.declared()
        if parameter.name != "seed" and not parameter.model_source
    }


def sha256(path: Path) -> str:
    """Checksum of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_options(format: str, record: dict[str, Any]) -> dict[str, Any]:
    """Options of Pillow's `save` that put the record into a picture of this format."""
    text = json.dumps(record)  # plain ASCII, whatever the prompt
    if format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(KEY, text)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = ASCII + text.encode()
    return {"exif": exif}


def read_record(picture: Path) -> dict[str, Any] | None:
    """The record in a picture, or None where there is none: another program's picture, or no picture."""
    try:
        with Image.open(picture, formats=["PNG", "JPEG", "WEBP"]) as image:
            if image.format == "PNG":
                image.load()  # text chunks may follow the pixels
                text = image.info.get(KEY, "")
            else:
                comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
                text = comment.removeprefix(ASCII).decode() if isinstance(comment, bytes) else ""
        record = json.loads(text)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None
    is_ours = isinstance(record, dict) and KEY in record
    if not is_ours or not isinstance(record.get("settings"), dict) or "seed" not in record:
        return None
    return record


def _version() -> str:
    try:
        return metadata.version("creative-upscaler")
    except metadata.PackageNotFoundError:
        return "not installed"
