"""Show what each control does, from little to much: `python benchmarks/sweeps.py --help`.

Creativity, detail and shape_preservation are swept one at a time on the pictures of a folder; what each is to
change is measured against the input and plotted, and the table says whether it ever goes the wrong way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from enlarging import from_pillow, load_models, redraw_with, resample, shrink
from picture_metrics import detail_band, gmsd, luma
from PIL import Image
from quality import SUFFIXES, read_settings
from torch import Tensor

TOLERANCE = 0.02
"""Part of a curve's range by which it may go the wrong way and still count as monotonic."""


@dataclass(frozen=True)
class Sweep:
    """A control, its values, and what it is to change."""

    values: tuple[float, ...]
    label: str
    measure: Callable[[Tensor, Tensor], float]
    """Of luma of the enlarged input and of the result."""
    rises: bool


def change(before: Tensor, after: Tensor) -> float:
    return float((before - after).square().mean().sqrt())


def detail_gain(before: Tensor, after: Tensor) -> float:
    return detail_band(before, after)[0]


SWEEPS = {
    "creativity": Sweep((0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0), "change, levels of 255", change, True),
    "detail": Sweep((0, 0.5, 1, 2, 3, 5), "power above half of Nyquist, of the input's", detail_gain, True),
    "shape_preservation": Sweep(
        (0, 0.25, 0.5, 1, 1.5, 2, 3), "departure from the input's edges, GMSD", gmsd, False
    ),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="pictures; their halves are enlarged")
    add("--models", type=Path, required=True, metavar="PATH", help="base model: folder or file")
    add("--controlnet", type=Path, metavar="PATH", help="where it has none inside")
    add("--upscaler", type=Path, metavar="FILE", help="enlarges before the redraw")
    add("--controls", default=",".join(SWEEPS), help="which to sweep (default: %(default)s)")
    add("--settings", default="", metavar="NAME=VALUE,...", help="of all runs")
    add("--limit", type=int, default=4, metavar="N", help="pictures, spread over the folder (default: 4)")
    add("--json", type=Path, metavar="FILE")
    add("--plot", type=Path, metavar="PNG", help="draw the curves here; needs matplotlib")
    arguments = parser.parse_args(argv)
    files = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    files = files[:: max(len(files) // arguments.limit, 1)][: arguments.limit]
    models = load_models(arguments.models, arguments.controlnet)
    record = {}
    for control in arguments.controls.split(","):
        sweep = SWEEPS[control]
        curves: list[list[float]] = [[] for _ in files]
        for value in sweep.values:
            settings: dict[str, Any] = {**read_settings(arguments.settings), control: value}
            method = redraw_with(arguments.models, models, arguments.upscaler, settings)
            for file, curve in zip(files, curves, strict=True):
                small = shrink(even(from_pillow(Image.open(file))))
                curve.append(sweep.measure(luma(resample(small)[0]), luma(method(small)[0])))
        average = [sum(column) / len(files) for column in zip(*curves, strict=True)]
        record[control] = {
            "values": sweep.values,
            "measured": sweep.label,
            "pictures": dict(zip((file.name for file in files), curves, strict=True)),
            "mean": average,
            "monotonic": is_monotonic(average, sweep.rises),
        }
        print(f"\n{control}: {sweep.label}: {'' if record[control]['monotonic'] else 'NOT '}monotonic")
        for value, figure in zip(sweep.values, average, strict=True):
            print(f"{value:8g} {figure:10.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.plot:
        draw(record, arguments.plot)
    return 0


def even(image: Tensor) -> Tensor:
    return image[..., : image.shape[2] // 2 * 2, : image.shape[3] // 2 * 2]


def is_monotonic(curve: list[float], rises: bool) -> bool:
    """Whether no step goes the wrong way by more than `TOLERANCE` of the range, and the ends differ."""
    sign = 1 if rises else -1
    allowed = TOLERANCE * (max(curve) - min(curve))
    return sign * (curve[-1] - curve[0]) > 0 and all(sign * (b - a) >= -allowed for a, b in pairwise(curve))


def draw(record: dict[str, Any], file: Path) -> None:
    """One plot for each control: every picture's curve in grey, their mean in black."""
    from matplotlib.figure import Figure  # noqa: PLC0415  the figures can be had without it

    figure = Figure(figsize=(5 * len(record), 4), layout="constrained")
    for axes, (control, sweep) in zip(
        figure.subplots(1, len(record), squeeze=False)[0], record.items(), strict=True
    ):
        for curve in sweep["pictures"].values():
            axes.plot(sweep["values"], curve, color="0.7", linewidth=1)
        axes.plot(sweep["values"], sweep["mean"], color="black", marker="o")
        axes.set(xlabel=control, ylabel=sweep["measured"])
        axes.set_title("monotonic" if sweep["monotonic"] else "not monotonic")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
