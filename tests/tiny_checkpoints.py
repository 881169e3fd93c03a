"""Tiny random checkpoints in the published file layouts, for tests and for trying the pack without downloads.

The block structure, the vocabulary and the rules for attention heads are those of the real models; only the
channels and layers are fewer. The same files load in ComfyUI's own classes.
The pictures such models make are noise: they show that a path works, nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ldm_layout import clip_g_to_open_clip, clip_key, controlnet_to_ldm, unet_to_ldm, vae_to_ldm

Family = Literal["sd15", "sdxl"]

CLIP_L_WIDTH = 64
CLIP_G_WIDTH = 128
VAE_SCALE = {"sd15": 0.18215, "sdxl": 0.13025}


@dataclass(frozen=True)
class TinyModels:
    """The diffusers and transformers modules whose weights a file holds, in float32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]


def write_sd15(path: Path, *, seed: int = 0, **options: object) -> TinyModels:
    """Write a tiny SD1.5 checkpoint; `options` as in `write_checkpoint`."""
    return write_checkpoint(path, "sd15", seed=seed, **options)  # type: ignore[arg-type]


def write_sdxl(path: Path, *, seed: int = 0, **options: object) -> TinyModels:
    """Write a tiny SDXL checkpoint; `options` as in `write_checkpoint`."""
    return write_checkpoint(path, "sdxl", seed=seed, **options)  # type: ignore[arg-type]


def write_checkpoint(
    path: Path,
    family: Family,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    v_prediction: bool = False,
    zero_snr: bool = False,
    with_vae: bool = True,
) -> TinyModels:
    """Write a single file in the A1111/ComfyUI layout: `.safetensors`, or `.ckpt` as `{"state_dict": ...}`.

    `v_prediction` and `zero_snr` put in the marker tensors that NoobAI and ComfyUI use.
    """
    models = make_models(family, seed=seed)
    save_tensors(path, checkpoint_tensors(models, family, v_prediction, zero_snr, with_vae), dtype)
    return models


def write_vae(
    path: Path, family: Family = "sd15", *, seed: int = 0, diffusers_keys: bool = False
) -> AutoencoderKL:
    """Write a separate VAE file, as `vae-ft-mse-840000` (ldm keys without prefix) or with diffusers' keys."""
    with seeded(seed):
        vae = make_vae(family)
    save_tensors(path, dict(vae.state_dict()) if diffusers_keys else vae_to_ldm(vae.state_dict()))
    return vae


def write_controlnet(
    path: Path,
    family: Family = "sd15",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    diffusers_keys: bool = False,
) -> ControlNetModel:
    """Write a ControlNet in the layout of `control_v11f1e_sd15_tile`, or with diffusers' keys.

    Nothing in it is zero: with untrained zero convolutions a hint would have no effect.
    """
    controlnet = make_controlnet(family, seed=seed)
    tensors = dict(controlnet.state_dict())
    save_tensors(path, tensors if diffusers_keys else controlnet_to_ldm(tensors), dtype)
    return controlnet


def write_union_controlnet(path: Path, *, seed: int = 0, promax: bool = False) -> ControlNetUnionModel:
    """Write an SDXL ControlNet as `controlnet-union-sdxl-1.0`, or its ProMax form with 8 kinds."""
    union = make_union_controlnet(seed=seed, promax=promax)
    save_tensors(path, dict(union.state_dict()))
    return union


