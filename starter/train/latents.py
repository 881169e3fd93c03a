"""Stage `vae`: the latent space, 2 pixels per latent and 6 channels, as an ordinary AutoencoderKL.

Nothing of it is trained. The encoder is a fixed linear transform of 2x2 pixel blocks (brightness as a Haar
transform, each colour as its mean), the decoder the least-squares linear map back, and both are written into
the weights of diffusers' networks. So the codec has its final quality at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .degradation import TO_YCBCR

FACTOR = 2
CHANNELS = 6
HAAR = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))
"""Over a block's pixels, row by row: mean, vertical, horizontal and diagonal difference (times 4)."""
DEVIATION = 5.0
"""Of the first latent, mean brightness. The finest detail of photographs has about a tenth of it, so that
noise hides it at about creativity .3, and a picture's layout far later."""
COLOR_GAIN = 2.0
"""Of the colours over brightness, for noise to reach them last: a small network draws them badly."""
CARRIER = 192.0
"""A constant far above the signal in every group of a norm that must not depend on the picture."""
FITTED = 400
FITTED_CROP = 48
"""Crops, and pixels per side, for `fit_vae`. Small ones make the decoder mind a picture's border."""
REACH = 3
"""Pixels around its own on which a decoded pixel depends, in latents enlarged to pixels."""
STEPS = {-3: (-1, -1), -2: (0, -1), -1: (-1, 0), 0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1)}
"""A distance in pixels as one of pixels and one of latents, each at most 1."""


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=256,
        scaling_factor=1.0,
    )


def fit_transform(crops: Tensor) -> tuple[Tensor, Tensor]:
    """The transform `[6,12]` and offset `[6]` of latents for pictures like `crops` `[N,3,H,W]` in 0..1.

    Latents have mean 0; the first has deviation `DEVIATION`.
    """
    colors, haar = torch.tensor(TO_YCBCR), torch.tensor(HAAR) / FACTOR**2
    transform = torch.cat([torch.kron(colors[:1], haar), torch.kron(colors[1:], haar[:1])])
    raw = encode(crops, transform, torch.zeros(CHANNELS)).transpose(0, 1).flatten(1)
    scale = DEVIATION / raw[0].std() * torch.tensor([1.0] * len(HAAR) + [COLOR_GAIN] * 2)
    return scale[:, None] * transform, -scale * raw.mean(1)


def encode(image: Tensor, transform: Tensor, offset: Tensor) -> Tensor:
    """`[B,3,H,W]` in 0..1 to latents `[B,6,H/2,W/2]`: what the encoder's weights compute, in one step."""
    return F.conv2d(F.pixel_unshuffle(image * 2 - 1, FACTOR), transform[:, :, None, None], offset)


@torch.no_grad()
def fit_vae(crops: Tensor) -> AutoencoderKL:
    """The codec for pictures like `crops` `[N,3,H,W]` in 0..1. Beyond a border the decoder sees zeros."""
    vae = make_vae().eval()
    for parameter in vae.parameters():
        parameter.zero_()
    transform, offset = fit_transform(crops)
    _write_encoder(vae, transform, offset)
    mean = (crops * 2 - 1).mean((0, 2, 3))
    target = crops * 2 - 1 - mean[:, None, None]
    _write_decoder(vae, _fit_kernels(encode(crops, transform, offset), target), mean)
    return vae.requires_grad_(False)


