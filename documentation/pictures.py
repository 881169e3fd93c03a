"""The pictures of the help pages: what settings do, shown with this project's own parts and photograph.

Nothing here is drawn by a diffusion model; where a copy was changed by hand, the picture says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "assets" / "chelsea.png"
FONT = "DejaVuSans.ttf"
SD15_UNET = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
SD15_VAE = {"block_out_channels": (128, 256, 512, 512)}
"""What planning has to know of Stable Diffusion 1.5, in diffusers' terms."""
DARK, LIGHT = (32, 32, 34), (225, 225, 225)
LANCZOS = Image.Resampling.LANCZOS
MARGIN, TITLE = 6, 22
WIDTH = 460
"""Pixels of every picture: the panel that shows them has 200 to 400."""


def part(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"creative_upscaler.pipelines.{name}")


def write_pictures(folder: Path) -> None:
    """Write all of them as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "pre_upscaler": pre_upscaler,
        "color_fix": color_fix,
        "tiles": tiles,
        "scale": scale,
        "creativity": creativity,
        "shape_preservation": shape_preservation,
    }
    for name, make in makers.items():
        make().save(folder / f"{name}.jpg", quality=82, optimize=True)


def pre_upscaler() -> Image.Image:
    """A crop enlarged 4 times: its pixels, Lanczos, and twice the built-in network."""
    crop = Image.open(PHOTO).convert("RGB").crop((122, 96, 177, 151))
    size = (crop.width * 4, crop.height * 4)
    upscaler = part("pre_upscaling").load_upscaler(part("starter").find_upscaler())
    picture, runtime = as_tensor(crop), part("runtime").Runtime()
    for factor in (2, 4):
        target = (crop.height * factor, crop.width * factor)
        picture = part("pre_upscaling").pre_upscale(picture, target, upscaler, runtime)
    shown = {
        "pixels as they are": crop.resize(size, Image.Resampling.NEAREST),
        "Lanczos": crop.resize(size, LANCZOS),
        "the built-in network": as_picture(picture),
    }
    return grid(shown, 2)


def color_fix() -> Image.Image:
    """A copy made too warm and too flat by hand, and each method's correction of it."""
    source = as_tensor(Image.open(PHOTO).convert("RGB").crop((90, 20, 340, 270)))
    warm = torch.tensor([1.12, 1.0, 0.72]).view(1, 3, 1, 1)
    shifted = ((source - 0.5) * 0.65 + 0.5).mul(warm).clamp(0, 1)
    fixed = {
        method: as_picture(part("color").fix_color(shifted.clone(), source, method))
        for method in ("wavelet", "adain", "lab")
    }
    shown = {"the source": as_picture(source), "shifted by hand": as_picture(shifted), **fixed}
    return grid(shown, 2)


