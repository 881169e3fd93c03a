"""Stage `vae`: the latent space, 4 pixels per latent and 16 channels, as an ordinary AutoencoderKL.

The encoder is not trained: it is the best linear transform of 4x4 pixel blocks (principal components, with
brightness counted more than colour), written into the weights of diffusers' encoder. So it has its final
quality at once, and a latent depends on 16 pixels alone. The decoder starts as the best linear map back.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .degradation import TO_YCBCR
from .loop import Plan, train
from .photographs import Photographs

FACTOR = 4
CHANNELS = 16
COLOR_WEIGHT = 0.35
"""Of an error in Cb or Cr against one in Y, in the choice of what 16 of a block's 48 numbers to keep."""
WHITENING = 0.75
"""Latents are divided by this power of their deviation: fine detail stays smaller than the rest, and so is
the first thing that noise hides and a low noise level redraws."""
CARRIER = 32.0
"""A constant far above the signal in every group of a norm that must not depend on the picture."""
ROBUSTNESS = 0.06
"""Largest deviation of the noise on the decoder's training latents: denoised ones have errors."""


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=256,
        scaling_factor=1.0,
    )


def fit_transform(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The transform `[16,48]` and offset `[16]` of latents, from sampled blocks `[N,48]` in -1..1.

    A block's numbers are in the order of `space_to_depth`. Latents have mean 0; the first has deviation 1.
    """
    blocks = blocks.double()
    colors = torch.tensor(TO_YCBCR, dtype=torch.float64)
    colors[1:] *= COLOR_WEIGHT
    weight = torch.kron(colors, torch.eye(FACTOR**2, dtype=torch.float64))
    mean = blocks.mean(0)
    variances, directions = torch.linalg.eigh(((blocks - mean) @ weight.T).T.cov())
    order = variances.argsort(descending=True)[:CHANNELS]
    deviations = variances[order].sqrt()
    scale = (deviations[0] / deviations) ** WHITENING / deviations[0]
    transform = scale[:, None] * directions[:, order].T @ weight
    return transform.float(), (-transform @ mean).float()


def space_to_depth(image: Tensor) -> Tensor:
    """`[B,3,H,W]` to `[B,48,H/4,W/4]`: colour, then the 2x2 place of the outer and of the inner halving."""
    return F.pixel_unshuffle(F.pixel_unshuffle(image, 2), 2)


def encode(image: Tensor, transform: Tensor, offset: Tensor) -> Tensor:
    """`[B,3,H,W]` in 0..1 to latents `[B,16,H/4,W/4]`: what the encoder's weights compute, in one step."""
    return F.conv2d(space_to_depth(image * 2 - 1), transform[:, :, None, None], offset)


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, transform: Tensor, offset: Tensor) -> None:
    """Set the encoder's weights so that it computes `encode` with logarithmic variance -30.

    Residual branches are silent. GroupNorm and SiLU at the end are made linear by pairs: a group holds x, -x
    and a large +-constant, so its mean is 0, its deviation nearly constant, and SiLU(x) - SiLU(-x) = x.
    """
    encoder = vae.encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for color in range(3):
        encoder.conv_in.weight[color, color, 1, 1] = 1
    for block, channels in ((encoder.down_blocks[0], 3), (encoder.down_blocks[1], 12)):
        convolution = block.downsamplers[0].conv
        for channel in range(channels):
            for place in range(4):
                convolution.weight[4 * channel + place, channel, place // 2, place % 2] = 1
    identity = encoder.down_blocks[1].resnets[0].conv_shortcut
    for channel in range(12):
        identity.weight[channel, channel] = 1
    mixing, norm = encoder.down_blocks[2].resnets[0].conv_shortcut, encoder.conv_norm_out
    size = norm.num_channels // norm.num_groups
    pairs = math.ceil(CHANNELS / norm.num_groups)
    for latent in range(CHANNELS):
        group, place = divmod(latent, pairs)
        first = group * size + 2 * place
        for channel, sign in ((first, 1.0), (first + 1, -1.0)):
            mixing.weight[channel, :, 0, 0] = sign * transform[latent]
            mixing.bias[channel] = sign * offset[latent]
            norm.weight[channel] = CARRIER * math.sqrt(2 / size)
            encoder.conv_out.weight[latent, channel, 1, 1] = sign
    for group in range(norm.num_groups):
        last = (group + 1) * size
        mixing.bias[last - 1], mixing.bias[last - 2] = CARRIER, -CARRIER
    encoder.conv_out.bias[CHANNELS:] = -30
    vae.quant_conv.weight.copy_(torch.eye(2 * CHANNELS)[:, :, None, None])
    vae.quant_conv.bias.zero_()


@torch.no_grad()
def write_decoder(vae: AutoencoderKL, transform: Tensor, offset: Tensor, crops: Tensor) -> None:
    """Set the decoder's weights to the best linear map, from which training goes on.

    One 3x3 convolution after each doubling, fitted to `crops` `[N,3,H,W]` in 0..1 by least squares: the first
    gives 2x2 pixels per place, the second the pixels. Residual branches are silent at first, and the last
    norm and SiLU are linear, as in the encoder.
    """
    decoder = vae.decoder
    vae.post_quant_conv.weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
    vae.post_quant_conv.bias.zero_()
    blocks = [*decoder.mid_block.resnets, *(r for block in decoder.up_blocks for r in block.resnets)]
    for resnet in blocks:
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
        if resnet.conv_shortcut is not None:
            nn.init.dirac_(resnet.conv_shortcut.weight)
            resnet.conv_shortcut.bias.zero_()
    nn.init.dirac_(decoder.conv_in.weight)
    decoder.conv_in.bias.zero_()

    target = crops * 2 - 1
    first, second = (block.upsamplers[0].conv for block in decoder.up_blocks[:2])
    doubled = F.interpolate(encode(crops, transform, offset), scale_factor=2.0)
    quarter = _fit_convolution(first, doubled, F.pixel_unshuffle(target, 2))
    _fit_convolution(second, F.interpolate(quarter, scale_factor=2.0), target)

    # Groups of the last norm: a constant, x and -x for each colour. The constant is smaller than the
    # encoder's, since what is trained must not be so sensitive.
    carrier = CARRIER / 4
    spread = decoder.up_blocks[2].resnets[0].conv_shortcut
    norm, output = decoder.conv_norm_out, decoder.conv_out
    size = norm.num_channels // norm.num_groups
    spread.weight.zero_()
    nn.init.normal_(output.weight, std=1e-3)
    output.weight[:, ::size] = 0
    output.bias.zero_()
    spread.bias[::size] = carrier
    norm.weight.fill_(carrier * math.sqrt(size - 1) / size)
    norm.bias.fill_(carrier / size)
    for color in range(3):
        channels = slice(color * size, (color + 1) * size)
        output.weight[:, channels] = 0
        for channel, sign in ((channels.start + 1, 1.0), (channels.start + 2, -1.0)):
            spread.weight[channel, color] = sign
            output.weight[color, channel, 1, 1] = sign


def _fit_convolution(convolution: nn.Conv2d, source: Tensor, target: Tensor) -> Tensor:
    """Set a 3x3 convolution's first channels to the least-squares map of `source` to `target`; its result."""
    columns = F.unfold(source, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], 1)
    gram = columns.T @ columns
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    wanted = target.permute(0, 2, 3, 1).flatten(0, 2).double()
    solution = torch.linalg.solve(gram, columns.T @ wanted).T.float()
    ins, outs = source.shape[1], target.shape[1]
    convolution.weight.zero_()
    convolution.bias.zero_()
    convolution.weight[:outs, :ins] = solution[:, :-1].reshape(outs, ins, 3, 3)
    convolution.bias[:outs] = solution[:, -1]
    return F.conv2d(source, convolution.weight[:outs, :ins], convolution.bias[:outs], padding=1)


