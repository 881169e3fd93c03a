"""What the creative upscale does with ComfyUI's models, as numbers; imported by run_host_models.py."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import torch
from host_model_sampling import distance, network_of, watching
from tiny_host_models import Models, picture
from torch import Tensor

import nodes

PLAIN = {
    "seed": 11,
    "scale": 1.0,
    "creativity": 0.5,
    "detail": 0.0,
    "shape_preservation": 0.0,
    "shape_end": 1.0,
    "guidance_scale": 3.0,
    "num_inference_steps": 6,
    "color_fix": "none",
    "tile_size": 4096,
}
"""What the host's KSampler can do too."""

SMALL = {**PLAIN, "tile_size": 128, "tile_overlap": 64}
SIZE = (64, 128)
SEVERAL_TILES = (128, 192)

STOCHASTIC = ("ancestral", "sde", "ddpm", "lcm", "seeds", "sa_solver")
"""In the names of samplers that draw noise of their own."""


class UpscalingChecks:
    """Every check gives numbers, by the name of a family where it runs for several."""

    def __init__(self, pack: Any, families: dict[str, Models]) -> None:
        self.creative_upscale = pack("nodes.host_models.upscaling").creative_upscale
        self.levels = pack("nodes.host_models.noise_levels")
        self.parameters = pack("pipelines.parameters").UpscaleParameters
        self.families = families

    def upscale(
        self,
        models: Models,
        image: Tensor,
        values: dict[str, Any],
        *,
        control: bool = False,
        sampler: Any = "euler",
        schedule: Any = "normal",
    ) -> Any:
        return self.creative_upscale(
            image.movedim(-1, 1),
            self.parameters(**values),
            model=models.model,
            positive=models.positive,
            negative=models.negative,
            vae=models.vae,
            control_net=models.control if control else None,
            sampler=sampler,
            schedule=schedule,
        )

    def by_the_host(
        self,
        models: Models,
        image: Tensor,
        *,
        sampler: str = "euler",
        schedule: str = "normal",
        shape: float = 0.0,
    ) -> Tensor:
        """The same with nothing but the host's own nodes, `[1,3,H,W]`."""
        level = models.model.get_model_object("model_sampling")
        sigmas = self.levels.creative_sigmas(
            level, PLAIN["creativity"], PLAIN["num_inference_steps"], schedule, sampler
        )
        latents = models.vae.encode(image)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(PLAIN["seed"]))
        prompts = models.positive, models.negative
        if shape:
            prompts = nodes.ControlNetApplyAdvanced().apply_controlnet(
                *prompts, models.control, image, shape, 0.0, 1.0, vae=models.vae
            )
        latents = comfy.sample.sample_custom(
            models.model,
            noise,
            PLAIN["guidance_scale"],
            comfy.samplers.sampler_object(sampler),
            sigmas,
            *prompts,
            latents,
            disable_pbar=True,
            seed=PLAIN["seed"],
        )
        (decoded,) = nodes.VAEDecode().decode(models.vae, {"samples": latents})
        return decoded.movedim(-1, 1)

    def like_the_host_for_every_sampler(self) -> dict[str, float]:
        """Distances to the host's own nodes where one tile is the canvas, by sampler."""
        models, image = self.families["sd15"], picture(64, 64)
        names = [
            name for name in comfy.samplers.KSampler.SAMPLERS if not any(word in name for word in STOCHASTIC)
        ]
        return {
            name: distance(
                self.upscale(models, image, PLAIN, sampler=name).image,
                self.by_the_host(models, image, sampler=name),
            )
            for name in names
        }

    def like_the_host_for_every_family(self) -> dict[str, float]:
        """The same by family, with its ControlNet."""
        found, image = {}, picture(*SIZE)
        for name, models in self.families.items():
            shape = 0.6 if models.control is not None else 0.0
            values = {**PLAIN, "shape_preservation": shape}
            mine = self.upscale(
                models, image, values, control=bool(shape), sampler="dpmpp_2m", schedule="simple"
            )
            theirs = self.by_the_host(models, image, sampler="dpmpp_2m", schedule="simple", shape=shape)
            found[name] = distance(mine.image, theirs)
        return found

    def first_levels(self) -> dict[str, dict[str, list[float]]]:
        """First noise levels of every scheduler by creativity, and the last level of all."""
        found = {}
        for name, models in self.families.items():
            sampling = models.model.get_model_object("model_sampling")
            for creativity in (0.2, 0.5, 0.9):
                schedules = [
                    self.levels.creative_sigmas(sampling, creativity, 10, scheduler)
                    for scheduler in comfy.samplers.KSampler.SCHEDULERS
                ]
                found[f"{name} {creativity}"] = {
                    "first": [float(sigmas[0]) for sigmas in schedules],
                    "last": [float(sigmas[-1]) for sigmas in schedules],
                    "falls": [bool((sigmas.diff() < 0).all()) for sigmas in schedules],
                    "steps": [len(sigmas) - 1 for sigmas in schedules],
                    "cut": [
                        float(self.levels.cut_sigmas(sampling, sigmas, creativity)[0])
                        for sigmas in full_schedules(sampling)
                    ],
                }
        timesteps = torch.tensor([200.0, 500.0, 900.0])
        eps = self.families["sd15"].model.get_model_object("model_sampling").sigma(timesteps)
        found["published"] = {"sigma": eps.tolist()}
        return found

    def network_begins_at(self) -> dict[str, float]:
        """The first noise level that the network of SD1.5 saw, as a timestep, by scheduler."""
        models, found = self.families["sd15"], {}
        for scheduler in comfy.samplers.KSampler.SCHEDULERS:
            with watching(network_of(models)) as calls:
                self.upscale(models, picture(64, 64), {**PLAIN, "creativity": 0.4}, schedule=scheduler)
            found[scheduler] = float(calls.timesteps[0][0])
        return found

    def in_tiles(self) -> dict[str, Any]:
        """A run of several tiles, for every family with all it has."""
        found = {}
        for name, models in self.families.items():
            values = {**SMALL, "shape_preservation": 0.5, "creativity": 0.5, "num_inference_steps": 2}
            image = picture(70, 131)
            with watching(network_of(models)) as calls:
                done = self.upscale(
                    models, image, {**values, "scale": 1.5}, control=models.control is not None
                )
            found[name] = {
                "size": list(done.image.shape),
                "finite": bool(done.image.isfinite().all()),
                "spread": float(done.image.std()),
                "shapes": sorted({tuple(x.shape[-2:]) for x in calls.inputs}),
                "notes": list(done.notes),
            }
        return found

    def upscaled_pictures(self) -> dict[str, float]:
        """How far a picture depends on the others of its batch; the second has its own seed."""
        models = self.families["sd15"]
        both = picture(*SEVERAL_TILES, batch=2)
        values = {**SMALL, "shape_preservation": 0.5}
        pair = self.upscale(models, both, values, control=True).image
        first = self.upscale(models, both[:1], values, control=True).image
        second = self.upscale(models, both[1:], {**values, "seed": PLAIN["seed"] + 1}, control=True).image
        return {"first": distance(pair[:1], first), "second": distance(pair[1:], second)}

    def settings_of_an_upscale(self) -> dict[str, Any]:
        """What some settings cost and change."""
        models, image = self.families["sd15"], picture(*SEVERAL_TILES)
        found: dict[str, Any] = {}
        with watching(models.control.control_model) as calls:
            plain = self.upscale(models, image, SMALL, control=True)
        found["calls of the ControlNet at shape 0"] = len(calls.inputs)
        found["evaluations"] = plain.evaluations
        with watching(network_of(models)) as calls:
            self.upscale(models, image, {**SMALL, "guidance_scale": 1.0})
        found["samples at guidance 1"] = calls.samples
        with watching(network_of(models)) as calls:
            self.upscale(models, image, SMALL)
        found["samples with guidance"] = calls.samples
        found["repeated"] = distance(self.upscale(models, image, SMALL).image, plain.image)
        found["detail"] = distance(self.upscale(models, image, {**SMALL, "detail": 2.0}).image, plain.image)
        found["batch"] = distance(self.upscale(models, image, {**SMALL, "tile_batch": 1}).image, plain.image)
        shaped = self.upscale(models, image, {**SMALL, "shape_preservation": 1.0}, control=True)
        found["shape"] = distance(shaped.image, plain.image)
        found["model is unpatched"] = "sampler_calc_cond_batch_function" not in models.model.model_options
        return found


def full_schedules(sampling: Any) -> list[Tensor]:
    schedulers = comfy.samplers.KSampler.SCHEDULERS
    return [comfy.samplers.calculate_sigmas(sampling, name, 20) for name in schedulers]
