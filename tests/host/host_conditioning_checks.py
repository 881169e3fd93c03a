"""What tiles are given of hints and conditioning, as numbers; imported by run_host_models.py."""

from __future__ import annotations

from typing import Any

import torch
from host_model_sampling import (
    HEIGHT,
    SMALL,
    WIDTH,
    changed,
    crop,
    distance,
    hints,
    locate,
    network_of,
    predict,
    sample,
    watching,
    with_hint,
)
from tiny_host_models import Models, build_inpainting, with_lora
from torch import Tensor

import nodes


class ConditioningChecks:
    """Every check gives numbers, by the name of a family where it runs for several."""

    def __init__(self, patching: Any, families: dict[str, Models]) -> None:
        self.tile = patching.tile_model
        self.families = families

    def _controlled(self) -> dict[str, Models]:
        return {name: models for name, models in self.families.items() if models.control is not None}

    def hints_of_tiles(self) -> dict[str, float]:
        """Largest distance of the hint that a tile's ControlNet saw to that part of the whole hint."""
        found = {}
        for name, models in self._controlled().items():
            image = hints()
            positive, negative = with_hint(models, image)
            network = models.control.control_model
            with watching(network) as untiled:
                seen = predict(models, positive=positive, negative=negative)
            whole = untiled.arguments[0]["hint"][0]
            factor = whole.shape[-1] // WIDTH
            with watching(network) as calls:
                predict(models, self.tile(models.model, **SMALL), positive=positive, negative=negative)
            worst, places = 0.0, set()
            for x, arguments in zip(calls.inputs, calls.arguments, strict=True):
                hint = arguments["hint"].expand(len(x), *arguments["hint"].shape[1:])
                for tile, part in zip(x, hint, strict=True):
                    place = locate(tile, seen.canvas[0])
                    places.add(place)
                    worst = max(worst, distance(part, crop(whole, *place, tile, factor)))
            found[name] = worst
            found[f"{name} tiles"] = len(places)
        return found

    def two_hints(self) -> dict[str, list[float]]:
        """How the same patched model answers a hint, another of its size, and the first again."""
        found = {}
        for name, models in self._controlled().items():
            tiled = self.tile(models.model, **SMALL)
            first, second, again = (
                sample(models, tiled, positive=p, negative=n, steps=1)
                for p, n in (with_hint(models, hints(seed)) for seed in (1, 2, 1))
            )
            found[name] = [distance(second, first), distance(again, first)]
        return found

    def effect_everywhere(self) -> dict[str, float]:
        """Least mean change of any 4 x 4 latents by LoRA and by ControlNet: 0 where one has no effect."""
        found = {}
        for name, models in self.families.items():
            tiled = self.tile(models.model, **SMALL)
            plain = predict(models, tiled).clean
            patched = predict(models, self.tile(with_lora(models), **SMALL)).clean
            found[f"{name} lora"] = least_change(patched, plain)
            if models.control is not None:
                positive, negative = with_hint(models, hints())
                controlled = predict(models, tiled, positive=positive, negative=negative).clean
                found[f"{name} control"] = least_change(controlled, plain)
        return found

    def regional(self) -> dict[str, list[float]]:
        """Least change inside and largest outside of where a second prompt was put, by area and by mask."""
        found = {}
        top, left, height, width = 8, 20, 12, 16
        mask = torch.zeros(1, 8 * HEIGHT, 8 * WIDTH)
        mask[:, 8 * top : 8 * (top + height), 8 * left : 8 * (left + width)] = 1
        for name in ("sd15", "flux"):
            models = self.families[name]
            tiled = self.tile(models.model, **SMALL)
            plain = predict(models, tiled).clean
            other = models.negative
            pixels = (8 * width, 8 * height, 8 * left, 8 * top)
            (area,) = nodes.ConditioningSetArea().append(other, *pixels, 1.0)
            share = (width / WIDTH, height / HEIGHT, left / WIDTH, top / HEIGHT)
            (percentage,) = nodes.ConditioningSetAreaPercentage().append(other, *share, 1.0)
            (masked,) = nodes.ConditioningSetMask().append(other, mask, "default", 1.0)
            (bounds,) = nodes.ConditioningSetMask().append(other, mask, "mask bounds", 1.0)
            ways = {"area": area, "percentage": percentage, "mask": masked, "bounds": bounds}
            for way, prompt in ways.items():
                clean = predict(models, tiled, positive=models.positive + prompt).clean
                inside = (clean - plain)[..., top : top + height, left : left + width]
                outside = (clean - plain).clone()
                outside[..., top : top + height, left : left + width] = 0
                found[f"{name} {way}"] = [
                    least_change(inside, torch.zeros_like(inside)),
                    float(outside.abs().max()),
                ]
        return found

    def references(self) -> dict[str, Any]:
        """Largest distance of what a tile was given beside it to that part of the whole."""
        found = {}
        for name in ("flux", "qwen"):
            models = self.families[name]
            reference = models.latents(HEIGHT, WIDTH, seed=3)
            positive = changed(models.positive, reference_latents=[reference])
            with watching(network_of(models)) as calls:
                seen = predict(models, self.tile(models.model, **SMALL), positive=positive, cfg=1.0)
            whole = models.model.model.process_latent_in(reference)[0]
            found[name] = [
                distance(given, crop(whole, *locate(tile, seen.canvas[0]), tile))
                for x, arguments in zip(calls.inputs, calls.arguments, strict=True)
                for tile, given in zip(x, arguments["ref_latents"][0], strict=True)
            ]
        models = build_inpainting()
        mask = torch.zeros(1, 1, 8 * HEIGHT, 8 * WIDTH)
        mask[..., 4 * WIDTH :] = 1
        given = {"concat_latent_image": models.latents(HEIGHT, WIDTH, seed=4), "concat_mask": mask}
        prompts = {
            "positive": changed(models.positive, **given),
            "negative": changed(models.negative, **given),
        }
        with watching(network_of(models)) as untiled:
            seen = predict(models, **prompts)
        whole = untiled.inputs[0][0]
        with watching(network_of(models)) as calls:
            predict(models, self.tile(models.model, **SMALL), **prompts)
        found["inpainting"] = [
            distance(x[4:], crop(whole, *locate(x[:4], seen.canvas[0]), x)[4:])
            for x in torch.cat(calls.inputs)
        ]
        return found

    def sizes(self) -> dict[str, list[float]]:
        """Distances of the size conditioning that SDXL was given with every tile."""
        models = self.families["sdxl"]
        with watching(network_of(models)) as untiled:
            predict(models, cfg=1.0)
        with watching(network_of(models)) as calls:
            predict(models, self.tile(models.model, **SMALL), cfg=1.0)
        whole = untiled.arguments[0]["y"]
        with watching(network_of(models)) as small:
            sample(models, latents=models.latents(16, 16), steps=1, cfg=1.0)
        of_tile = small.arguments[0]["y"]
        seen = [y[None] for arguments in calls.arguments for y in arguments["y"]]
        return {
            "to that of a picture of the tile's size": [distance(y, of_tile) for y in seen],
            "to that of the whole": [distance(y, whole) for y in seen],
        }


def least_change(a: Tensor, b: Tensor) -> float:
    change = (a - b).abs().flatten(0, -3).mean(0)
    return float(torch.nn.functional.avg_pool2d(change[None, None], 4).min())