def train_decoder(
    photographs: Photographs, vae: AutoencoderKL, plan: Plan, folder: Path, *, batch: int, crop: int
) -> AutoencoderKL:
    """Train the decoder on crops of `crop` pixels; the error of Y counts as much as that of all colours."""
    device = photographs.device
    vae.to(device, memory_format=torch.channels_last)
    transform, offset = read_transform(vae)
    parts = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    luma = torch.tensor(TO_YCBCR[0], device=device)[None, :, None, None]

    def forward(latents: Tensor) -> Tensor:
        return vae.decoder(vae.post_quant_conv(latents))

    decode = torch.compile(forward) if plan.compiled else forward

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        target = photographs.crops(batch, crop, generator)
        latents = encode(target, transform, offset)
        strength = ROBUSTNESS * torch.rand(batch, 1, 1, 1, generator=generator).square()
        latents = latents + (strength * torch.randn(latents.shape, generator=generator)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            made = decode(latents.contiguous(memory_format=torch.channels_last))
        error = made.float() / 2 + 0.5 - target
        fine = (error * luma).sum(1)
        return {"rgb": error.abs().mean(), "luma": fine.abs().mean()}

    vae.requires_grad_(False)
    parts.requires_grad_(True)
    train(parts, loss, plan, folder)
    return vae


def read_transform(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """`fit_transform`'s result, back from the encoder's weights."""
    mixing, norm = vae.encoder.down_blocks[2].resnets[0].conv_shortcut, vae.encoder.conv_norm_out
    size = norm.num_channels // norm.num_groups
    pairs = math.ceil(CHANNELS / norm.num_groups)
    rows = [(n // pairs) * size + 2 * (n % pairs) for n in range(CHANNELS)]
    return mixing.weight[rows, :, 0, 0].detach().clone(), mixing.bias[rows].detach().clone()


def sample_blocks(photographs: Photographs, count: int, generator: torch.Generator) -> Tensor:
    """About `count` blocks `[N,48]` in -1..1 from random crops, for `fit_transform`."""
    crops = photographs.crops(max(1, count // 1024), 128, generator, per_picture=1)
    return space_to_depth(crops * 2 - 1).permute(0, 2, 3, 1).reshape(-1, 3 * FACTOR**2).cpu()
