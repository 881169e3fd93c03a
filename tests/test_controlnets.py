"""ControlNets load from every published layout with exactly the weights that were stored, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models import load_models
from creative_upscaler.pipelines.models.controlnets import load_controlnet
from creative_upscaler.pipelines.runtime import LocalMemory
from ldm_layout import controlnet_to_ldm


@pytest.fixture(scope="module")
def unets() -> dict[str, UNet2DConditionModel]:
    return {"sd15": tiny.make_unet("sd15"), "sdxl": tiny.make_unet("sdxl")}


def load(path: Path, unet: UNet2DConditionModel) -> ControlNetModel | ControlNetUnionModel:
    return load_controlnet(path, unet, torch.float32)


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    assert found.state_dict().keys() == theirs.keys()
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


def residuals(controlnet: ControlNetModel | ControlNetUnionModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    context = torch.randn(1, 77, controlnet.config.cross_attention_dim, generator=generator)
    hint = torch.rand(1, 3, 64, 64, generator=generator)
    added = None
    if controlnet.config.addition_embed_type:
        pooled = torch.randn(1, tiny.CLIP_G_WIDTH, generator=generator)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    control = {"controlnet_cond": hint}
    if isinstance(controlnet, ControlNetUnionModel):
        kinds = torch.zeros(1, controlnet.config.num_control_type)
        kinds[0, -1] = 1
        control = {
            "controlnet_cond": [hint],
            "control_type": kinds,
            "control_type_idx": [controlnet.config.num_control_type - 1],
            "conditioning_scale": 1.0,
        }
    with torch.no_grad():
        down, mid = controlnet(latents, 321, context, added_cond_kwargs=added, return_dict=False, **control)
    return [*down, mid]


def write_folder(path: Path, family: str) -> ControlNetModel:
    controlnet = tiny.make_controlnet(family)
    controlnet.save_pretrained(path)
    return controlnet


def write_bare(path: Path, family: str) -> ControlNetModel:
    """ldm names without `control_model.`, as some files have them."""
    controlnet = tiny.make_controlnet(family)
    tensors = controlnet_to_ldm(controlnet.state_dict())
    tiny.save_tensors(path, {key.removeprefix("control_model."): t for key, t in tensors.items()})
    return controlnet


LAYOUTS: dict[str, Callable[[Path, str], ControlNetModel]] = {
    "ldm.pth": tiny.write_controlnet,
    "ldm.safetensors": tiny.write_controlnet,
    "bare ldm.safetensors": write_bare,
    "diffusers.safetensors": lambda path, family: tiny.write_controlnet(path, family, diffusers_keys=True),
    "diffusers.bin": lambda path, family: tiny.write_controlnet(path, family, diffusers_keys=True),
    "folder": write_folder,
}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_weights_that_were_saved(
    name: str, family: str, unets: dict[str, UNet2DConditionModel], tmp_path: Path
) -> None:
    source = LAYOUTS[name](tmp_path / name, family)
    controlnet = load(tmp_path / name, unets[family])
    assert_same_weights(controlnet, source)
    for ours, theirs in zip(residuals(controlnet), residuals(source), strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # another memory layout


@pytest.mark.parametrize("name", ["half.pth", "half.safetensors"])
def test_half_precision_files_load_in_the_wanted_precision(
    name: str, unets: dict[str, UNet2DConditionModel], tmp_path: Path
) -> None:
    source = tiny.write_controlnet(tmp_path / name, "sd15", dtype=torch.float16)
    controlnet = load(tmp_path / name, unets["sd15"])
    assert_same_weights(controlnet, source.half().float())
    hint = controlnet.controlnet_cond_embedding
    assert hint.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert not controlnet.training and not any(p.requires_grad for p in controlnet.parameters())


@pytest.mark.parametrize("promax", [False, True], ids=["6 kinds", "ProMax"])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_union_controlnet_is_recognised_and_loaded(
    form: str, promax: bool, unets: dict[str, UNet2DConditionModel], tmp_path: Path
) -> None:
    path = tmp_path / "union.safetensors"
    if form == "file":
        source = tiny.write_union_controlnet(path, promax=promax)
    else:
        source = tiny.make_union_controlnet(promax=promax)
        source.save_pretrained(path)
    controlnet = load(path, unets["sdxl"])
    assert isinstance(controlnet, ControlNetUnionModel)
    assert controlnet.config.num_control_type == (8 if promax else 6)
    assert_same_weights(controlnet, source)
    for ours, theirs in zip(residuals(controlnet), residuals(source), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # another memory layout


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_controlnet_of_the_other_family_is_refused(
    family: str, unets: dict[str, UNet2DConditionModel], tmp_path: Path
) -> None:
    other, theirs = {"sd15": ("sdxl", "SDXL"), "sdxl": ("sd15", "SD 1.x")}[family]
    tiny.write_controlnet(tmp_path / "cn.pth", other)
    write_folder(tmp_path / "cn", other)
    for name in ("cn.pth", "cn"):
        with pytest.raises(
            ModelFileError, match=rf"{name}: is a ControlNet for {theirs}, and the base model is"
        ):
            load(tmp_path / name, unets[family])
    if family == "sd15":
        tiny.write_union_controlnet(tmp_path / "union.safetensors")
        with pytest.raises(
            ModelFileError, match=r"is a Union ControlNet for SDXL, and the base model is SD 1.5"
        ):
            load(tmp_path / "union.safetensors", unets[family])


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
CONV = torch.zeros(4, 4, 1, 1)
LINEAR = torch.zeros(4, 4)
UNUSABLE: dict[str, tuple[Change, str]] = {
    "missing zero convolution": (
        lambda t: without(t, "zero_convs.5.0.bias"),
        "its ControlNet lacks 1 of 338",
    ),
    "missing hint": (lambda t: without(t, "input_hint_block.6.bias"), "is incomplete: its ControlNet lacks"),
    "missing middle": (lambda t: without(t, "middle_block_out."), "its ControlNet lacks 2 of 338"),
    "foreign tensor": (lambda t: {**t, "control_model.extra.weight": CONV}, "no ControlNet of its kind has"),
    "difference": (lambda t: {**t, "difference": CONV}, "is a ControlNet stored as difference"),
    "Control-LoRA": (lambda t: {**t, "lora_controlnet": CONV}, "is a Control-LoRA"),
    "SD 2": (
        lambda t: {**t, "control_model.input_blocks.1.1.proj_in.weight": LINEAR},
        "is a ControlNet for SD 2.x",
    ),
    "T2I-Adapter": (lambda t: {"adapter.body.0.weight": CONV}, "is a T2I-Adapter; choose a tile ControlNet"),
    "Flux": (lambda t: {"controlnet_blocks.0.weight": CONV}, "is a ControlNet for a diffusion transformer"),
    "LoRA": (lambda t: {"lora_unet_x.lora_up.weight": CONV}, "is a LoRA; choose a tile ControlNet"),
    "NaN": (
        lambda t: {**t, "control_model.zero_convs.0.0.bias": torch.full((32,), float("nan"))},
        "control_model.zero_convs.0.0.bias has values that are not finite",
    ),
}


def without(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if part not in key}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_file_is_refused_with_the_reason(
    case: str, unets: dict[str, UNet2DConditionModel], tmp_path: Path
) -> None:
    change, reason = UNUSABLE[case]
    tiny.write_controlnet(tmp_path / "good.safetensors")
    save_file(change(load_file(tmp_path / "good.safetensors")), tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match=rf"bad.safetensors: .*{reason}"):
        load(tmp_path / "bad.safetensors", unets["sd15"])


def test_a_controlnet_of_another_size_is_refused(tmp_path: Path) -> None:
    tiny.write_controlnet(tmp_path / "cn.safetensors")
    wider = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 128), cross_attention_dim=tiny.CLIP_L_WIDTH, attention_head_dim=8
    )
    with pytest.raises(ModelFileError, match="does not fit the base model: its block_out_channels"):
        load(tmp_path / "cn.safetensors", wider)


def test_a_base_model_is_no_controlnet(tmp_path: Path) -> None:
    tiny.write_sd15(tmp_path / "base.safetensors")
    with pytest.raises(ModelFileError, match=r"is an SD 1.x base model; choose a tile ControlNet"):
        load_models(
            tmp_path / "base.safetensors",
            controlnet=tmp_path / "base.safetensors",
            memory=LocalMemory(torch.device("cpu")),
        )
