"""Measure how well pictures are enlarged twice: `python benchmarks/quality.py --help`.

Pictures of a folder are halved and enlarged again by each method, and compared with what they were.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from enlarging import (
    Method,
    degrade,
    enlarge_with,
    from_pillow,
    load_models,
    redraw_with,
    resample,
    resample_consistently,
    shrink,
)
from gates import judge
from picture_metrics import compare, luma, psnr
from PIL import Image
from sheets import Row, save_sheet

RUNS = {
    # From pure noise in one evaluation: what a network makes of the control picture alone.
    "one-step": "creativity=1,num_inference_steps=1,detail=0,guidance_scale=1,shape_preservation=1",
    # Close to the input, as CCSR's sampler ends.
    "truncated": "creativity=.25,num_inference_steps=12,detail=0,guidance_scale=1,shape_preservation=1",
    "creative": "",
}
"""Settings of the creative upscale that are measured unless others are asked for; the last: its defaults."""

COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 4),
    "gmsd": ("GMSD", 4),
    "detail_energy": ("hf energy", 2),
    "detail_amplitude": ("hf ampl.", 2),
    "detail_correlation": ("hf corr", 2),
    "spectrum_distance": ("spectrum dB", 2),
    "input_psnr": ("to input dB", 1),
    "grain": ("grain", 2),
    "seconds": ("s", 1),
}
"""Heading and decimals of every figure."""


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    methods = make_methods(arguments)
    files = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    files = files[:: max(len(files) // arguments.limit, 1)][: arguments.limit] if arguments.limit else files
    if not files:
        raise SystemExit(f"{arguments.folder} holds no pictures ({', '.join(SUFFIXES)})")
    variants = ["degraded"] if arguments.degraded else ["clean"]
    variants = ["clean", "degraded"] if arguments.both else variants
    record: dict[str, Any] = {
        "folder": arguments.folder.name,
        "pictures": [file.name for file in files],
        "settings": {name: getattr(method, "settings", {}) for name, method in methods.items()},
        "variants": {},
    }
    for variant in variants:
        figures, rows = measure(files, methods, variant == "degraded", arguments.sheet_rows)
        record["variants"][variant] = summarise(figures)
        print_table(f"{arguments.folder.name}, {len(files)} pictures, {variant}", record["variants"][variant])
        if arguments.gates:
            names = [file.stem for file in arguments.upscaler]
            for name, gates in judge(record["variants"][variant], variant, names).items():
                record["variants"][variant][name]["gates"] = gates
                verdicts = (f"{gate}: {'passed' if passed else 'FAILED'}" for gate, passed in gates.items())
                print(f"{name}: " + "; ".join(verdicts))
        if arguments.sheet:
            name = arguments.sheet
            save_sheet(rows, name if len(variants) == 1 else name.with_stem(f"{name.stem}-{variant}"))
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="pictures that are the truth")
    variant = parser.add_mutually_exclusive_group()
    variant.add_argument("--degraded", action="store_true", help="blur, noise and JPEG on the small pictures")
    variant.add_argument("--both", action="store_true", help="clean and degraded small pictures")
    add(
        "--upscaler",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="repeatable; first: see --pre",
    )
    add("--models", type=Path, metavar="PATH", help="base model of the creative upscale: folder or file")
    add("--controlnet", type=Path, metavar="PATH", help="where it has none inside")
    add("--vae", type=Path, metavar="PATH")
    add(
        "--pre",
        choices=("first", "none"),
        default="first",
        help="enlarge before the redraw with first upscaler",
    )
    runs = ", ".join(RUNS)
    add(
        "--run",
        action="append",
        default=[],
        metavar="NAME[:SETTING=VALUE,...]",
        help=f"creative upscale with these settings; repeatable (default: {runs})",
    )
    add("--limit", type=int, default=0, metavar="N", help="only N pictures, spread over the folder")
    add("--gates", action="store_true", help="say what reaches what the starter models must")
    add("--json", type=Path, metavar="FILE", help="write everything measured here")
    add("--sheet", type=Path, metavar="PNG", help="write crops of the results side by side here")
    add("--sheet-rows", type=int, default=6, metavar="N", help="pictures on the sheet (default: 6)")
    return parser.parse_args(argv)


def make_methods(arguments: argparse.Namespace) -> dict[str, Method]:
    methods: dict[str, Method] = {"lanczos": resample, "lanczos-bp": resample_consistently}
    for file in arguments.upscaler:
        methods[file.stem] = enlarge_with(file)
    if arguments.models:
        models = load_models(arguments.models, arguments.controlnet, arguments.vae)
        pre = arguments.upscaler[0] if arguments.upscaler and arguments.pre == "first" else None
        for run in arguments.run or RUNS:
            name, _, text = run.partition(":")
            settings = read_settings(text or RUNS.get(name, ""))
            methods[name] = redraw_with(arguments.models, models, pre, settings)
    return methods


def read_settings(text: str) -> dict[str, Any]:
    """`a=1,b=.5,c=word` as a table; numbers are numbers."""
    settings: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise SystemExit(f"got {pair!r}; settings are given as NAME=VALUE,NAME=VALUE")
        try:
            settings[name.strip()] = int(value)
        except ValueError:
            try:
                settings[name.strip()] = float(value)
            except ValueError:
                settings[name.strip()] = value
    return settings


def measure(
    files: list[Path], methods: dict[str, Method], degraded: bool, sheet_rows: int
) -> tuple[dict[str, list[dict[str, float]]], list[Row]]:
    """The figures of every method for every picture, and what a sheet shows."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    rows = []
    for index, file in enumerate(files):
        truth = from_pillow(Image.open(file))
        truth = truth[..., : truth.shape[2] // 2 * 2, : truth.shape[3] // 2 * 2]
        clean = shrink(truth)
        small = degrade(clean, index) if degraded else clean
        results = {}
        for name, method in methods.items():
            start = time.perf_counter()
            result = results[name] = method(small)
            seconds = time.perf_counter() - start
            back = shrink(result)
            figures[name].append(
                compare(truth[0], result[0])
                | {"input_psnr": psnr(luma(small[0]), luma(back[0])), "seconds": seconds}
            )
        if len(rows) < sheet_rows:
            rows.append(Row(file.stem, truth, small, results))
        if sys.stderr.isatty():
            print(f"\r{index + 1} of {len(files)} pictures", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return figures, rows


def summarise(figures: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Of each method the means over all pictures, and the figures of each."""
    return {
        name: {
            "mean": {key: mean([picture[key] for picture in pictures]) for key in pictures[0]},
            "pictures": pictures,
        }
        for name, pictures in figures.items()
    }


def mean(values: list[float]) -> float:
    """Of those that are numbers: without flat areas a picture has no grain."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def print_table(title: str, summary: dict[str, Any]) -> None:
    width = max(map(len, summary)) + 2
    print(f"\n{title}\n")
    print(" " * width + "".join(f"{heading:>13}" for heading, _ in COLUMNS.values()))
    for name, entry in summary.items():
        cells = (f"{entry['mean'][key]:13.{digits}f}" for key, (_, digits) in COLUMNS.items())
        print(f"{name:<{width}}" + "".join(cells))


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
