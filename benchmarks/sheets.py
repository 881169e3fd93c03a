"""Sheets of results side by side: crops, enlarged so that one sees pixels, with the methods' names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from enlarging import to_pillow
from PIL import Image, ImageDraw
from torch import Tensor

CROP, ZOOM = 96, 3
"""Side of a crop in pixels of the result, and how many pixels of the sheet each becomes."""

GAP, LABEL = 4, 14


@dataclass(frozen=True)
class Row:
    """One picture, `[1,3,H,W]` in 0..1, and what each method made of `small`."""

    name: str
    truth: Tensor
    small: Tensor
    results: dict[str, Tensor]


def save_sheet(rows: list[Row], file: Path) -> None:
    """Two crops of every picture: where it has most detail, and where the median of it is."""
    labels = ["input", *rows[0].results, "truth"]
    side = CROP * ZOOM
    crops = [(row, place) for row in rows for place in find_places(row.truth)]
    sheet = Image.new("RGB", (len(labels) * (side + GAP), len(crops) * (side + LABEL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (row, (top, left)) in enumerate(crops):
        doubled = F.interpolate(row.small, scale_factor=2, mode="nearest")
        pictures = [doubled, *row.results.values(), row.truth]
        for j, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
            crop = to_pillow(picture[..., top : top + CROP, left : left + CROP])
            x, y = j * (side + GAP), i * (side + LABEL + GAP)
            draw.text((x + 2, y + 1), f"{label}  {row.name}" if j == 0 else label, fill="black")
            zoomed = crop.resize((crop.width * ZOOM, crop.height * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(zoomed, (x, y + LABEL))
    sheet.save(file)


def find_places(truth: Tensor) -> list[tuple[int, int]]:
    """Top left corners, on even pixels, of the crops with the most and with the median of gradients."""
    gray = truth.mean(1, keepdim=True)
    change = gray.diff(dim=2)[..., :, :-1].abs() + gray.diff(dim=3)[..., :-1, :].abs()
    height, width = change.shape[-2:]
    sums = F.avg_pool2d(change, (min(CROP, height), min(CROP, width)), stride=8)[0, 0]
    order = sums.flatten().argsort()
    places = [int(order[-1]), int(order[len(order) // 2])]
    return [(place // sums.shape[1] * 8, place % sums.shape[1] * 8) for place in places]