def _write_encoder(vae: AutoencoderKL, transform: Tensor, offset: Tensor) -> None:
    """Set the encoder's weights so that it computes `encode` with logarithmic variance -30.

    Residual branches are silent. GroupNorm and SiLU at the end are made linear by pairs: a group holds x, -x
    and a large +-constant, so its mean is 0, its deviation nearly constant, and SiLU(x) - SiLU(-x) = x.
    """
    encoder = vae.encoder
    downsampler = encoder.down_blocks[0].downsamplers[0].conv
    for color in range(3):
        encoder.conv_in.weight[color, color, 1, 1] = 1
        for place in range(4):
            downsampler.weight[4 * color + place, color, place // 2, place % 2] = 1
    mixing, norm = encoder.down_blocks[1].resnets[0].conv_shortcut, encoder.conv_norm_out
    size = norm.num_channels // norm.num_groups
    for latent, first in enumerate(_rows(norm)):
        for channel, sign in ((first, 1.0), (first + 1, -1.0)):
            mixing.weight[channel, : 3 * FACTOR**2, 0, 0] = sign * transform[latent]
            mixing.bias[channel] = sign * offset[latent]
            norm.weight[channel] = CARRIER * math.sqrt(2 / size)
            encoder.conv_out.weight[latent, channel, 1, 1] = sign
    for last in range(size, norm.num_channels + 1, size):
        mixing.bias[last - 1], mixing.bias[last - 2] = CARRIER, -CARRIER
    encoder.conv_out.bias[CHANNELS:] = -30
    nn.init.dirac_(vae.quant_conv.weight)


def _rows(norm: nn.GroupNorm) -> list[int]:
    """The first channel of each latent's pair in the encoder's last norm."""
    size, pairs = norm.num_channels // norm.num_groups, math.ceil(CHANNELS / norm.num_groups)
    return [(latent // pairs) * size + 2 * (latent % pairs) for latent in range(CHANNELS)]


def read_transform(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """`fit_transform`'s result, back from the encoder's weights."""
    mixing, rows = vae.encoder.down_blocks[1].resnets[0].conv_shortcut, _rows(vae.encoder.conv_norm_out)
    return mixing.weight[rows, : 3 * FACTOR**2, 0, 0].detach().clone(), mixing.bias[rows].detach().clone()


def _fit_kernels(latents: Tensor, target: Tensor) -> Tensor:
    """The least-squares kernels `[3,6,7,7]` from latents, each repeated over its pixels, to `target`."""
    side = 2 * REACH + 1
    gram = torch.zeros(CHANNELS * side**2, CHANNELS * side**2, dtype=torch.float64)
    product = torch.zeros(len(gram), 3, dtype=torch.float64)
    for few, wanted in zip(latents.split(16), target.split(16), strict=True):
        enlarged = F.interpolate(few, scale_factor=float(FACTOR))
        columns = F.unfold(enlarged, side, padding=REACH).transpose(1, 2).flatten(0, 1).double()
        gram += columns.T @ columns
        product += columns.T @ wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram, product).T.float().view(3, CHANNELS, side, side)


def _write_decoder(vae: AutoencoderKL, kernels: Tensor, mean: Tensor) -> None:
    """Set the decoder's weights so that it applies `kernels` and adds `mean`.

    Each kernel is split into a convolution of latents before the doubling and one of pixels after it.
    Residual branches are silent, the last norm and SiLU linear as in the encoder: a group holds a constant,
    x and -x.
    """
    decoder = vae.decoder
    nn.init.dirac_(vae.post_quant_conv.weight)
    shift = decoder.up_blocks[0].upsamplers[0].conv
    shift.bias[:3] = mean
    for color in range(3):
        for down, (row, outer_row) in STEPS.items():
            for right, (column, outer_column) in STEPS.items():
                channel = 9 * color + 3 * (row + 1) + column + 1
                kernel = kernels[color, :, down + REACH, right + REACH]
                decoder.conv_in.weight[channel, :, outer_row + 1, outer_column + 1] = kernel
                shift.weight[color, channel, row + 1, column + 1] = 1
    spread, norm = decoder.up_blocks[1].resnets[0].conv_shortcut, decoder.conv_norm_out
    size = norm.num_channels // norm.num_groups
    spread.bias[::size] = CARRIER
    norm.weight.fill_(CARRIER * math.sqrt(size - 1) / size)
    norm.bias.fill_(CARRIER / size)
    for color in range(3):
        for channel, sign in ((color * size + 1, 1.0), (color * size + 2, -1.0)):
            spread.weight[channel, color] = sign
            decoder.conv_out.weight[color, channel, 1, 1] = sign