def write_folder(
    path: Path, family: Family = "sd15", *, seed: int = 0, prediction: str = "epsilon"
) -> TinyModels:
    """Write a diffusers folder, without the tokenizers: every published one of these families is the same."""
    models = make_models(family, seed=seed)
    models.unet.save_pretrained(path / "unet")
    models.vae.save_pretrained(path / "vae")
    index: dict[str, object] = {
        "_class_name": "StableDiffusionPipeline" if family == "sd15" else "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    for name, encoder in zip(("text_encoder", "text_encoder_2"), models.text_encoders, strict=False):
        encoder.save_pretrained(path / name)
        index[name] = ["transformers", type(encoder).__name__]
    scheduler = {
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": prediction == "v_prediction",
        "steps_offset": 1,
    }
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (path / "model_index.json").write_text(json.dumps(index))
    return models


def save_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Save `.safetensors`, `.ckpt` (wrapped in `state_dict`) or any other name as a plain pickled dict."""
    cast = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().clone().contiguous()
        for key, value in tensors.items()
    }
    if path.suffix == ".safetensors":
        save_file(cast, path)
    else:
        torch.save({"state_dict": cast, "global_step": 1} if path.suffix == ".ckpt" else cast, path)


def make_models(family: Family, *, seed: int = 0) -> TinyModels:
    """The modules of a base model with random weights; the same seed gives the same weights."""
    with seeded(seed):
        return TinyModels(make_unet(family), make_vae(family), make_text_encoders(family))


def make_unet(family: Family) -> UNet2DConditionModel:
    # 8 heads in SD1.5, heads of 64 channels in SDXL: both families' published rule.
    if family == "sd15":
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(32, 64, 64, 64),
            cross_attention_dim=CLIP_L_WIDTH,
            attention_head_dim=8,
        )
    else:
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 1, 2),
            cross_attention_dim=CLIP_L_WIDTH + CLIP_G_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=CLIP_G_WIDTH + 6 * 256,
        )
    _perturb_vectors(unet)
    with torch.no_grad():
        unet.conv_out.weight *= 3  # brings the prediction to about unit variance
    return unet.eval()


def make_vae(family: Family) -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        layers_per_block=2,
        sample_size=512,
        scaling_factor=VAE_SCALE[family],
    )
    _perturb_vectors(vae)
    with torch.no_grad():
        # Latents of several units, as the published encoders give; scaled they have about unit variance.
        vae.quant_conv.weight *= 24 if family == "sd15" else 36
        vae.post_quant_conv.weight /= 6
    return vae.eval()


def make_text_encoders(family: Family) -> tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]:
    # ComfyUI wants more than two layers where it takes the state of the last but one.
    clip_l = CLIPTextModel(_clip_config(CLIP_L_WIDTH, layers=3, act="quick_gelu"))
    if family == "sd15":
        return (_liven(clip_l),)
    # diffusers and ComfyUI both know CLIP-G by a block 9 that exists.
    clip_g = CLIPTextModelWithProjection(_clip_config(CLIP_G_WIDTH, layers=10, act="gelu"))
    return (_liven(clip_l), _liven(clip_g))


def make_controlnet(family: Family, *, seed: int = 0) -> ControlNetModel:
    with seeded(seed):
        controlnet = ControlNetModel.from_unet(make_unet(family), conditioning_channels=3)
        _fill_zero_convolutions(controlnet)
    return controlnet.eval()


def make_union_controlnet(*, seed: int = 0, promax: bool = False) -> ControlNetUnionModel:
    with seeded(seed):
        config = make_unet("sdxl").config
        names = (
            "block_out_channels",
            "down_block_types",
            "transformer_layers_per_block",
            "attention_head_dim",
            "cross_attention_dim",
            "use_linear_projection",
            "addition_embed_type",
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
        )
        union = ControlNetUnionModel(
            **{name: config[name] for name in names},
            conditioning_embedding_out_channels=(16, 32, 96, 256),
            num_control_type=8 if promax else 6,
            num_trans_channel=32,
            num_proj_channel=32,
        )
        _perturb_vectors(union)
        _fill_zero_convolutions(union)
        with torch.no_grad():
            union.task_embedding.normal_()
            nn.init.normal_(union.spatial_ch_projs.weight, std=0.1)
    return union.eval()


def checkpoint_tensors(
    models: TinyModels,
    family: Family,
    v_prediction: bool = False,
    zero_snr: bool = False,
    with_vae: bool = True,
) -> dict[str, Tensor]:
    """All tensors of a single-file checkpoint under their published names."""
    tensors = {
        "model.diffusion_model." + key: value for key, value in unet_to_ldm(models.unet.state_dict()).items()
    }
    if with_vae:
        tensors |= {
            "first_stage_model." + key: value for key, value in vae_to_ldm(models.vae.state_dict()).items()
        }
    clip_l = {clip_key(key): value for key, value in models.text_encoders[0].state_dict().items()}
    clip_l["text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    if family == "sd15":
        tensors |= {"cond_stage_model.transformer." + key: value for key, value in clip_l.items()}
    else:
        tensors |= {"conditioner.embedders.0.transformer." + key: value for key, value in clip_l.items()}
        clip_g = clip_g_to_open_clip(models.text_encoders[1].state_dict())
        tensors |= {"conditioner.embedders.1.model." + key: value for key, value in clip_g.items()}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    tensors["alphas_cumprod"] = (1 - betas).cumprod(0).float()
    if v_prediction:
        tensors["v_pred"] = torch.tensor([])
    if zero_snr:
        tensors["ztsnr"] = torch.tensor([])
    return tensors


def _clip_config(width: int, *, layers: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act=act,
    )


def _liven(
    encoder: CLIPTextModel | CLIPTextModelWithProjection,
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Make words matter: at transformers' initialisation all prompts give nearly the same."""
    _perturb_vectors(encoder)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "token_embedding" in name:
                parameter.mul_(25)
    return encoder.eval()


def _perturb_vectors(module: nn.Module) -> None:
    """Give every norm and bias values of its own, so that two swapped ones are noticed."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.05 * torch.randn_like(parameter)


def _fill_zero_convolutions(controlnet: ControlNetModel | ControlNetUnionModel) -> None:
    hint = controlnet.controlnet_cond_embedding
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        nn.init.normal_(block.weight, std=0.3 / block.weight[0].numel() ** 0.5)
        nn.init.normal_(block.bias, std=0.05)
    for convolution in (hint.conv_in, *hint.blocks, hint.conv_out):  # a gain of about one per layer
        nn.init.normal_(convolution.weight, std=2 / convolution.weight[0].numel() ** 0.5)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules made inside get weights that depend on `seed` only; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
