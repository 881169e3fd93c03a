"""Picture files to tensors and back: JPEG, PNG and WebP; orientation, colour profile and transparency."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from ..pipelines.errors import PictureError, SizeLimitError
from .metadata import save_options

LONGEST_SIDE = {"jpeg": 65535, "webp": 16383}
"""Pixels per side that a format can hold; PNG has no limit that matters."""

ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    # EXIF 2.32, table 4: how the stored rows and columns lie on the sensor.
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


@dataclass(frozen=True)
class Picture:
    """A picture as the engine takes it, and what its file said about the colours."""

    image: Tensor
    """`[1,C,H,W]` float32 in 0..1, upright; C is 1 (grey), 3 or 4 (straight alpha)."""
    profile: bytes | None
    """ICC profile of the RGB values, if the file has one; None means sRGB."""


def read_picture(path: Path) -> Picture:
    """Read a JPEG, PNG or WebP file by its content; 16-bit PNG keep their precision.

    Colours that are not RGB (CMYK, or grey with a profile of its own) are converted to sRGB.
    Raises `PictureError` for what cannot be read, is damaged, or is an animation.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the engine has its own limit
            with Image.open(path, formats=["JPEG", "PNG", "WEBP"]) as file:
                if getattr(file, "is_animated", False) and file.format != "MPO":
                    raise PictureError(f"{path} is an animation; extract its frames and upscale those")
                profile = file.info.get("icc_profile")
                pixels, profile = _pixels(file, path, profile)
                upright = _UPRIGHT.get(file.getexif().get(ORIENTATION, 1))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{path} is no JPEG, PNG or WebP picture") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path} is too large to read: {error}") from error
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise PictureError(f"{path} cannot be read: {error}") from error
    if upright:
        pixels = upright(pixels)
    values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
    return Picture(values[None] / np.iinfo(pixels.dtype).max, profile)


def _pixels(file: Image.Image, path: Path, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Values `[H,W,C]`, 8 or 16 bits each, and the profile if it still describes them."""
    space = profile[16:20] if profile else None
    keeps_profile = profile if space == b"RGB " else None
    if file.format == "PNG" and path.read_bytes()[24] == 16:  # the bit depth in the IHDR chunk
        return _read_deep_png(path), keeps_profile
    if "transparency" in file.info or file.mode in ("LA", "PA", "La", "RGBa"):
        file = file.convert("RGBA")
    elif file.mode == "1":
        file = file.convert("L")
    elif file.mode == "CMYK" or (file.mode == "L" and space == b"GRAY"):
        file = _to_srgb(file, profile)
    elif file.mode not in ("L", "RGB", "RGBA"):
        file = file.convert("RGB")
    pixels = np.array(file)
    return pixels.reshape(*pixels.shape[:2], -1), keeps_profile


def _to_srgb(file: Image.Image, profile: bytes | None) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile or b""))
        converted = ImageCms.profileToProfile(file, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        converted = None  # no profile, or a broken one
    return converted or file.convert("RGB")


def _read_deep_png(path: Path) -> np.ndarray:
    # Pillow cuts 16-bit colours down to 8.
    from torchvision.io import ImageReadMode, decode_image  # noqa: PLC0415

    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    pixels = decode_image(data, ImageReadMode.UNCHANGED).movedim(0, -1).numpy()
    if pixels.shape[2] == 2:  # grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    return pixels


def check_format(format: str, height: int, width: int) -> None:
    """Raise `SizeLimitError` if the format cannot hold a picture of this size."""
    limit = LONGEST_SIDE.get(format)
    if limit and max(height, width) > limit:
        raise SizeLimitError(
            f"a {format} picture has at most {limit} px per side, and this would be {width} x {height}; "
            "use --format png"
        )


def write_picture(
    path: Path,
    image: Tensor,
    *,
    format: str,
    quality: int,
    profile: bytes | None,
    record: dict[str, Any],
) -> None:
    """Write `[3|4,H,W]` in 0..1 with 8 bits per channel, whole or not at all; folders are made.

    `format` is a key of `metadata.FORMATS`. JPEG has no transparency: there the picture is put on white.
    Raises OSError.
    """
    if format == "jpeg" and image.shape[0] == 4:
        image = image[:3] * image[3:] + (1 - image[3:])
    pixels = (image * 255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    options = save_options(format, record)
    if format != "png":
        options |= {"quality": quality}
    if format == "jpeg":
        options |= {"subsampling": 0}
    if profile:
        options |= {"icc_profile": profile}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(pixels).save(part, format=format, **options)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
