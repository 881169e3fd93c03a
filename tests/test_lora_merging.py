"""What a LoRA file does to weights, against diffusers, peft and the definitions."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.models.loras import LoraStack, read_lora
from lora_files import (
    CONVOLUTIONS,
    LINEAR,
    OTHERS,
    TRANSFORMER,
    Networks,
    assert_same,
    changed,
    diffusers_file,
    kohya_file,
    kohya_parts,
    lora,
    make_networks,
    random,
    state,
)

CONV = "mid_block.resnets.0.conv1"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def original_sd15() -> Networks:
    return make_networks("sd15")


@pytest.fixture
def sd15(original_sd15: Networks) -> Networks:
    return deepcopy(original_sd15)


# Equal to diffusers and peft


# diffusers reads names of the original code for SDXL only.
@pytest.mark.parametrize(("family", "sgm"), [("sd15", False), ("sdxl", True)], ids=["sd15", "sdxl sgm"])
def test_kohya_file_merges_as_in_diffusers(family: tiny.Family, sgm: bool, tmp_path: Path) -> None:
    networks = make_networks(family)
    check_like_diffusers(networks, kohya_file(networks, TRANSFORMER + CONVOLUTIONS, sgm=sgm), -0.6, tmp_path)


@pytest.mark.parametrize(
    ("family", "first_format"), [("sd15", True), ("sdxl", False)], ids=["sd15 first format", "sdxl"]
)
def test_diffusers_file_merges_as_in_diffusers(
    family: tiny.Family, first_format: bool, tmp_path: Path
) -> None:
    networks = make_networks(family)
    check_like_diffusers(networks, diffusers_file(networks, first_format=first_format), 1.3, tmp_path)


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_in_the_notes_of_a_diffusers_file_counts(sd15: Networks, rslora: bool, tmp_path: Path) -> None:
    trained = deepcopy(sd15["unet"])
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_k", "to_v"],
        alpha_pattern={LINEAR: 2},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    trained.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(trained, adapter_name="default"),
        unet_lora_adapter_metadata=trained.peft_config["default"].to_dict(),
    )
    trained.fuse_lora()
    trained.unload_lora()
    path = tmp_path / "pytorch_lora_weights.safetensors"
    LoraStack(sd15).apply([(read_lora(path), 1.0)])
    assert_same(state(sd15, "unet"), {f"unet.{key}": value for key, value in trained.state_dict().items()})


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("role", ["unet", "text_encoder"])
def test_peft_folder_merges_as_in_peft(sd15: Networks, role: str, dora: bool, tmp_path: Path) -> None:
    targets = ["to_q", "proj_in", "conv1"] if role == "unet" else ["q_proj", "fc1"]
    config = LoraConfig(r=4, lora_alpha=6, use_dora=dora, target_modules=targets, init_lora_weights=False)
    trained = get_peft_model(deepcopy(sd15[role]), config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "magnitude" in name:
                parameter *= 1.3
    trained.save_pretrained(tmp_path)
    LoraStack(sd15).apply([(read_lora(tmp_path / "adapter_model.safetensors"), 1.0)])
    expected = trained.merge_and_unload().state_dict()
    assert_same(state(sd15, role), {f"{role}.{key}": value for key, value in expected.items()})


# Equal to the definitions


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_names_of_the_original_code_mean_the_same_modules(family: tiny.Family) -> None:
    networks = make_networks(family)
    unet = {"unet": networks["unet"]}
    targets = TRANSFORMER + CONVOLUTIONS + OTHERS
    plain = kohya_file(unet, targets)
    sgm = dict(zip(kohya_file(unet, targets, sgm=True), plain.values(), strict=True))
    again = deepcopy(networks)
    LoraStack(networks).apply([(lora(plain), 1.0)])
    LoraStack(again).apply([(lora(sgm), 1.0)])
    assert_same(state(again), state(networks), exactly=True)
    # All names but those within the transformers differ, so the two files are not one.
    assert len(set(plain) & set(sgm)) == 0


def test_locon_in_tucker_form(sd15: Networks) -> None:
    up, mid, down = random(64, 4, 1, 1), random(4, 3, 3, 3), random(3, 64, 1, 1)
    parts = {
        "lora_up.weight": up,
        "lora_mid.weight": mid,
        "lora_down.weight": down,
        "alpha": torch.tensor(6.0),
    }
    change = 2 * torch.einsum("oa,abhw,bi->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    check_change(sd15, CONV, parts, change)


def test_loha_of_a_linear_layer(sd15: Networks) -> None:
    a, b, c, d = random(64, 4), random(4, 64), random(64, 4), random(4, 64)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(6.0)}
    check_change(sd15, LINEAR, parts, 1.5 * (a @ b) * (c @ d))


def test_loha_of_a_convolution(sd15: Networks) -> None:
    a, b, c, d = random(64, 4), random(4, 64 * 9), random(64, 4), random(4, 64 * 9)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(6.0)}
    check_change(sd15, CONV, parts, (1.5 * (a @ b) * (c @ d)).view(64, 64, 3, 3))


def test_loha_in_tucker_form(sd15: Networks) -> None:
    a, b, c, d = (random(4, 64) for _ in range(4))
    t1, t2 = random(4, 4, 3, 3), random(4, 4, 3, 3)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "hada_t1": t1, "hada_t2": t2}
    first = torch.einsum("abhw,ao,bi->oihw", t1, a, b)
    check_change(sd15, CONV, parts, first * torch.einsum("abhw,ao,bi->oihw", t2, c, d))


@pytest.mark.parametrize("first_factored", [False, True])
@pytest.mark.parametrize("second", ["whole", "factored", "tucker"])
def test_lokr(sd15: Networks, first_factored: bool, second: str) -> None:
    w1_a, w1_b = random(4, 2), random(2, 8)
    w2_a, w2_b, t2 = random(3, 16), random(3, 8), random(3, 3, 3, 3)
    parts = {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b} if first_factored else {"lokr_w1": w1_a @ w1_b}
    w2 = torch.einsum("abhw,ao,bi->oihw", t2, w2_a, w2_b)
    if second == "whole":
        parts["lokr_w2"] = w2
    elif second == "tucker":
        parts |= {"lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "lokr_t2": t2}
    else:
        parts |= {"lokr_w2_a": random(16, 3), "lokr_w2_b": random(3, 8 * 9)}
        w2 = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).view(16, 8, 3, 3)
    parts["alpha"] = torch.tensor(6.0)
    # The rank is the second side's; without one, the first side's; whole sides have none and no scale.
    scale = 2 if second != "whole" else 3 if first_factored else 1
    change = scale * torch.einsum("ab,cdhw->acbdhw", w1_a @ w1_b, w2).reshape(64, 64, 3, 3)
    check_change(sd15, CONV, parts, change)


@pytest.mark.parametrize("name", [LINEAR, CONV])
@pytest.mark.parametrize("axis", [0, 1], ids=["of rows", "of columns"])
def test_dora_sets_the_norms(sd15: Networks, name: str, axis: int) -> None:
    weight = sd15["unet"].get_submodule(name).weight.detach().clone()
    parts = kohya_parts(weight.shape)
    norms = torch.rand(64) + 0.5
    shape = [1] * weight.ndim
    shape[axis] = 64
    parts["dora_scale"] = norms.view(shape)
    file = lora({f"lora_unet_{name.replace('.', '_')}.{part}": tensor for part, tensor in parts.items()})
    others = [other for other in range(weight.ndim) if other != axis]
    stack = LoraStack(sd15)

    stack.apply([(file, 1.0)])
    changed = sd15["unet"].get_submodule(name).weight.detach().clone()
    torch.testing.assert_close(changed.pow(2).sum(others).sqrt(), norms)
    plain = weight + 3 / 4 * (
        parts["lora_up.weight"].flatten(1) @ parts["lora_down.weight"].flatten(1)
    ).view_as(weight)
    torch.testing.assert_close(
        nn.functional.cosine_similarity(
            changed.transpose(0, axis).flatten(1), plain.transpose(0, axis).flatten(1)
        ),
        torch.ones(64),
    )

    stack.apply([(file, 0.25)])
    torch.testing.assert_close(sd15["unet"].get_submodule(name).weight, weight + 0.25 * (changed - weight))


def test_full_differences_reach_weights_and_biases(sd15: Networks) -> None:
    weight, bias = random(64, 64, 3, 3), random(64)
    norm = sd15["unet"].mid_block.resnets[0].norm1
    expected = norm.weight + 0.5 * weight[0, :, 0, 0], norm.bias + 0.5 * bias
    files = [
        lora(
            {
                "lora_unet_mid_block_resnets_0_norm1.w_norm": weight[0, :, 0, 0],
                "lora_unet_mid_block_resnets_0_norm1.b_norm": bias,
            }
        ),
        lora(
            {
                "diffusion_model.middle_block.0.in_layers.2.diff": weight,
                "diffusion_model.middle_block.0.in_layers.2.diff_b": bias,
            }
        ),
    ]
    convolution = sd15["unet"].mid_block.resnets[0].conv1
    before = convolution.weight.clone(), convolution.bias.clone()
    LoraStack(sd15).apply([(file, 0.5) for file in files])
    torch.testing.assert_close((norm.weight, norm.bias), expected)
    torch.testing.assert_close(
        (convolution.weight, convolution.bias), (before[0] + 0.5 * weight, before[1] + 0.5 * bias)
    )


def test_several_loras_are_summed_before_rounding(sd15: Networks) -> None:
    for network in sd15.values():
        network.to(torch.bfloat16)
    before = state(sd15)
    files = [kohya_file(sd15), kohya_file(sd15, CONVOLUTIONS + TRANSFORMER)]
    LoraStack(sd15).apply([(lora(files[0]), 0.3), (lora(files[1]), -0.7)])
    wide = make_networks("sd15")
    for role, network in wide.items():
        network.load_state_dict({key: before[f"{role}.{key}"].float() for key in network.state_dict()})
    LoraStack(wide).apply([(lora(files[0]), 0.3), (lora(files[1]), -0.7)])
    assert_same(state(sd15), {key: value.bfloat16() for key, value in state(wide).items()}, exactly=True)
    assert state(sd15)["unet.conv_in.weight"].dtype == torch.bfloat16


def check_like_diffusers(
    networks: Networks, tensors: dict[str, Tensor], strength: float, folder: Path
) -> None:
    """Merge the file with diffusers' code and with ours, and compare all weights."""
    path = folder / "file.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    theirs = deepcopy(networks)
    absent = dict.fromkeys(("vae", "tokenizer", "feature_extractor", "image_encoder"))
    if "text_encoder_2" in theirs:
        kind, absent["tokenizer_2"] = StableDiffusionXLPipeline, None
    else:
        kind, absent["safety_checker"] = StableDiffusionPipeline, None
    pipeline = kind(**theirs, **absent, scheduler=EulerDiscreteScheduler())
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(lora_scale=strength)
    pipeline.unload_lora_weights()
    before = state(networks)
    LoraStack(networks).apply([(read_lora(path), strength)])
    assert_same(state(networks), state(theirs))
    for role in networks:
        assert changed({key: before[key] for key in before if key.startswith(f"{role}.")}, state(networks))


def check_change(networks: Networks, name: str, parts: Mapping[str, Tensor], change: Tensor) -> None:
    module = networks["unet"].get_submodule(name)
    before = state(networks)
    expected = {**before, f"unet.{name}.weight": module.weight + 0.5 * change}
    file = lora({f"lora_unet_{name.replace('.', '_')}.{part}": tensor for part, tensor in parts.items()})
    LoraStack(networks).apply([(file, 0.5)])
    assert_same(state(networks), expected)
    assert change.abs().max() > 1e-3
