"""Base models load from every published layout with exactly the weights that were stored, and offline."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models import CreativeModels, load_models
from creative_upscaler.pipelines.models.architectures import (
    clip_config,
    controlnet_config,
    load_config,
    unet_config,
    vae_config,
)
from creative_upscaler.pipelines.models.tokenizer import make_tokenizer
from creative_upscaler.pipelines.runtime import LocalMemory
from lora_files import kohya_file, make_networks

CPU = LocalMemory(torch.device("cpu"))
FAMILIES = pytest.mark.parametrize("family", ["sd15", "sdxl"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of both families, in every layout."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("sd15", "sdxl"):
        tiny.write_checkpoint(folder / f"{family}.safetensors", family)
        tiny.write_folder(folder / family, family)
    tiny.write_sd15(folder / "sd15.ckpt")
    tiny.write_vae(folder / "vae.safetensors", seed=5)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(path: Path, **options: object) -> CreativeModels:
    return load_models(path, memory=CPU, **options)


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    assert found.state_dict().keys() == theirs.keys()
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    width, added = unet.config.cross_attention_dim, None
    if unet.config.addition_embed_type:
        pooled = torch.randn(1, tiny.CLIP_G_WIDTH, generator=generator)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[128.0, 96, 0, 0, 128, 96]])}
    latents = torch.randn(1, 4, 16, 8, generator=generator)
    context = torch.randn(1, 77, width, generator=generator)
    with torch.no_grad():
        return unet(latents, 481, context, added_cond_kwargs=added).sample


@pytest.mark.parametrize("name", ["sd15.safetensors", "sd15.ckpt", "sd15", "sdxl.safetensors", "sdxl"])
def test_every_layout_gives_the_weights_and_the_predictions_of_the_modules_that_were_saved(
    name: str, folder: Path
) -> None:
    models = load(folder / name)
    source = tiny.make_models(name[:4])
    assert models.model_type == {"sd15": "SD_1_5", "sdxl": "SDXL"}[name[:4]]
    assert_same_weights(models.unet, source.unet)
    assert_same_weights(models.vae, source.vae)
    assert len(models.text_encoders) == len(source.text_encoders)
    for ours, theirs in zip(models.text_encoders, source.text_encoders, strict=True):
        assert_same_weights(ours.module, theirs)
        tokens = torch.tensor([[49406, 320, 1125, 49407]])
        with torch.no_grad():
            found, expected = (m(tokens, output_hidden_states=True) for m in (ours.module, theirs))
        torch.testing.assert_close(found.hidden_states[-2], expected.hidden_states[-2])
        torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(predict(models.unet), predict(source.unet))
    assert models.vae.config.scaling_factor == source.vae.config.scaling_factor


@FAMILIES
def test_networks_come_ready_to_run(family: str, folder: Path) -> None:
    models = load_models(folder / f"{family}.safetensors", memory=LocalMemory(CPU.device, torch.bfloat16))
    assert {p.dtype for p in models.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for network in models.networks[1:] for p in network.parameters()} == {torch.float32}
    for network in models.networks:
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    for convolution in (models.unet.conv_in, models.vae.decoder.conv_out, models.vae.encoder.conv_in):
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        assert not convolution.weight.is_contiguous()


@FAMILIES
def test_half_precision_files_load_in_the_wanted_precision(family: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "half.safetensors", family, dtype=torch.float16)
    assert_same_weights(load(tmp_path / "half.safetensors").unet, source.unet.half().float())


@FAMILIES
def test_what_the_sampler_needs_to_know_is_read_from_the_networks(family: str, folder: Path) -> None:
    models = load(folder / f"{family}.safetensors")
    assert models.scale_factor == 8
    assert (models.tile_range, models.latent_multiple) == {
        "sd15": ((64, 96), 8),
        "sdxl": ((96, 128), 4),
    }[family]
    assert [encoder.layer for encoder in models.text_encoders] == {
        "sd15": ["last"],
        "sdxl": ["penultimate", "penultimate"],
    }[family]
    assert models.names == {"base": f"{family}.safetensors"}


def test_shapes_of_the_published_size_give_the_published_configuration() -> None:
    from diffusers import AutoencoderKL, ControlNetModel, ControlNetUnionModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection  # noqa: PLC0415

    with torch.device("meta"):
        for family, parameters in (("sd15", 859_520_964), ("sdxl", 2_567_463_684)):
            config = load_config(family, "unet")
            unet = UNet2DConditionModel.from_config(config)
            assert sum(p.numel() for p in unet.parameters()) == parameters
            assert unet_config(config, unet.state_dict()) == config
            config = load_config(family, "vae")
            vae = AutoencoderKL.from_config(config)
            assert sum(p.numel() for p in vae.parameters()) == 83_653_863
            assert vae_config(config, vae.state_dict()) == config
            config = load_config(family, "controlnet")
            controlnet = ControlNetModel.from_config(config)
            assert controlnet_config(config, controlnet.state_dict()) == config
        config = load_config("sdxl", "controlnet_union")
        assert controlnet_config(config, ControlNetUnionModel.from_config(config).state_dict()) == config
        for family, role, parameters in (
            ("sd15", "text_encoder", 123_060_480),
            ("sdxl", "text_encoder_2", 694_659_840),
        ):
            config = load_config(family, role)
            encoder = CLIPTextModelWithProjection(CLIPTextConfig(**config))
            shapes = {key.removeprefix("text_model."): t for key, t in encoder.state_dict().items()}
            counted = sum(
                t.numel() for key, t in shapes.items() if family == "sdxl" or "projection" not in key
            )
            assert counted == parameters
            assert clip_config(config, shapes) == config


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_the_tokenizer_is_openclips(pad: str) -> None:
    ours, theirs = make_tokenizer(pad), open_clip.SimpleTokenizer()
    for text in ("", "A photo of a CAT, isn't it?", "Łódź 4k «sharp» 漢字 😀", "  many\n\n spaces!!! 12345"):
        assert ours(text).input_ids[1:-1] == theirs.encode(text)
    padded = ours("cat", padding="max_length").input_ids
    assert padded == [49406, 2368, 49407] + [ours.convert_tokens_to_ids(pad)] * 74
    assert ours.convert_tokens_to_ids("!") == 0


@pytest.mark.parametrize("form", ["ldm", "ldm of a checkpoint", "diffusers", "folder", "folder of a model"])
def test_a_separate_vae_takes_the_place_of_the_files(form: str, folder: Path, tmp_path: Path) -> None:
    with tiny.seeded(9):
        vae = tiny.make_vae("sd15")
    path = tmp_path / "vae.safetensors"
    if form == "folder":
        vae.save_pretrained(path)
    elif form == "folder of a model":
        tiny.write_folder(path, "sd15", seed=8)
        vae.save_pretrained(path / "vae")
    elif form == "ldm of a checkpoint":
        tensors = tiny.vae_to_ldm(vae.state_dict())
        tiny.save_tensors(path, {"first_stage_model." + key: tensor for key, tensor in tensors.items()})
    else:
        tiny.write_vae(path, seed=9, diffusers_keys=form == "diffusers")
    models = load(folder / "sd15.safetensors", vae=path)
    assert_same_weights(models.vae, vae)
    assert models.names["vae"] == "vae.safetensors"


def test_a_separate_vae_has_the_scale_of_the_base_models_latents(folder: Path) -> None:
    assert (
        load(folder / "sdxl.safetensors", vae=folder / "vae.safetensors").vae.config.scaling_factor == 0.13025
    )


def test_a_file_without_vae_needs_one(folder: Path, tmp_path: Path) -> None:
    tiny.write_sd15(tmp_path / "pruned.safetensors", with_vae=False)
    with pytest.raises(ModelFileError, match=r"pruned.safetensors: has no VAE inside; choose one"):
        load(tmp_path / "pruned.safetensors")
    assert load(tmp_path / "pruned.safetensors", vae=folder / "vae.safetensors").vae is not None


def test_shards_of_a_folder_are_put_together(tmp_path: Path) -> None:
    source = tiny.write_folder(tmp_path / "sharded", "sd15")
    unet = tmp_path / "sharded" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    source.unet.save_pretrained(unet, max_shard_size="4MB")
    assert len(list(unet.glob("*.safetensors"))) > 1
    assert_same_weights(load(tmp_path / "sharded").unet, source.unet)


def test_an_index_of_shards_leads_nowhere_else(folder: Path, tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "model", "sd15")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}
    file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=r"unet/elsewhere.safetensors: cannot be opened"):
        load(tmp_path / "model")


def test_loras_and_embeddings_are_loaded_with_their_model(folder: Path, tmp_path: Path) -> None:
    networks = make_networks("sd15")
    for name in ("style", "detail"):
        tiny.save_tensors(tmp_path / f"{name}.safetensors", kohya_file(networks))
    vectors = torch.randn(2, tiny.CLIP_L_WIDTH)
    save_file({"emb_params": vectors}, tmp_path / "Sharp.safetensors")
    models = load(
        folder / "sd15.safetensors",
        loras=[(tmp_path / "style.safetensors", 0.5)],
        detail_lora=tmp_path / "detail.safetensors",
        embeddings=[tmp_path / "Sharp.safetensors"],
    )
    assert torch.equal(models.embeddings["sharp"].vectors["clip_l"], vectors)
    assert models.names == {
        "base": "sd15.safetensors",
        "detail_lora": "detail.safetensors",
        "embeddings": "Sharp.safetensors",
    }
    own, styled = predict(networks["unet"]), predict(models.unet)
    models.apply_loras(detail=1.0)
    detailed = predict(models.unet)
    models.apply_loras()
    assert torch.equal(predict(models.unet), styled)
    assert min((own - styled).abs().max(), (styled - detailed).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["sd15.safetensors", "sdxl"])
def test_noise_levels_are_those_of_diffusers(name: str, folder: Path) -> None:
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    models = load(folder / name)
    assert models.prediction_type == "epsilon" and models.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(models.alphas_cumprod.float(), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mark", ["tensors", "metadata", "folder"])
def test_v_prediction_is_recognised_where_the_file_says_so(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    if mark == "folder":
        tiny.write_folder(path, "sd15", prediction="v_prediction")
    else:
        tiny.write_sd15(path, v_prediction=mark == "tensors", zero_snr=mark == "tensors")
    if mark == "metadata":
        save_file(load_file(path), path, metadata={"modelspec.prediction_type": "v"})
    models = load(path)
    assert models.prediction_type == "v_prediction"
    zero_snr = mark != "metadata"
    theirs = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    torch.testing.assert_close(models.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert models.alphas_cumprod[-1] == (2.0**-24 if zero_snr else pytest.approx(0.00466, rel=1e-3))


Change = Callable[[dict[str, Tensor]], dict[str, Tensor] | None]
UNET = "model.diffusion_model."


def drop(*parts: str) -> Change:
    return lambda tensors: {k: t for k, t in tensors.items() if not any(part in k for part in parts)}


def put(**new: Tensor) -> Change:
    return lambda tensors: {**tensors, **{key.replace("__", "."): tensor for key, tensor in new.items()}}


def move(old: str, new: str) -> Change:
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


HALF_LOADED: dict[str, tuple[str, Change, str]] = {
    "a UNet tensor": ("sd15", drop("middle_block.2.in_layers.2.bias"), "its UNet lacks 1 of 684 tensors"),
    "half of the UNet": ("sd15", drop("output_blocks"), "its UNet lacks"),
    "a level of the UNet": (
        "sd15",
        drop("input_blocks.4.", "input_blocks.5."),
        "is incomplete|no UNet of its kind has",
    ),
    "the time embedding": ("sdxl", drop("time_embed"), "its UNet lacks 4 of"),
    "part of the size embedding": ("sdxl", drop("label_emb.0.2"), "is incomplete"),
    "a VAE tensor": ("sd15", drop("decoder.mid.attn_1.q.weight"), "its VAE lacks 1 of 240 tensors"),
    "the encoder": ("sd15", drop("first_stage_model.encoder"), "is incomplete: its VAE lacks"),
    "a text layer": ("sd15", drop("layers.1.mlp.fc1.bias"), "its text encoder lacks 1 of"),
    "text embeddings": ("sd15", drop("token_embedding"), "its text encoder lacks"),
    "attention of CLIP-G": ("sdxl", drop("resblocks.4.attn.in_proj_bias"), "its text encoder lacks 3 of"),
    "the text projection": ("sdxl", drop("text_projection"), "its text encoder lacks"),
    "a wrong shape": (
        "sd15",
        put(**{UNET.replace(".", "__") + "time_embed__2__bias": torch.zeros(7)}),
        r"time_embedding.linear_2.bias of its UNet is \[7\], where \[128\] belongs",
    ),
    "a foreign tensor": (
        "sd15",
        put(**{UNET.replace(".", "__") + "input_blocks__1__1__adapter": torch.zeros(7)}),
        "has 1 tensors that no UNet of its kind has, such as",
    ),
    "impossible channels": (
        "sd15",
        put(
            **{
                UNET.replace(".", "__") + "input_blocks__1__0__in_layers__2__weight": torch.zeros(
                    33, 32, 3, 3
                )
            }
        ),
        "has a UNet of a form that cannot be|does not fit together",
    ),
}


@pytest.mark.parametrize("case", HALF_LOADED)
def test_a_file_that_is_not_whole_is_refused(case: str, folder: Path, tmp_path: Path) -> None:
    family, change, reason = HALF_LOADED[case]
    save_file(change(load_file(folder / f"{family}.safetensors")), tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match=reason) as caught:
        load(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)


CONV = torch.zeros(4, 4, 1, 1)
OTHER_KINDS: dict[str, tuple[Change, str]] = {
    "LoRA": (
        lambda _: {"lora_unet_x.lora_down.weight": CONV, "lora_unet_x.alpha": torch.tensor(1.0)},
        "is a LoRA",
    ),
    "peft": (lambda _: {"unet.x.lora_A.weight": CONV}, "is a LoRA"),
    "ControlNet": (lambda _: {"control_model.zero_convs.0.0.weight": CONV}, "is a ControlNet for SD 1"),
    "VAE": (drop("cond_stage", "model.diffusion"), "is a VAE"),
    "embedding": (lambda _: {"emb_params": torch.zeros(2, 768)}, "is a textual inversion"),
    "upscaler": (
        lambda _: {"conv_first.weight": CONV, "body.0.weight": CONV + 1},
        "is an image upscaling network",
    ),
    "SD 3": (lambda _: {UNET + "joint_blocks.0.x": CONV}, "is an SD 3 model"),
    "Flux": (lambda _: {"double_blocks.0.img_attn.qkv.weight": CONV}, "is a Flux model"),
    "text encoder": (lambda _: {"text_model.embeddings.x": CONV}, "is a text encoder"),
    "inpainting": (
        put(**{UNET.replace(".", "__") + "input_blocks__0__0__weight": torch.zeros(32, 9, 3, 3)}),
        "is an inpainting or editing model",
    ),
    "SD 2": (
        put(**{UNET.replace(".", "__") + "input_blocks__1__1__proj_in__weight": torch.zeros(32, 32)}),
        "is an SD 2.x base model",
    ),
    "UNet alone": (drop("cond_stage", "first_stage"), "is a UNet without text encoders"),
    "diffusers UNet": (
        lambda _: {"down_blocks.0.resnets.0.conv1.weight": CONV},
        "is a single UNet of a diff",
    ),
    "nothing": (lambda _: {"x": CONV}, "is not a kind of model"),
}


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_another_kind_of_file_is_named(case: str, folder: Path, tmp_path: Path) -> None:
    change, reason = OTHER_KINDS[case]
    save_file(change(load_file(folder / "sd15.safetensors")), tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=f"other.safetensors: {reason}.*choose an SD 1.5 or SDXL"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "change", [drop("embedders.0"), move("label_emb", "label_emb")], ids=["one", "refiner"]
)
def test_an_sdxl_file_without_both_text_encoders_is_no_base_model(
    change: Change, folder: Path, tmp_path: Path
) -> None:
    tensors = change(load_file(folder / "sdxl.safetensors"))
    if "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias" in tensors:
        tensors[UNET + "input_blocks.9.0.op.weight"] = CONV
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"is a UNet without text encoders|is an SDXL refiner"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("form", ["{}.safetensors", "{}"])
def test_a_model_of_the_other_family_is_refused(form: str, folder: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is an SDXL base model \(SDXL\), not SD_1_5; set model_type"):
        load(folder / form.format("sdxl"), model_type="SD_1_5")
    with pytest.raises(ModelFileError, match=r"is an SD 1.x base model \(SD_1_5\), not SDXL"):
        load(folder / form.format("sd15"), model_type="SDXL")
    assert load(folder / form.format("sd15"), model_type="SD_1_5").model_type == "SD_1_5"


def test_a_vae_of_other_latents_is_refused(folder: Path, tmp_path: Path) -> None:
    vae = tiny.AutoencoderKL(**{**tiny.make_vae("sd15").config, "latent_channels": 16})
    vae.save_pretrained(tmp_path / "flux")
    with pytest.raises(
        ModelFileError, match=r"is a VAE of 16 latent channels, and sd15.safetensors needs one of 4"
    ):
        load(folder / "sd15.safetensors", vae=tmp_path / "flux")
    with pytest.raises(ModelFileError, match=r"is a ControlNet for SD 1.x, not a VAE"):
        tiny.write_controlnet(tmp_path / "cn.safetensors")
        load(folder / "sd15.safetensors", vae=tmp_path / "cn.safetensors")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: (path / "model_index.json").unlink(), "no diffusers model"),
    "not JSON": (lambda path: (path / "model_index.json").write_text("{"), "cannot be read"),
    "a list": (lambda path: (path / "model_index.json").write_text("[]"), "holds no table"),
    "no weights": (
        lambda path: (path / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "has no weights",
    ),
    "no unet": (lambda path: (path / "unet" / "config.json").unlink(), "is not a kind of model"),
    "wrong settings": (
        lambda path: rewrite(path / "unet", block_out_channels="abc"),
        "a UNet of a form that",
    ),
    "huge settings": (
        lambda path: rewrite(path / "unet", cross_attention_dim=2**40),
        "does not fit together",
    ),
    "flow": (lambda path: rewrite(path / "scheduler", prediction_type="flow"), "predicts flow"),
    "other noise": (
        lambda path: rewrite(path / "scheduler", beta_schedule="cosine"),
        "noise schedule cosine",
    ),
}


def rewrite(path: Path, **settings: object) -> None:
    file = path / ("scheduler_config.json" if path.name == "scheduler" else "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize("case", FOLDERS)
def test_a_damaged_folder_is_refused(case: str, tmp_path: Path) -> None:
    damage, reason = FOLDERS[case]
    tiny.write_folder(tmp_path / "model", "sd15")
    damage(tmp_path / "model")
    with pytest.raises(ModelFileError, match=reason):
        load(tmp_path / "model")


def test_nothing_is_allocated_before_a_file_is_known_to_be_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(drop("time_embed.0.bias")(load_file(folder / "sd15.safetensors")), tmp_path / "bad.safetensors")

    def refuse(*_: object) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr("creative_upscaler.pipelines.models.parts.read_tensors", refuse)
    with pytest.raises(ModelFileError, match="is incomplete"):
        load(tmp_path / "bad.safetensors")
    with pytest.raises(AssertionError, match="values were read"):
        load(folder / "sd15.safetensors")
