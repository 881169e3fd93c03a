"""What is sent of a picture and what is made of its result, around the request itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import PictureError
from ..resizing import check_image, join_alpha, split_alpha
from .errors import ResultError
from .journal import Entry
from .payload import check_picture_url, make_fingerprint
from .pictures import HARD_PIXELS, checksum, decode, is_black

SIZE_TOLERANCE = 16
"""Pixels by which a side of a result may differ from what was asked for; networks work in multiples of 8."""


@dataclass(frozen=True, kw_only=True)
class RemotePicture:
    """One picture to be sent, as pixels or as the address of a hosted one, and what is to be done with it."""

    arguments: Mapping[str, Any]
    """Of the request, without the picture (`payload.make_arguments`)."""
    label: str
    """What messages and the journal call it."""
    image: Tensor | Callable[[], Tensor] | None = None
    """`[1,C,H,W]` in 0..1, C of 1, 3 or 4, or what reads that when it is needed, each time the same.

    Transparency stays here and is resized beside the result.
    """
    url: str = ""

    def pixels(self) -> tuple[Tensor, Tensor | None]:
        """Colours `[1,3,H,W]` and alpha `[1,1,H,W]`, if it has any. Raises `PictureError`."""
        if self.image is None:
            raise PictureError(f"{self.label}: there is neither a picture nor an address of one")
        image = self.image if isinstance(self.image, Tensor) else self.image()
        return split_alpha(check_image(image.cpu()))


@dataclass(frozen=True)
class Upscaled:
    """A result: `[C,H,W]` float32 in 0..1, the seed as the service gave it (or empty), the request's id."""

    image: Tensor
    seed: str
    request_id: str
    note: str = ""
    """What there is to be said about it."""


@dataclass(frozen=True)
class Prepared:
    """A picture that is ready to be sent."""

    number: int
    source: RemotePicture
    fingerprint: str
    is_black: bool = False
    has_alpha: bool = False
    expected: tuple[int, int] | None = None
    """Height and width of the result."""

    @property
    def megapixels(self) -> float | None:
        return self.expected[0] * self.expected[1] / 1e6 if self.expected else None


def prepare(number: int, source: RemotePicture, *, server: str, app: str, credential: str) -> Prepared:
    """Check a picture and give it its fingerprint. Raises `PictureError` and `ParameterError`."""
    expected, black, alpha = None, False, None
    if source.url:
        picture = "url:" + check_picture_url(source.url)
    else:
        color, alpha = source.pixels()
        black = is_black(color[0])
        scale = float(source.arguments.get("scale", 2))
        expected = (round(color.shape[2] * scale), round(color.shape[3] * scale))
        if expected[0] * expected[1] > HARD_PIXELS:
            raise PictureError(
                f"{source.label}: the result would have {expected[1]} x {expected[0]} px; at most "
                f"{HARD_PIXELS // 10**6} megapixels can be read back. Nothing was submitted"
            )
        picture = checksum(color[0])
    fingerprint = make_fingerprint(
        server=server, app=app, credential=credential, arguments=source.arguments, picture=picture
    )
    return Prepared(number, source, fingerprint, black, alpha is not None, expected)


def finish(entry: Entry, data: bytes, one: Prepared) -> Upscaled:
    """The result in the bytes that came for a picture. Raises `ResultError`."""
    image = decode(data, expected=one.expected, request_id=entry.request_id)
    if not one.is_black:
        refuse_black(image, entry)
    note = ""
    if one.expected is not None:
        height, width = image.shape[1:]
        if max(abs(height - one.expected[0]), abs(width - one.expected[1])) > SIZE_TOLERANCE:
            note = f"the result has {width} x {height} px, not {one.expected[1]} x {one.expected[0]}"
    if one.has_alpha and image.shape[0] == 3:
        image = join_alpha(image[None], one.source.pixels()[1])[0]
    return Upscaled(image, entry.seed, entry.request_id, note)


def refuse_black(image: Tensor, entry: Entry) -> None:
    """Raise `ResultError` for a picture `[C,H,W]` as fal's safety check leaves it."""
    if is_black(image):
        raise ResultError(
            f"the result is wholly black, which is how fal's safety check shows that it has objected (seed "
            f"{entry.seed or 'unknown'}); change the prompt or the seed, or turn enable_safety_checks off",
            entry.request_id,
        )
