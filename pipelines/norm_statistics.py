"""Group norms and attention that see a whole canvas while layers run over it in windows.

A VAE is convolutional but for two things. Its group norms take their statistics from all they are given:
evaluated window by window, each would be normalised by its own content, which shows as a tint per window.
So the statistics are measured once, on crops spread over the canvas and evaluated as one batch, and held for
all windows. (Holding them is TiledVAE's idea, pkuliyi2015/multidiffusion-upscaler-for-automatic1111, which
measures them on a copy of the canvas scaled down to one tile; crops keep the sharpness of the canvas.)
And the attention in its middle looks at all positions; on a large canvas, at a regular subset of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

KEYS = 65536
"""The most positions attention looks at: all of a picture of 2048x2048 pixels, at 8 pixels per latent."""


def prepare(network: nn.Module) -> None:
    """Replace the group norms and the attention of `network` by the classes below; once, and safe to repeat.

    The new modules share the parameters, have their names, and compute the same until told otherwise.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.GroupNorm:
                setattr(module, name, CanvasGroupNorm(child))
        if isinstance(module, Attention) and not isinstance(module.processor, CanvasAttention):
            module.set_processor(CanvasAttention())


@contextmanager
def held_statistics(network: nn.Module) -> Iterator[Sequence[CanvasGroupNorm]]:
    """Yields the group norms of `network`, for `measured_on`; after it they use what they are given again."""
    norms = [module for module in network.modules() if isinstance(module, CanvasGroupNorm)]
    try:
        yield norms
    finally:
        for norm in norms:
            norm.held = None


@contextmanager
def measured_on(norms: Sequence[CanvasGroupNorm], weights: Tensor) -> Iterator[None]:
    """Within it, the norms hold the statistics of the batch of crops they are given.

    `weights` `[N,1,h,w]`: how much each position of each crop counts; features may be of finer resolution.
    """
    for norm in norms:
        norm.weights = weights
    try:
        yield
    finally:
        for norm in norms:
            norm.weights = None


class CanvasGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that shares another one's parameters, with statistics that can be held."""

    weights: Tensor | None = None
    """While set, an evaluation takes the statistics of its whole batch, weighted so, and holds them."""

    held: tuple[Tensor, Tensor] | None = None
    """Mean and variance of each channel's group, `[C]` each, float32; None: use those of what is given."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.affine, self.weight, self.bias = norm.affine, norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """`[B,C,...]` to the same shape; `[B,C,h,w]` while measuring."""
        if self.weights is not None:
            self.held = self._measure(input, self.weights)
        if self.held is None:
            return super().forward(input)
        # With held statistics this is a batch norm, which keeps them in float32 beside half precision.
        mean, variance = self.held
        weight, bias = (
            None if parameter is None else parameter.float() for parameter in (self.weight, self.bias)
        )
        return F.batch_norm(input, mean, variance, weight, bias, eps=self.eps)

    def _measure(self, crops: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        weights = F.interpolate(weights.to(crops.device), crops.shape[-2:])
        mean = self._group_mean(crops, weights, lambda part: part)
        return mean, self._group_mean(crops, weights, lambda part: (part - mean[:, None, None]).square())

    def _group_mean(self, crops: Tensor, weights: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Weighted mean of a function of the features over each channel's group, `[C]`, float32."""
        total = torch.zeros(self.num_channels, device=crops.device)
        # In parts: the float32 features of all crops would take more memory than their evaluation.
        for part, weight in zip(crops.split(64), weights.split(64), strict=True):
            total += (function(part.float()) * weight).sum((0, 2, 3))
        groups = total.unflatten(0, (self.num_groups, -1)).mean(1) / weights.sum()
        return groups.repeat_interleave(self.num_channels // self.num_groups)


class CanvasAttention(AttnProcessor2_0):
    """Diffusers' self-attention, except that above `KEYS` positions only every n-th per axis is looked at."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *args: Any, temb: None = None, **kwargs: Any
    ) -> Tensor:
        """`[B,C,h,w]` to the same shape. `temb` is named because diffusers looks for it; VAEs have none."""
        height, width = hidden_states.shape[-2:]
        stride = math.ceil(math.sqrt(height * width / KEYS))
        if stride == 1:
            return super().__call__(attn, hidden_states, *args, temb=temb, **kwargs)
        normed = hidden_states if attn.group_norm is None else attn.group_norm(hidden_states)
        keys = normed[:, :, ::stride, ::stride].flatten(2).transpose(1, 2)
        return super().__call__(attn, hidden_states, keys)
