"""Put a picture and what became of it side by side: `python benchmarks/before_after.py INPUT RESULT OUT`.

Above both as a whole, the input enlarged by plain resampling (Lanczos); below a part of each, enlarged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageStat

ZOOM = 3
"""How large a pixel of the result is in the parts below."""

GAP, LABEL = 8, 18


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        raise SystemExit(__doc__)
    source, result, out = map(Path, arguments)
    compose(Image.open(source).convert("RGB"), Image.open(result).convert("RGB")).save(out)
    return 0


def compose(source: Image.Image, result: Image.Image) -> Image.Image:
    before = source.resize(result.size, Image.Resampling.LANCZOS)
    width, height = result.size
    part = (width // ZOOM, height // ZOOM)
    box = find_detail(result, part)
    zoomed = (part[0] * ZOOM, part[1] * ZOOM)
    sheet = Image.new("RGB", (2 * width + GAP, LABEL + height + GAP + zoomed[1]), "white")
    draw = ImageDraw.Draw(sheet)
    sides = ((0, before, "before: plain resampling"), (width + GAP, result, "after"))
    for left, picture, label in sides:
        draw.text((left + 2, 3), label, fill="black")
        sheet.paste(picture, (left, LABEL))
        crop = picture.crop(box).resize(zoomed, Image.Resampling.NEAREST)
        sheet.paste(crop, (left, LABEL + height + GAP))
    return sheet


def find_detail(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a box of this size has the most edges."""
    edges = picture.convert("L").filter(ImageFilter.FIND_EDGES)
    width, height = size
    boxes = [
        (left, top, left + width, top + height)
        for top in range(0, picture.height - height + 1, max(height // 4, 1))
        for left in range(0, picture.width - width + 1, max(width // 4, 1))
    ]
    return max(boxes, key=lambda box: ImageStat.Stat(edges.crop(box)).mean[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
