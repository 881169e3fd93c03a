"""Stage `diffusion`: UNet, tile ControlNet and text encoder, trained together from nothing.

The ControlNet sees the picture that is to be redrawn: what was made small and harmed, enlarged again, often
by the super-resolution starter as in use. v-prediction on a schedule that ends in noise (Lin et al. 2023),
so that a first step from noise gives a whole picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .beginning import carry_through
from .degradation import degrade
from .latents import CHANNELS, encode, read_transform
from .loop import Plan, train
from .photographs import Photographs
from .tags import DEGRADED_SHARE, describe, make_tokenizer, save_tokenizer, spoil, write_prompt

WIDTHS = (64, 96, 160, 160)
"""Channels of the UNet where 2, 4, 8 and 16 pixels are one."""
TEXT_WIDTH = 64
NORM_EPS = 1.0
"""So large that norms hold features back and do not rescale each picture: a first step from noise has to
give its colours and contrast."""
SCALES = (1.5, 2, 2, 2, 2, 3)
"""Enlargements trained for."""
BY_NETWORK = 0.8
"""Share of batches that the super-resolution starter enlarges before the exact resize, as in use."""
RECOLORED = 0.3
"""Share of batches with red, green and blue exchanged: in most photographs strong colours are rare."""
LOW_NOISE = 1.8
"""Power of a uniform number that the share of noise is drawn by: low levels are what a redraw uses most."""
FROM_NOISE = 0.25
"""Share of training at the last timestep, for a sharp first step from noise."""
WEAKENED = 0.3
"""Share of training with the ControlNet at a random weight between `WEAKEST` and 1."""
WEAKEST = 0.15
UNCONTROLLED = 0.05
"""Share of training without the ControlNet."""
REDRAWN = 0.6
"""Share of training that starts, as in use, from the picture to be redrawn, or between it and the target."""


class Networks(nn.Module):
    """What is trained together; the text encoder is part of it."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            down_block_types=("DownBlock2D",) * len(WIDTHS),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D",) * len(WIDTHS),
            block_out_channels=WIDTHS,
            layers_per_block=1,
            norm_num_groups=8,
            norm_eps=NORM_EPS,
            # Convolutions alone: any size costs the same per pixel and looks the same. The prompt, which
            # names properties of the whole picture, scales and shifts every layer as the noise level does.
            cross_attention_dim=TEXT_WIDTH,
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            resnet_time_scale_shift="scale_shift",
        )
        self.controlnet = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=(8, 32))
        for convolution in (*self.controlnet.controlnet_down_blocks, self.controlnet.controlnet_mid_block):
            nn.init.normal_(convolution.weight, std=0.03)  # zero is for a UNet that is already trained
        nn.init.normal_(self.controlnet.controlnet_cond_embedding.conv_out.weight, std=0.03)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(
        self, latents: Tensor, timesteps: Tensor, tokens: Tensor, hint: Tensor, weight: Tensor
    ) -> Tensor:
        """The velocity `[B,6,h,w]`; `weight` `[B,1,1,1]` is the ControlNet's, 0 for none."""
        states = self.text_encoder(tokens).last_hidden_state
        down, middle = self.controlnet(latents, timesteps, states, hint, return_dict=False)
        return self.unet(
            latents,
            timesteps,
            states,
            down_block_additional_residuals=[residual * weight for residual in down],
            mid_block_additional_residual=middle * weight,
            return_dict=False,
        )[0]


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def train_diffusion(
    photographs: Photographs,
    networks: Networks,
    vae: AutoencoderKL,
    enlarger: nn.Module | None,
    plan: Plan,
    folder: Path,
    *,
    batch: int,
    crop: int,
) -> Networks:
    """Train on crops of `crop` pixels; `enlarger` is the 2x super-resolution starter, for some hints."""
    device, tokenizer = photographs.device, make_tokenizer()
    # On a CPU, group norms of narrow channels-last networks cost more than the convolutions gain.
    layout = torch.contiguous_format if device.type == "cpu" else torch.channels_last
    networks.to(device, memory_format=layout)
    transform, offset = (part.to(device) for part in read_transform(vae))
    carry_through(networks.unet, networks.controlnet, transform, offset)
    signal = make_scheduler().alphas_cumprod.to(device)
    forward = torch.compile(networks) if plan.compiled else networks
    if enlarger is not None:
        enlarger = enlarger.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        photographed = photographs.crops(batch, crop, generator)
        if torch.rand((), generator=generator) < RECOLORED:
            photographed = photographed[:, torch.randperm(3, generator=generator)]
        scale = SCALES[int(torch.randint(len(SCALES), (), generator=generator))]
        small = degrade(photographed, scale, generator).image
        by_network = enlarger is not None and torch.rand((), generator=generator) < BY_NETWORK
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            hint = _enlarge(small, crop, enlarger if by_network else None)
        target, tags = photographed.clone(), describe(photographed)
        for n in (torch.rand(batch, generator=generator) < DEGRADED_SHARE).nonzero()[:, 0].tolist():
            target[n], tags[n] = spoil(photographed[n], generator)
        prompts = [write_prompt(words, generator) for words in tags]
        tokens = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids.to(device)

        latents = encode(target, transform, offset)
        redrawn = (torch.rand(batch, generator=generator) < REDRAWN).float()
        way = (redrawn * torch.rand(batch, generator=generator).sqrt()).to(device)[:, None, None, None]
        start = latents + way * (encode(hint, transform, offset) - latents)
        last = len(signal) - 1
        timesteps = (torch.rand(batch, generator=generator) ** LOW_NOISE * last).long()
        timesteps[torch.rand(batch, generator=generator) < FROM_NOISE] = last
        timesteps = timesteps.to(device)
        share = signal[timesteps][:, None, None, None]
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noisy = share.sqrt() * start + (1 - share).sqrt() * noise
        # The velocity that leads from here to the target; where the start is the target, the usual one.
        velocity = (share.sqrt() * noisy - latents) / (1 - share).sqrt().clamp(min=1e-3)
        # Elsewhere it grows as noise vanishes: there the error of the picture is what counts.
        weight = torch.where(way > 0, 1 - share, torch.ones_like(share))
        control = _draw_control(batch, generator).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            made = forward(
                noisy.contiguous(memory_format=layout),
                timesteps,
                tokens,
                hint.contiguous(memory_format=layout),
                control,
            )
        return {"velocity": (weight * (made.float() - velocity).square()).mean()}

    return train(networks, loss, plan, folder)


def _draw_control(batch: int, generator: torch.Generator) -> Tensor:
    """The ControlNet's weight for each picture, `[B,1,1,1]`."""
    weight = WEAKEST + (1 - WEAKEST) * torch.rand(batch, generator=generator)
    weight[torch.rand(batch, generator=generator) >= WEAKENED] = 1
    weight[torch.rand(batch, generator=generator) < UNCONTROLLED] = 0
    return weight[:, None, None, None]


def _enlarge(small: Tensor, crop: int, enlarger: nn.Module | None) -> Tensor:
    if enlarger is not None:
        small = enlarger(small.contiguous(memory_format=torch.channels_last)).float()
    return F.interpolate(small, (crop, crop), mode="bicubic", antialias=True).clamp(0, 1)


def save(networks: Networks, folder: Path) -> None:
    """Write the averaged networks, the tokenizer and the schedule as a diffusers folder without its VAE."""
    for name in ("unet", "controlnet", "text_encoder"):
        getattr(networks, name).cpu().save_pretrained(folder / name)
    save_tokenizer(folder / "tokenizer")
    make_scheduler().save_pretrained(folder / "scheduler")
