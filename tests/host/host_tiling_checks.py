"""What the patch that tiles a MODEL does, as numbers; imported by run_host_models.py."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.samplers
import torch
from host_model_sampling import (
    HEIGHT,
    SMALL,
    WHOLE,
    WIDTH,
    changed,
    distance,
    hints,
    locate,
    network_of,
    predict,
    sample,
    watching,
    with_hint,
)
from tiny_host_models import Models, build, with_lora
from torch import Tensor, nn

import nodes

FLOW_SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "res_multistep", "uni_pc")
"""Tried on a flow model; on SD1.5 all are."""


class TilingChecks:
    """Every check gives numbers, by the name of a family where it runs for several."""

    def __init__(self, patching: Any, families: dict[str, Models]) -> None:
        self.tile = patching.tile_model
        self.tiling_of = patching.tiling_of
        self.families = families

    def whole_canvas_for_every_sampler(self) -> dict[str, float]:
        """Distances to the host's KSampler where the tile is the canvas."""
        found = {}
        for name, samplers in (("sd15", comfy.samplers.KSampler.SAMPLERS), ("flux", FLOW_SAMPLERS)):
            models = self.families[name]
            tiled, latents = self.tile(models.model, **WHOLE), models.latents(8, 8)
            for sampler in samplers:
                mine, theirs = (sample(models, m, latents=latents, sampler=sampler) for m in (tiled, None))
                found[f"{name} {sampler}"] = distance(mine, theirs)
        return found

    def whole_canvas_with_everything(self) -> dict[str, float]:
        """The same with ControlNet for a part of the steps, LoRA, a mask on the prompt, and cfg 1."""
        found = {}
        for name, models in self.families.items():
            model = with_lora(models)
            positive, negative = models.positive, models.negative
            if models.control is not None:
                positive, negative = with_hint(models, hints(), strength=0.7, end=0.5)
            mask = torch.zeros(1, 8 * HEIGHT, 8 * WIDTH)
            mask[..., : 4 * WIDTH] = 1
            (masked,) = nodes.ConditioningSetMask().append(positive, mask, "default", 0.8)
            positive = [*positive, *changed(masked, uuid=None)] if name == "sd15" else positive
            for cfg in (1.0, 3.0) if name in ("sd15", "flux") else (3.0,):
                given = {"positive": positive, "negative": negative, "cfg": cfg}
                mine = sample(models, self.tile(model, **WHOLE), steps=2, **given)
                found[f"{name} {cfg}"] = distance(mine, sample(models, model, steps=2, **given))
        return found

    def batched(self) -> dict[str, list[float]]:
        """Distances of tiles in batches to tiles one by one, and of those to the untiled canvas."""
        found = {}
        for name, models in self.families.items():
            given: dict[str, Any] = {"steps": 2 if name == "sd15" else 1, "cfg": 1.5}
            if models.control is not None:
                given["positive"], given["negative"] = with_hint(models, hints())
            one, many = (
                sample(models, self.tile(models.model, tile_batch=n, **SMALL), **given) for n in (1, 3)
            )
            found[name] = [distance(many, one), distance(one, sample(models, **given))]
        return found

    def tiles(self) -> dict[str, Any]:
        """Where the tiles of one evaluation lie and how many samples the network saw."""
        found = {}
        for name, models in self.families.items():
            tiled = self.tile(models.model, tile_batch=2, **SMALL)
            with watching(network_of(models)) as calls:
                seen = predict(models, tiled, cfg=1.0)
            starts = [locate(tile, seen.canvas[0]) for tile in torch.cat(calls.inputs)]
            covered = torch.zeros(HEIGHT, WIDTH)
            for top, left in starts:
                covered[top : top + 16, left : left + 16] += 1
            with watching(network_of(models)) as guided:
                predict(models, tiled, cfg=3.0)
            found[name] = {
                "tiles": len(set(starts)),
                "samples": calls.samples,
                "guided": guided.samples,
                "least cover": float(covered.min()),
                "most at once": max(len(x) for x in guided.inputs),
                "counted": self.tiling_of(tiled).evaluations,
            }
        return found

    def sharing(self) -> dict[str, Any]:
        """Whether the model that was given is as before, in options and in results."""
        models = self.families["sd15"]
        before = sample(models)
        options = set(models.model.model_options), set(models.model.model_options["transformer_options"])
        tiled = self.tile(models.model, **SMALL)
        sample(models, tiled)
        after = set(models.model.model_options), set(models.model.model_options["transformer_options"])
        return {
            "same options": options == after,
            "tiling": self.tiling_of(models.model) is not None,
            "tiling of the clone": self.tiling_of(tiled) is not None,
            "tiling of its clone": self.tiling_of(tiled.clone()) is not None,
            "same results": distance(sample(models), before),
        }

    def memory(self) -> dict[str, Any]:
        """Results of a device with room for two samples at most, and for none."""
        models = self.families["sd15"]
        positive, negative = with_hint(models, hints())
        given = {"positive": positive, "negative": negative}
        expected = sample(models, self.tile(models.model, tile_batch=1, **SMALL), **given)
        found: dict[str, Any] = {}
        for room in (2, 0):
            with scarce_memory(network_of(models), room) as refused:
                try:
                    tiled = self.tile(models.model, tile_batch=8, **SMALL)
                    found[f"{room}"] = distance(sample(models, tiled, **given), expected)
                except Exception as error:
                    found[f"{room}"] = f"{type(error).__name__}: {error}"
            found[f"{room} refused"] = refused
        return found

    def pictures(self) -> dict[str, float]:
        """How far a picture depends on the others in its batch of latents."""
        found = {}
        for name in ("sd15", "qwen"):
            models = self.families[name]
            both = models.latents(HEIGHT, WIDTH, batch=2)
            tiled = self.tile(models.model, **SMALL)
            pair = sample(models, tiled, latents=both)
            found[f"{name} alone"] = distance(pair[:1], sample(models, tiled, latents=both[:1]))
            found[f"{name} whole"] = distance(
                sample(models, self.tile(models.model, **WHOLE), latents=both), sample(models, latents=both)
            )
        return found

    def leftovers(self) -> dict[str, bool]:
        """What is still there of models that nobody uses, without the garbage collector."""
        models = build("flux")
        positive, negative = with_hint(models, hints())
        gc.collect()
        gc.disable()
        sample(models, self.tile(models.model, **SMALL), positive=positive, negative=negative, steps=1)
        parts = {
            "model": models.model.model,
            "vae": models.vae.first_stage_model,
            "control": models.control.control_model,
        }
        references = {name: weakref.ref(part) for name, part in parts.items()}
        del models, positive, negative, parts
        found = {name: reference() is not None for name, reference in references.items()}
        gc.enable()
        return found

    def seams(self) -> dict[str, dict[str, float]]:
        """How visible borders are of a model that paints smoothly, with a tint that differs by tile."""
        found = {}
        for name in ("sd15", "flux"):
            models = self.families[name]
            smooth = models.model.clone()
            smooth.set_model_unet_function_wrapper(paint_smoothly)
            given = {"latents": models.latents(48, 64), "steps": 3, "cfg": 1.0}
            whole = sample(models, smooth, **given)
            hard = self.tile(smooth, tile_size=128, tile_overlap=0, moving_borders=False)
            tiled, hard = (sample(models, m, **given) for m in (self.tile(smooth, **SMALL), hard))
            found[name] = {
                "tiled": steepest_line(tiled, whole),
                "side by side": steepest_line(hard, whole),
                "difference": distance(tiled, whole),
            }
        return found


def paint_smoothly(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
    """A clean estimate without the noise of random weights, and the more of its mean."""
    clean = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
    padded = nn.functional.pad(clean, (4, 4, 4, 4), mode="reflect")
    return nn.functional.avg_pool2d(padded, 9, stride=1) + 2 * clean.mean((-2, -1), keepdim=True)


def steepest_line(latents: Tensor, control: Tensor) -> float:
    """Largest ratio of the mean gradients of both across a line, over the median of these ratios."""
    worst = []
    for dim in (-2, -1):
        mine, theirs = (x.diff(dim=dim).abs().mean((0, 1, -3 - dim)) for x in (latents, control))
        worst.append(float((mine / theirs).max() / (mine / theirs).median()))
    return max(worst)


@contextmanager
def scarce_memory(network: nn.Module, room: int) -> Iterator[list[int]]:
    """While it lasts, more than `room` samples at once run out of memory; gives the sizes refused so far."""
    forward = network.forward
    refused: list[int] = []

    def scarce(x: Tensor, *args: Any, **more: Any) -> Tensor:
        if len(x) > room:
            refused.append(len(x))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(x, *args, **more)

    with patch.object(network, "forward", scarce):
        yield refused
