"""LoRAs are put in and taken out without a trace, and files that do not fit are refused."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models.lora_changes import Change
from creative_upscaler.pipelines.models.loras import LoraStack, read_lora
from lora_files import (
    CONVOLUTIONS,
    LINEAR,
    Networks,
    assert_same,
    changed,
    kohya_file,
    kohya_parts,
    lora,
    make_networks,
    random,
    state,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def original_sd15() -> Networks:
    return make_networks("sd15")


@pytest.fixture
def sd15(original_sd15: Networks) -> Networks:
    return deepcopy(original_sd15)


# Put in and taken out


@pytest.mark.parametrize(("family", "dtype"), [("sd15", torch.float16), ("sdxl", torch.float32)])
def test_every_bit_comes_back(family: tiny.Family, dtype: torch.dtype) -> None:
    networks = make_networks(family)
    for network in networks.values():
        network.to(dtype)
    networks["unet"].to(memory_format=torch.channels_last)
    before = state(networks)
    parameters = {id(parameter) for network in networks.values() for parameter in network.parameters()}
    strides = {name: tensor.stride() for name, tensor in networks["unet"].named_parameters()}
    first, second = lora(kohya_file(networks)), lora(kohya_file(networks, CONVOLUTIONS))
    stack = LoraStack(networks)
    stack.apply([(first, 1.0)])
    only_first = state(networks)
    assert changed(before, only_first)
    stack.apply([(first, 0.5), (second, -2.0)])
    assert changed(before, state(networks)) > changed(before, only_first)
    stack.apply([(first, 1.0)])
    assert_same(state(networks), only_first, exactly=True)
    stack.apply([])
    assert_same(state(networks), before, exactly=True)
    assert {
        id(parameter) for network in networks.values() for parameter in network.parameters()
    } == parameters
    assert {name: tensor.stride() for name, tensor in networks["unet"].named_parameters()} == strides


def test_strength_zero_is_no_lora(sd15: Networks) -> None:
    before = state(sd15)
    file = lora(kohya_file(sd15))
    stack = LoraStack(sd15)
    stack.apply([(file, 0.0)])
    assert_same(state(sd15), before, exactly=True)
    other = lora(kohya_file(sd15))
    stack.apply([(other, 1.0), (file, 0.0)])
    with_zero = state(sd15)
    stack.apply([(other, 1.0)])
    assert_same(state(sd15), with_zero, exactly=True)


def test_the_same_set_again_does_nothing(sd15: Networks) -> None:
    file = lora(kohya_file(sd15))
    stack = LoraStack(sd15)
    stack.apply([(file, 1.0)])
    with torch.no_grad():
        for parameter in sd15["unet"].parameters():
            parameter.fill_(7)  # would be overwritten if the LoRA were merged again
    stack.apply([(file, 1.0)])
    assert all((parameter == 7).all() for parameter in sd15["unet"].parameters())
    stack.apply([(file, 0.9)])
    assert not all((parameter == 7).all() for parameter in sd15["unet"].parameters())


def test_a_merge_that_breaks_off_is_made_good_by_the_next(
    sd15: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(sd15)
    file = lora(kohya_file(sd15))
    stack = LoraStack(sd15)
    merge, calls = Change.merge, iter(range(20))

    def run_out_of_memory(change: Change, weight: Tensor, strength: float) -> Tensor:
        if next(calls, None) is None:
            raise MemoryError
        return merge(change, weight, strength)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Change, "merge", run_out_of_memory)
        stack.apply([(file, 1.0)])
    assert changed(before, state(sd15)) == 20
    stack.apply([])
    assert_same(state(sd15), before, exactly=True)


def test_inference_mode_does_not_matter() -> None:
    with torch.inference_mode():
        inside = make_networks("sd15")
        file = lora(kohya_file(inside))
    before = state(inside)
    stack = LoraStack(inside)
    stack.apply([(file, 1.0)])
    with torch.inference_mode():
        stack.apply([(file, 0.5)])
    stack.apply([])
    assert_same(state(inside), before, exactly=True)


# Refused


def test_a_lora_of_another_family_is_named_and_changes_nothing() -> None:
    """At the published sizes, whose widths tell the family."""
    published = {"SD 1.x": published_unet("sd15"), "SDXL": published_unet("sdxl")}
    for name, unet in published.items():
        (other,) = (key for key in published if key != name)
        key = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        width = unet.get_submodule(key).in_features
        parts = {"lora_up.weight": random(640, 4), "lora_down.weight": random(4, width)}
        file = lora({f"lora_unet_{key.replace('.', '_')}.{part}": tensor for part, tensor in parts.items()})
        with pytest.raises(ModelFileError, match=rf"is a LoRA for {name} .*the loaded model is {other}"):
            LoraStack({"unet": published[other]}).apply([(file, 1.0)])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_misfit_leaves_the_weights_alone(family: tiny.Family) -> None:
    networks = make_networks("sdxl" if family == "sd15" else "sd15")
    before = state(networks)
    fitting, misfit = lora(kohya_file(networks)), lora(kohya_file(make_networks(family)))
    with pytest.raises(ModelFileError, match=r"file\.safetensors: is a LoRA for .* the loaded model is "):
        LoraStack(networks).apply([(fitting, 1.0), (misfit, 0.0)])
    assert_same(state(networks), before, exactly=True)


@pytest.mark.parametrize(
    ("key", "shape", "reason"),
    [
        (
            "lora_unet_mid_block_attentions_9_proj_in.diff",
            (64, 64),
            "proj_in is no module of the loaded model",
        ),
        ("lora_unet_double_blocks_0_img_attn_qkv.diff", (64, 64), "for a transformer network such as FLUX"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.diff", (64, 64), "is a LoRA for SDXL"),
        ("lora_unet_conv_in.diff", (32, 4, 1, 1), r"\[32, 4, 1, 1\], the loaded model's is \[32, 4, 3, 3\]"),
        ("lora_unet_conv_in.diff_b", (31,), r"\[31\], the loaded model's is \[32\]"),
        ("lora_unet_" + LINEAR.replace(".", "_") + ".diff_b", (64,), "has no bias"),
    ],
)
def test_half_matching_file_is_refused(sd15: Networks, key: str, shape: tuple[int, ...], reason: str) -> None:
    before = state(sd15)
    file = lora({**kohya_file(sd15, ["ff.net.2", "fc1"]), key: random(*shape)})
    with pytest.raises(ModelFileError, match=reason):
        LoraStack(sd15).apply([(file, 1.0)])
    assert_same(state(sd15), before, exactly=True)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "has no tensors"),
        ({"a.oft_blocks": (2, 2)}, r"not known from any kind of LoRA: a\.oft_blocks"),
        ({"a.lora_up.weight": (8, 4)}, "a has only up"),
        ({"a.alpha": ()}, "a has only alpha"),
        (
            {"a.lora_up.weight": (8, 4), "a.lora_down.weight": (3, 8)},
            r"do not fit each other: up \[8, 4\], down \[3, 8\]",
        ),
        ({"a.lora_up.weight": (8, 0), "a.lora_down.weight": (0, 8)}, "a has rank 0"),
        (
            {"a.lora_up.weight": (8, 4), "a.lora_down.weight": (4, 8), "a.alpha": (2,)},
            "alpha that is not one number",
        ),
        (
            {"a.lora_up.weight": (8, 4), "a.lora_down.weight": (4, 8), "a.dora_scale": (8, 8)},
            "dora_scale of shape",
        ),
        ({"a.lora_up.weight": (8, 4), "a.lora_B.weight": (8, 4)}, "has up of a twice"),
        ({"a.lora_up.weight": (8, 4), "a.lora_down.weight": (4, 8), "a.lokr_w1": (2, 2)}, "no whole LoRA"),
    ],
)
def test_incomplete_file_is_refused(tensors: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(ModelFileError, match=r"^file\.safetensors: .*" + reason):
        lora({key: torch.zeros(shape) for key, shape in tensors.items()})


def test_dora_scale_of_another_size_is_refused(sd15: Networks) -> None:
    parts = {**kohya_parts(torch.Size((64, 64))), "dora_scale": torch.ones(1, 63)}
    file = lora({f"lora_unet_{LINEAR.replace('.', '_')}.{part}": tensor for part, tensor in parts.items()})
    with pytest.raises(ModelFileError, match=r"DoRA scale of .* is \[1, 63\], not \[64, 1\] or \[1, 64\]"):
        LoraStack(sd15).apply([(file, 1.0)])


def test_one_module_under_two_names_is_refused(sd15: Networks) -> None:
    change = random(32, 4, 3, 3)
    file = lora({"lora_unet_conv_in.diff": change, "lora_unet_input_blocks_0_0.diff": change})
    with pytest.raises(ModelFileError, match=r"changes unet\.conv_in twice"):
        LoraStack(sd15).apply([(file, 1.0)])


@pytest.mark.parametrize("config", [{"peft_type": "LOHA"}, ["no table"], {"lora_alpha": "much"}])
def test_adapter_settings_that_cannot_be_used_are_refused(config: object, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file(
        {
            "base_model.model.conv_in.lora_A.weight": torch.ones(1, 4, 3, 3),
            "base_model.model.conv_in.lora_B.weight": torch.ones(32, 1, 1, 1),
        },
        path,
    )
    path.with_name("adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors"):
        read_lora(path)


def published_unet(family: tiny.Family) -> UNet2DConditionModel:
    sizes = (
        {"cross_attention_dim": 768}
        if family == "sd15"
        else {
            "cross_attention_dim": 2048,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        }
    )
    with torch.device("meta"):
        return UNet2DConditionModel(**sizes)
