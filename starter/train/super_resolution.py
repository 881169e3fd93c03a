"""Stage `sr`: a small 2x network (SRVGGNetCompact, Wang et al. 2021) that spandrel and ComfyUI can load."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from torch import nn

from .degradation import degrade
from .loop import Plan, train
from .photographs import Photographs

FEATURES, LAYERS, SCALE = 64, 12, 2


def make_network(features: int = FEATURES, layers: int = LAYERS) -> nn.Module:
    """Starts as nearest-neighbour enlargement, near which plain deep stacks train steadily."""
    network = Compact(num_feat=features, num_conv=layers, upscale=SCALE)
    for layer in network.body:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.25)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(network.body[-1].weight, std=1e-3)
    return network


def train_super_resolution(
    photographs: Photographs, network: nn.Module, plan: Plan, folder: Path, *, batch: int, crop: int
) -> nn.Module:
    """Train on crops of `crop` pixels of the large picture under the mean absolute error."""
    device = photographs.device
    network = network.to(device, memory_format=torch.channels_last)
    forward = torch.compile(network) if plan.compiled else network

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        target = photographs.crops(batch, crop, generator)
        small = degrade(target, SCALE, generator).image
        with torch.autocast(device.type, torch.bfloat16):
            made = forward(small.contiguous(memory_format=torch.channels_last))
        return {"l1": F.l1_loss(made.float(), target)}

    return train(network, loss, plan, folder)


def save(network: nn.Module, path: Path) -> None:
    """Write the weights in fp32."""
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, path)


def load(path: Path) -> nn.Module:
    return ModelLoader().load_from_file(path).model
