"""One tile is what diffusers' own image-to-image pipelines do, from the same latents and noise."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

from creative_upscaler.pipelines.noise import PictureNoise
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.redrawing import Redraw
from creative_upscaler.pipelines.runtime import Runtime
from photographs import photograph

PIPELINES = {
    ("SD_1_5", False): StableDiffusionImg2ImgPipeline,
    ("SD_1_5", True): StableDiffusionControlNetImg2ImgPipeline,
    ("SDXL", False): StableDiffusionXLImg2ImgPipeline,
    ("SDXL", True): StableDiffusionXLControlNetImg2ImgPipeline,
}
SCHEDULERS = {
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
}
SIZE = (128, 192)
SEED = 11


def diffusers_latents(models, latents, control_image, parameters, scheduler):
    """What diffusers' pipeline makes of `latents`, and the noise levels it went through."""
    kind = PIPELINES[models.model_type, control_image is not None]
    first, *second = models.text_encoders
    parts = {"text_encoder": first.module, "tokenizer": first.tokenizer}
    call = {}
    if second:
        parts |= {"text_encoder_2": second[0].module, "tokenizer_2": second[0].tokenizer}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if control_image is not None:
        parts |= {"controlnet": models.controlnet}
        call |= {
            "control_image": control_image,
            "controlnet_conditioning_scale": parameters.shape_preservation,
            "control_guidance_end": parameters.shape_end,
            "height": SIZE[0],
            "width": SIZE[1],
        }
    if models.model_type == "SDXL":
        call |= {"original_size": SIZE, "target_size": SIZE}
    pipeline = kind(vae=models.vae, unet=models.unet, scheduler=scheduler, **parts)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        prompt=parameters.prompt + parameters.prompt_suffix,
        negative_prompt=parameters.negative_prompt,
        image=latents,
        strength=parameters.creativity,
        num_inference_steps=parameters.num_inference_steps,
        guidance_scale=parameters.guidance_scale,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **call,
    ).images
    evaluations = int(parameters.num_inference_steps * parameters.creativity)
    alphas = scheduler.alphas_cumprod
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas[-evaluations - 1 :].double()
    else:
        alphas = alphas[scheduler.timesteps[-evaluations:].long()].double()
        sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1, dtype=torch.float64)])
    return result, sigmas


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "controlnet"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_one_tile_equals_diffusers_pipeline(request, family, controlled, sampler):
    models = request.getfixturevalue(family)
    parameters = UpscaleParameters(
        model_type=models.model_type,
        prompt="a spaceship before a flag",
        creativity=0.5,
        num_inference_steps=8,
        shape_preservation=0.8 if controlled else 0.0,
        shape_end=0.75,
        detail=0.0,
        seed=SEED,
        sampler=sampler,
    )
    check_against_diffusers(models, parameters, controlled, sampler)


def test_a_v_prediction_model_equals_diffusers_pipeline(sd15):
    v_model = dataclasses.replace(sd15, prediction_type="v_prediction")
    parameters = UpscaleParameters(
        prompt="a cup",
        creativity=0.5,
        num_inference_steps=8,
        shape_preservation=0.0,
        detail=0.0,
        seed=SEED,
        sampler="euler",
    )
    check_against_diffusers(v_model, parameters, False, "euler", prediction_type="v_prediction")


def check_against_diffusers(models, parameters, controlled, sampler, **configuration):
    canvas = photograph("astronaut")[:, :, 64 : 64 + SIZE[0], 128 : 128 + SIZE[1]]
    runtime = Runtime()
    redraw = Redraw.prepare(parameters, models, [parameters.prompt + parameters.prompt_suffix], SEED, runtime)
    scheduler = SCHEDULERS[sampler](
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        **({"set_alpha_to_one": True, "clip_sample": False} if sampler == "ddim" else {}),
        **({"final_sigmas_type": "zero"} if sampler == "dpmpp_2m" else {}),
        **configuration,
    )
    latents = redraw.codec.encode(canvas)
    theirs, sigmas = diffusers_latents(models, latents, canvas if controlled else None, parameters, scheduler)
    ours = redraw.redraw_latents(canvas, sigmas, PictureNoise([SEED]), slice(0, 1))
    assert ours.shape == theirs.shape == (1, 4, SIZE[0] // 8, SIZE[1] // 8)
    assert (theirs - latents).abs().mean() > 0.05, "the pipeline changed nothing, so nothing was compared"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
