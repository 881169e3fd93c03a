"""Draw the registry's icon and banner: a landscape, coarse on one side of a slider and fine on the other.

python assets/draw.py
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent
SMOOTHING = 4
"""Drawn this many times larger, for edges without steps."""

SKY = ((20, 24, 74), (242, 118, 106), (255, 208, 138))
"""From the top to the horizon."""
HILLS = (
    ((112, 70, 128), 0.58, 0.055, 2.1, 0.4),
    ((66, 48, 108), 0.70, 0.07, 1.3, 2.2),
    ((30, 30, 72), 0.84, 0.05, 1.8, 4.0),
)
"""Colour, height of the crest from the top, swing, waves across a square, phase."""
STARS = 40


def main() -> None:
    icon = rounded(compared(400, 400, block=25), 72)
    icon.save(FOLDER / "icon.png", optimize=True)
    banner = compared(1260, 540, block=36)
    banner.paste(HILLS[-1][0], (0, 392, *banner.size))
    write(banner, "Creative Upscaler", 68, 442)
    write(banner, "enlarges pictures and redraws them with detail", 27, 502)
    banner.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(FOLDER / "banner.png", optimize=True)


def compared(width: int, height: int, *, block: int) -> Image.Image:
    """The landscape in squares of `block` pixels left of the slider, as it is right of it."""
    fine = landscape(width, height)
    coarse = fine.resize((width // block, height // block), Image.Resampling.BOX)
    coarse = coarse.resize((width, height), Image.Resampling.NEAREST)
    middle = width // 2
    picture = fine.copy()
    picture.paste(coarse.crop((0, 0, middle, height)), (0, 0))
    return with_slider(picture, middle)


def landscape(width: int, height: int) -> Image.Image:
    large = (width * SMOOTHING, height * SMOOTHING)
    rows = np.linspace(0, 1.45, large[1])
    colors = np.stack([np.interp(rows, (0, 0.62, 1), [c[i] for c in SKY]) for i in range(3)], axis=1)
    picture = Image.fromarray(np.repeat(colors[:, None].astype(np.uint8), large[0], axis=1))
    draw = ImageDraw.Draw(picture)
    unit = large[1]
    random = np.random.default_rng(5)
    for x, y, size in random.random((STARS * width // height, 3)):
        radius = unit * (0.0015 + 0.0025 * size)
        disc(draw, x * large[0], y * 0.32 * unit, radius, (255, 240, 220))
    disc(draw, large[0] / 2, unit * 0.36, unit * 0.17, (255, 236, 190))
    for color, crest, swing, waves, phase in HILLS:
        points = [(x, ridge(x / unit, crest, swing, waves, phase) * unit) for x in range(0, large[0] + 8, 8)]
        draw.polygon([(0, unit), *points, (large[0], unit)], fill=color)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def ridge(x: float, crest: float, swing: float, waves: float, phase: float) -> float:
    """Height of a hill's crest at `x`, both in heights of the picture."""
    turn = 2 * math.pi * waves * x + phase
    return crest + swing * (math.sin(turn) + 0.45 * math.sin(2.7 * turn) + 0.16 * math.sin(7.3 * turn))


def with_slider(picture: Image.Image, at: int) -> Image.Image:
    large = picture.resize([side * SMOOTHING for side in picture.size], Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    x, y, unit = at * SMOOTHING, large.height * 0.53, large.height
    half = unit * 0.008
    draw.rectangle((x - half, 0, x + half, unit), fill="white")
    disc(draw, x, y, unit * 0.075, (255, 255, 255))
    for side in (-1, 1):
        tip, back, wing = x + side * unit * 0.05, x + side * unit * 0.02, unit * 0.027
        draw.polygon([(tip, y), (back, y - wing), (back, y + wing)], fill=HILLS[-1][0])
    return large.resize(picture.size, Image.Resampling.LANCZOS)


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: tuple[int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def rounded(picture: Image.Image, radius: int) -> Image.Image:
    mask = Image.new("L", [side * SMOOTHING for side in picture.size])
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *mask.size), radius * SMOOTHING, fill=255)
    picture = picture.convert("RGBA")
    picture.putalpha(mask.resize(picture.size, Image.Resampling.LANCZOS))
    return picture


def write(picture: Image.Image, text: str, size: int, top: int) -> None:
    draw = ImageDraw.Draw(picture)
    at = (picture.width / 2, top)
    draw.text(at, text, "white", ImageFont.load_default(size), "mm")


if __name__ == "__main__":
    main()
