"""How the checks of the tiled sampler sample and watch; imported inside a ComfyUI process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from tiny_host_models import Models, picture
from torch import Tensor, nn

import nodes

Conditioning = list[Any]

HEIGHT, WIDTH = 24, 40
"""Of the canvas, in latents; with tiles of 16 that overlap by 8 at least 2 x 4 of them."""

SMALL = {"tile_size": 128, "tile_overlap": 64}
"""Several tiles on the canvas."""
WHOLE = {"tile_size": 4096, "tile_overlap": 64}


def sample(
    models: Models,
    model: ModelPatcher | None = None,
    *,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
    latents: Tensor | None = None,
    sampler: str = "euler",
    scheduler: str = "normal",
    steps: int = 3,
    cfg: float = 3.0,
    seed: int = 5,
) -> Tensor:
    """Latents as the host's KSampler node makes them, in the model's units."""
    if latents is None:
        latents = models.latents(HEIGHT, WIDTH)
    (result,) = nodes.common_ksampler(
        model or models.model,
        seed,
        steps,
        cfg,
        sampler,
        scheduler,
        positive or models.positive,
        negative or models.negative,
        {"samples": latents},
        denoise=0.6,
    )
    return models.model.model.process_latent_in(result["samples"])


@dataclass
class Prediction:
    canvas: Tensor
    """What was denoised, in the model's units."""
    clean: Tensor


def predict(
    models: Models,
    model: ModelPatcher | None = None,
    *,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
    cfg: float = 3.0,
    mask: Tensor | None = None,
) -> Prediction:
    """One evaluation of the whole canvas, by a sampler of one step."""
    model = model or models.model
    seen: list[Tensor] = []

    def once(denoise: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        seen.append(x.clone())
        return denoise(x, sigmas[0] * x.new_ones(len(x)), **extra_args)

    level = model.get_model_object("model_sampling").percent_to_sigma(0.5)
    latents = models.latents(HEIGHT, WIDTH)
    result = comfy.sample.sample_custom(
        model,
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(7)),
        cfg,
        comfy.samplers.KSAMPLER(once),
        torch.tensor([float(level), 0.0]),
        positive or models.positive,
        negative or models.negative,
        latents,
        noise_mask=mask,
        disable_pbar=True,
        seed=7,
    )
    return Prediction(seen[0], models.model.model.process_latent_in(result))


@dataclass
class Calls:
    """What a network was given: its positional and keyword arguments by call."""

    inputs: list[Tensor] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(len(x) for x in self.inputs)


@contextmanager
def watching(network: nn.Module) -> Iterator[Calls]:
    """Record the calls of a network of a MODEL or CONTROL_NET."""
    calls = Calls()

    def record(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.inputs.append((positional[0] if positional else named["x"]).clone())
        calls.timesteps.append((positional[1] if positional else named["timesteps"]).clone())
        calls.arguments.append({k: v.clone() if torch.is_tensor(v) else v for k, v in named.items()})

    hook = network.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def network_of(models: Models) -> nn.Module:
    return models.model.model.diffusion_model


def locate(tile: Tensor, canvas: Tensor) -> tuple[int, int]:
    """Where in `canvas` `[C,...,h,w]` a tile `[C,...,th,tw]` was cut out, whatever it was multiplied by.

    Raises `AssertionError` if it is from nowhere.
    """
    height, width = tile.shape[-2:]
    wanted = tile.flatten()
    found = [
        (float(torch.cosine_similarity(wanted, crop(canvas, top, left, tile).flatten(), 0)), top, left)
        for top in range(canvas.shape[-2] - height + 1)
        for left in range(canvas.shape[-1] - width + 1)
    ]
    likeness, top, left = max(found)
    assert likeness > 1 - 1e-5, f"a tile is no part of the canvas: {likeness}"
    return top, left


def crop(canvas: Tensor, top: int, left: int, tile: Tensor, factor: int = 1) -> Tensor:
    height, width = tile.shape[-2:]
    rows = slice(factor * top, factor * (top + height))
    return canvas[..., rows, factor * left : factor * (left + width)]


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the spread of values above 1."""
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / max(1.0, float(b.std())))


def hints(seed: int = 1) -> Tensor:
    """A picture of the size of the canvas."""
    return picture(8 * HEIGHT, 8 * WIDTH, seed)


def with_hint(
    models: Models, image: Tensor, *, strength: float = 1.0, start: float = 0.0, end: float = 1.0
) -> tuple[Conditioning, Conditioning]:
    """Both prompts with the family's ControlNet, as the host's node applies it."""
    return nodes.ControlNetApplyAdvanced().apply_controlnet(
        models.positive, models.negative, models.control, image, strength, start, end, vae=models.vae
    )


def changed(prompt: Conditioning, **values: Any) -> Conditioning:
    """A prompt with more said about it."""
    return [[text, {**more, **values}] for text, more in prompt]
