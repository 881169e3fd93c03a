"""Pictures on their way out (always PNG) and in (only what is expected, checked before it is decoded)."""

from __future__ import annotations

import hashlib
import warnings
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .errors import ResultError

FORMATS = ("PNG", "JPEG", "WEBP")

HARD_PIXELS = 178_000_000
"""Pillow refuses pictures a little above this, unless told otherwise for the whole process."""
SOFT_PIXELS = 64_000_000
"""What a result may have however small it was expected to be."""


def checksum(image: Tensor) -> str:
    """SHA-256 of the pixels `[C,H,W]` in 0..1, as they would be sent: 8 bits per channel."""
    pixels = _bytes(image)
    return hashlib.sha256(f"{list(pixels.shape)}".encode() + pixels.tobytes()).hexdigest()


def decode(data: bytes, *, expected: tuple[int, int] | None, request_id: str) -> Tensor:
    """The picture `[3|4,H,W]` float32 in 0..1 in the bytes of a PNG, JPEG or WebP file.

    `expected` is its height and width. Raises `ResultError` for anything else, and before decoding for a
    picture with far more pixels than that.
    """
    allowed = SOFT_PIXELS
    if expected is not None:
        allowed = max(allowed, int(1.1 * expected[0] * expected[1]))
    allowed = min(allowed, HARD_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is the one below
            with Image.open(BytesIO(data), formats=FORMATS) as file:
                if file.width * file.height > allowed:
                    raise ResultError(
                        f"the result has {file.width} x {file.height} px; at most {allowed} were expected",
                        request_id,
                    )
                has_alpha = file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info
                pixels = np.array(file.convert("RGBA" if has_alpha else "RGB"))
    except ResultError:
        raise
    except Image.DecompressionBombError:
        raise ResultError("the result has too many pixels to be read", request_id) from None
    except UnidentifiedImageError:
        raise ResultError("the result is no PNG, JPEG or WebP picture", request_id) from None
    except (OSError, ValueError, SyntaxError, RuntimeError):
        raise ResultError("the result is a damaged picture", request_id) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def is_black(picture: Tensor) -> bool:
    """Whether `[C,H,W]` shows nothing at all, as fal's safety check leaves it."""
    return float(picture[:3].max()) < 1 / 255


def encode_png(image: Tensor) -> bytes:
    """`[3,H,W]` in 0..1 as a PNG of 8 bits per channel."""
    file = BytesIO()
    Image.fromarray(_bytes(image)).save(file, format="PNG", compress_level=4)
    return file.getvalue()


def _bytes(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
