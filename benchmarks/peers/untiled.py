"""diffusers' ControlNet image-to-image pipelines on the whole canvas at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from jobs import CONTROL_WEIGHT, CREATIVITY, GUIDANCE, Job, Program, make_picture, torch_dtype
from networks import make_controlnet, make_unet, make_vae
from torch import Tensor


def prepare(job: Job) -> Program:
    dtype, device = torch_dtype(job), torch.device(job.device)
    unet, vae = make_unet(job.family), make_vae(job.family)
    controlnet = make_controlnet(unet)
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
    )
    texts = {"tokenizer": None, "text_encoder": None}
    if job.family == "sdxl":
        texts |= {"tokenizer_2": None, "text_encoder_2": None}
        pipeline = StableDiffusionXLControlNetImg2ImgPipeline(
            unet=unet, vae=vae, controlnet=controlnet, scheduler=scheduler, **texts
        )
    else:
        pipeline = StableDiffusionControlNetImg2ImgPipeline(
            unet=unet,
            vae=vae,
            controlnet=controlnet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **texts,
        )
    pipeline.to(device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    picture = make_picture(job.size)

    def run() -> Tensor:
        canvas = F.interpolate(picture, scale_factor=job.scale, mode="bicubic", antialias=True).clamp(0, 1)
        generator = torch.Generator().manual_seed(0)
        width = unet.config.cross_attention_dim
        prompts = {
            name: torch.randn(1, 77, width, generator=generator).to(device, dtype)
            for name in ("prompt_embeds", "negative_prompt_embeds")
        }
        if job.family == "sdxl":
            prompts |= {
                name: torch.randn(1, 1280, generator=generator).to(device, dtype)
                for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
            }
        return pipeline(
            image=canvas,
            control_image=canvas,
            strength=CREATIVITY,
            num_inference_steps=round(job.steps / CREATIVITY),
            guidance_scale=GUIDANCE,
            controlnet_conditioning_scale=CONTROL_WEIGHT,
            generator=generator,
            output_type="pt",
            **prompts,
        ).images

    return Program(
        run=run,
        networks={"encode": [vae.encoder], "sample": [unet, controlnet], "decode": [vae.decoder]},
        settings="one tile, no text encoder",
    )