def tiles() -> Image.Image:
    """The first step's tiles at two tile sizes, over the enlarged photograph."""
    parameters, planning = part("parameters").UpscaleParameters, part("planning")
    photo = Image.open(PHOTO).convert("RGB")
    height, width = photo.height * 4, photo.width * 4
    shape = planning.ModelShape.of_configs("SD_1_5", SD15_UNET, SD15_VAE)
    shown = {}
    for side in (512, 1024):
        plan = planning.plan_tiles((height, width), parameters(tile_size=side), shape)
        canvas = photo.resize((width // 4, height // 4)).point(lambda value: value * 0.75)
        draw = ImageDraw.Draw(canvas, "RGBA")
        placed = [tile for tile, _ in plan.at_step(0).weighted()]
        for number, tile in enumerate(placed):
            box = [tile.left * 2, tile.top * 2, (tile.left + tile.width) * 2, (tile.top + tile.height) * 2]
            color = [(255, 120, 90), (110, 190, 255), (150, 230, 130), (250, 220, 100)][number % 4]
            draw.rectangle(box, fill=(*color, 28), outline=(*color, 255), width=2)
        shown[f"tile_size {side}: {len(placed)} tiles"] = canvas
    return grid(shown, 1)


def scale() -> Image.Image:
    """Results in proportion to each other, by plain resampling: only sizes are shown."""
    photo = Image.open(PHOTO).convert("RGB")
    font, width = ImageFont.truetype(FONT, 14), WIDTH - 2 * MARGIN
    sheet = Image.new("RGB", (WIDTH, width * photo.height // photo.width + 2 * MARGIN), DARK)
    draw = ImageDraw.Draw(sheet)
    for factor in (4, 2, 1):
        size = (photo.height * factor, photo.width * factor)
        passes = len(part("resizing").pass_sizes((photo.height, photo.width), size))
        shown = photo.resize(
            (width * factor // 4, width * factor // 4 * photo.height // photo.width), LANCZOS
        )
        top = sheet.height - MARGIN - shown.height
        sheet.paste(shown, (MARGIN, top))
        draw.rectangle([MARGIN, top, MARGIN + shown.width, top + shown.height], outline=LIGHT)
        text = f"{factor}: {size[1]} x {size[0]}" + (f", {passes} passes" if passes > 1 else "")
        box = draw.textbbox((MARGIN + 3, top + 2), text, font)
        draw.rectangle(box, fill=DARK)
        draw.text((MARGIN + 3, top + 2), text, LIGHT, font)
    return sheet


def creativity() -> Image.Image:
    """How much of the picture and of noise there is where the redraw begins, on SD 1.5's schedule."""
    schedules = part("schedules")
    alphas = schedules.scaled_linear_alphas()
    amounts = [n / 100 for n in range(1, 101)]
    sigmas = [float(schedules.spread_sigmas(alphas, amount, 20, "normal")[0]) for amount in amounts]
    left = [1 / (1 + sigma**2) ** 0.5 for sigma in sigmas]
    noise = [sigma / (1 + sigma**2) ** 0.5 for sigma in sigmas]
    figure, (axis,) = chart(1)
    axis.plot(amounts, left, color="#6ec8ff", label="picture")
    axis.plot(amounts, noise, color="#ff8a65", label="noise")
    axis.axvspan(0.2, 0.5, color="white", alpha=0.08)
    axis.set_xlabel("creativity")
    axis.set_ylabel("amplitude at the start")
    axis.legend(facecolor="#202022", labelcolor="#e0e0e0")
    return drawn(figure)


def shape_preservation() -> Image.Image:
    """The weight of the ControlNet over the steps, and over its layers."""
    control, parameters = part("control"), part("parameters").UpscaleParameters
    figure, (over_steps, over_layers) = chart(2)
    runs = {
        "constant": {},
        "fading": {"shape_schedule": "fading"},
        "shape_end .85": {"shape_end": 0.85},
    }
    progress = [n / 200 for n in range(200)]
    for style, (name, values) in zip(("-", "-", "--"), runs.items(), strict=True):
        chosen = parameters(shape_preservation=0.6, **values)
        over_steps.plot(progress, [control.shape_weight(chosen, at) for at in progress], style, label=name)
    over_steps.set_xlabel("part of the steps")
    over_steps.set_ylabel("weight of the ControlNet")
    layers = range(13)
    for decay in (1.0, 0.825):
        weights = [0.6 * decay ** (12 - n) for n in layers]
        over_layers.plot(layers, weights, ".-", label=f"shape_decay {decay:g}")
    over_layers.set_xlabel("layer, from fine to coarse")
    for axis in (over_steps, over_layers):
        axis.set_ylim(-0.02, 0.68)
        axis.legend(facecolor="#202022", labelcolor="#e0e0e0")
    return drawn(figure)


def chart(count: int) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(WIDTH / 100, 2.6 * count), dpi=100, facecolor="#202022", layout="tight")
    axes = [figure.add_subplot(count, 1, n + 1, facecolor="#202022") for n in range(count)]
    for axis in axes:
        axis.tick_params(colors="#c0c0c0")
        axis.xaxis.label.set_color("#e0e0e0")
        axis.yaxis.label.set_color("#e0e0e0")
        axis.grid(color="#3a3a3e")
        for spine in axis.spines.values():
            spine.set_color("#5a5a5e")
    return figure, axes


def drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def grid(shown: dict[str, Image.Image], columns: int) -> Image.Image:
    """Pictures in columns with their names above, made as wide as all pictures of the help pages."""
    font = ImageFont.truetype(FONT, 14)
    width = (WIDTH - MARGIN * (columns + 1)) // columns
    fitted = [one.resize((width, one.height * width // one.width), LANCZOS) for one in shown.values()]
    height = max(one.height for one in fitted) + TITLE
    sheet = Image.new("RGB", (WIDTH, height * -(-len(shown) // columns) + MARGIN), DARK)
    draw = ImageDraw.Draw(sheet)
    for number, (name, one) in enumerate(zip(shown, fitted, strict=True)):
        left, top = MARGIN + number % columns * (width + MARGIN), number // columns * height
        draw.text((left, top + 3), name, LIGHT, font)
        sheet.paste(one, (left, top + TITLE))
    return sheet


def as_tensor(picture: Image.Image) -> Tensor:
    return pil_to_tensor(picture)[None].float() / 255


def as_picture(image: Tensor) -> Image.Image:
    return to_pil_image(image[0].clamp(0, 1))
