from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models.lora_changes import Change
from creative_upscaler.pipelines.models.loras import Lora, LoraStack, lora_from_tensors, read_lora
from lora_files import (
    CONVOLUTIONS,
    OTHERS,
    TRANSFORMER,
    diffusers_file,
    kohya_file,
    kohya_parts,
    make_networks,
    random,
)

Networks = Mapping[str, nn.Module]

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def original(request: pytest.FixtureRequest) -> Networks:
    return make_networks(request.param)


@pytest.fixture
def networks(original: Networks) -> Networks:
    return deepcopy(original)


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


def test_names_of_the_original_code_mean_the_same_modules(networks: Networks) -> None:
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


# Put in and taken out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_bit_comes_back(networks: Networks, dtype: torch.dtype) -> None:
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
