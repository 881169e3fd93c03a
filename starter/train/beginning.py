"""Where the diffusion starter's training begins: the hint and the noisy latents already reach the output.

A network this small would otherwise spend most of its training on learning to copy. What is carried takes the
form of pairs x, -x of channels: SiLU(x) - SiLU(-x) = x, and in a norm the pair has no mean. The norms' large
epsilon leaves what is small as it is, so all of it is carried at `SHARE` of its size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .latents import CHANNELS, FACTOR

SHARE = 0.05
HINT, NOISY = 0, 16
"""The first of the channels that carry the hint's latents, and of those that carry the noisy ones; each has
12 of 16, so that no norm's group holds anything else."""
RESERVED = 32
ANSWER = {HINT: -0.7, NOISY: 0.3}
"""Of what is carried, in the velocity of the untrained network: about right for half of noise, half of
signal. How much is right at a noise level, the time embedding of the last block soon learns."""


@torch.no_grad()
def carry_through(unet: nn.Module, controlnet: nn.Module, transform: Tensor, offset: Tensor) -> None:
    """Set weights of untrained networks for latents of `transform` `[6,12]` and `offset` `[6]`."""
    _carry_hint(controlnet.controlnet_cond_embedding, transform, offset)
    for network in (unet, controlnet):
        _clear(network.conv_in, slice(RESERVED))
    for latent, plus, minus in _pairs(NOISY):
        unet.conv_in.weight[plus, latent, 1, 1], unet.conv_in.weight[minus, latent, 1, 1] = SHARE, -SHARE
    handed_on = controlnet.controlnet_down_blocks[0]
    _clear(handed_on, slice(RESERVED))
    for channel in range(HINT, HINT + 2 * CHANNELS):
        handed_on.weight[channel, channel] = 1

    block = unet.up_blocks[-1].resnets[-1]
    skipped = block.conv1.in_channels - unet.conv_in.out_channels  # before the channels of the skip
    _clear(block.conv1, slice(RESERVED))
    _clear(block.conv2, slice(NOISY))
    _clear(block.conv_shortcut, slice(NOISY))
    for channels in (slice(RESERVED), slice(block.out_channels, block.out_channels + RESERVED)):
        _clear(block.time_emb_proj, channels)  # scales, then shifts
    for kind, amount in ANSWER.items():
        for (latent, plus, minus), (_, out, negative) in zip(_pairs(kind), _pairs(HINT), strict=True):
            _pass_pair(block.conv1, (skipped + plus, skipped + minus), (plus, minus), 1.0)
            _pass_pair(block.conv2, (plus, minus), (out, negative), amount)
            if kind == HINT:
                unet.conv_out.weight[latent] *= 0.1
                unet.conv_out.weight[latent, out, 1, 1] = 1 / SHARE
                unet.conv_out.weight[latent, negative, 1, 1] = -1 / SHARE


def _carry_hint(embedding: nn.Module, transform: Tensor, offset: Tensor) -> None:
    """The hint's latents out of `embedding`, the ControlNet's stack of four convolutions."""
    first, (second, third), last = embedding.conv_in, embedding.blocks, embedding.conv_out
    colors, places = range(3), range(FACTOR**2)
    for layer, channels in ((first, 6), (second, 6), (third, 6 * FACTOR**2), (last, RESERVED)):
        _clear(layer, slice(channels))
    for color in colors:
        pair = (2 * color, 2 * color + 1)
        first.weight[pair[0], color, 1, 1], first.weight[pair[1], color, 1, 1] = 1, -1
        _pass_pair(second, pair, pair, 1.0)
        for place in places:
            row, column = place // FACTOR + 1, place % FACTOR + 1
            number = FACTOR**2 * color + place
            third.weight[2 * number, pair[0], row, column] = 1
            third.weight[2 * number, pair[1], row, column] = -1
            third.weight[2 * number + 1] = -third.weight[2 * number]
    for latent, plus, minus in _pairs(HINT):
        # A hint is a picture in 0..1, the transform's are in -1..1.
        weights = SHARE * 2 * transform[latent]
        for sign, channel in ((1, plus), (-1, minus)):
            last.weight[channel, 0 : 2 * len(weights) : 2, 1, 1] = sign * weights
            last.weight[channel, 1 : 2 * len(weights) : 2, 1, 1] = -sign * weights
            last.bias[channel] = sign * SHARE * (offset[latent] - transform[latent].sum())


def _pairs(first: int) -> list[tuple[int, int, int]]:
    """Each latent with its two channels."""
    return [(latent, first + 2 * latent, first + 2 * latent + 1) for latent in range(CHANNELS)]


def _pass_pair(layer: nn.Conv2d, source: tuple[int, int], goal: tuple[int, int], amount: float) -> None:
    for sign, channel in zip((1, -1), goal, strict=True):
        layer.weight[channel, source[0], 1, 1] = sign * amount
        layer.weight[channel, source[1], 1, 1] = -sign * amount


def _clear(layer: nn.Conv2d | nn.Linear, channels: slice) -> None:
    layer.weight[channels] = 0
    assert layer.bias is not None
    layer.bias[channels] = 0
