"""LoRA files for small networks, spelled as the training programs spell them, and comparing what they do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.models.loras import Lora, lora_from_tensors
from ldm_layout import clip_key, unet_to_ldm

Parts = dict[str, Tensor]
Networks = Mapping[str, nn.Module]

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
"""A layer without bias in every UNet."""

TRANSFORMER = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
)
CONVOLUTIONS = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)
OTHERS = ("conv_in", "conv_out", "time_embedding.linear_1", "linear_2", "norm1", "norm2", "norm")


def make_networks(family: tiny.Family) -> dict[str, nn.Module]:
    models = tiny.make_models(family)
    encoders = zip(("text_encoder", "text_encoder_2"), models.text_encoders, strict=False)
    return {"unet": models.unet, **dict(encoders)}


def kohya_file(
    networks: Networks,
    targets: Sequence[str] = TRANSFORMER,
    *,
    sgm: bool = False,
    make: Callable[[torch.Size], Parts] | None = None,
) -> Parts:
    """Modules whose names end like one of `targets`; with `sgm` the UNet's named as in the original code."""
    text = ("lora_te1", "lora_te2") if "text_encoder_2" in networks else ("lora_te",)
    prefixes = dict(zip(networks, ("lora_unet", *text), strict=False))
    tensors = {}
    originals = sgm_names(networks["unet"]) if sgm else {}
    for role, name, weight in targeted(networks, targets):
        name = originals.get(name, name) if role == "unet" else clip_key(name)
        for part, tensor in (make or kohya_parts)(weight.shape).items():
            tensors[f"{prefixes[role]}_{name.replace('.', '_')}.{part}"] = tensor
    return tensors


def kohya_parts(shape: torch.Size, rank: int = 4) -> Parts:
    kernel = shape[2:]
    if len(shape) == 1:
        return {"diff": random(*shape), "diff_b": random(*shape)}
    return {
        "lora_up.weight": random(shape[0], rank, *[1] * len(kernel)),
        "lora_down.weight": random(rank, *shape[1:]),
        "alpha": torch.tensor(3.0),
    }


def diffusers_file(networks: Networks, *, first_format: bool = False) -> Parts:
    """As `save_lora_weights` writes it, or as diffusers did before it used peft."""
    targets = ("attn1.to_q", "attn2.to_k", "attn1.to_out.0", "q_proj", "out_proj", "attn2.to_v")
    tensors = {}
    for role, name, weight in targeted(networks, targets):
        up, down = random(weight.shape[0], 4), random(4, weight.shape[1])
        name = f"{role}.{name if role == 'unet' else clip_key(name)}"
        if not first_format:
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        elif role == "unet":
            name = re.sub(r"\.(to_[a-z]+)(\.0)?$", r".processor.\1_lora", name)
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
        else:
            name += ".lora_linear_layer"
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return tensors


def targeted(networks: Networks, targets: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Role, name and weight of the modules whose dotted names end like one of `targets`."""
    for role, network in networks.items():
        for name, module in network.named_modules():
            if f".{name}".endswith(tuple(f".{target}" for target in targets)):
                yield role, name, module.weight  # type: ignore[misc]


def sgm_names(unet: nn.Module) -> dict[str, str]:
    """Names of a UNet's modules in the original code by names in diffusers."""
    state = unet.state_dict()
    pairs = zip(state, unet_to_ldm(state), strict=True)
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for ours, theirs in pairs}


def lora(tensors: Mapping[str, Tensor]) -> Lora:
    return lora_from_tensors(Path("file.safetensors"), tensors)


def state(networks: Networks, *roles: str) -> dict[str, Tensor]:
    return {
        f"{role}.{key}": value.clone()
        for role in roles or networks
        for key, value in networks[role].state_dict().items()
    }


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    return sum(not torch.equal(before[key], after[key]) for key in before)


def assert_same(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, exactly: bool = False
) -> None:
    # Ours and theirs multiply the scale at different places; the weights are about 0.1.
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(dict(actual), dict(expected), **tolerance)


def random(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.3
