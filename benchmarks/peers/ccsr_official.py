"""The official CCSR v1 (csslc/CCSR), without the training libraries that it imports."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEXT = "cond_stage_model.emb"
"""The tensor of the empty prompt's embedding."""


def prepare(
    checkout: Path, tensors: dict[str, Tensor], settings: dict[str, Any], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Its tiled diffusion with Gaussian weights, as a function of picture and first noise."""
    stand_in_for_libraries()
    sys.path.insert(0, str(checkout))
    from ldm.xformers_state import disable_xformers  # noqa: PLC0415
    from model.q_sampler import SpacedSampler  # noqa: PLC0415

    disable_xformers()
    model = build_model(tensors, settings).to(device)
    # All noise from the CPU's generator, which is the same for both programs.
    torch.randn_like = lambda like, **_: torch.randn(like.shape).to(like)  # type: ignore[assignment]

    def run(image: Tensor, noise: Tensor) -> Tensor:
        sampler = SpacedSampler(model, var_type="fixed_small")
        return sampler.sample_with_tile_ccsr(
            tile_size=settings["tile"],
            tile_stride=settings["stride"],
            steps=settings["steps"],
            t_max=0.6667,
            t_min=0.3333,
            shape=noise.shape,
            cond_img=image.to(device),
            positive_prompt="",
            negative_prompt="",
            x_T=noise.to(device),
            cfg_scale=1.0,
            color_fix_type="adain",
        ).clamp(0, 1)

    return run


def build_model(tensors: dict[str, Tensor], settings: dict[str, Any], *, package: str = "") -> Any:
    """The model of the program whose modules are in `package` (with its dot), on the CPU."""
    module = types.ModuleType("stand_ins")
    module.Loss, module.Text = _Loss, _Text
    sys.modules["stand_ins"] = module
    model = importlib.import_module(package + "model.ccsr_stage2").ControlLDM(
        **_parameters(settings, package)
    )
    used = {key: value for key, value in tensors.items() if key != TEXT}
    missing = [
        key
        for key in model.load_state_dict(used, strict=False).missing_keys
        if key.startswith(("model.", "control_model.", "first_stage_model.", "cond_encoder."))
    ]
    assert not missing, f"the program has other tensors: {missing[:3]}"
    model.cond_stage_model.register_buffer("embedding", tensors[TEXT])
    return model.eval()


class _Loss(nn.Module):
    """In place of LPIPS and the discriminator."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.discriminator = nn.Identity()


class _Text(nn.Module):
    """In place of OpenCLIP: the embedding of the empty prompt."""

    embedding: Tensor

    def encode(self, prompts: list[str]) -> Tensor:
        return self.embedding.expand(len(prompts), -1, -1)

    forward = encode


def _parameters(settings: dict[str, Any], package: str) -> dict[str, Any]:
    """As `configs/model/ccsr_stage2.yaml`, with the widths of the networks that are measured."""
    network = {
        "use_checkpoint": False,
        "image_size": 32,
        "in_channels": 4,
        "model_channels": settings["width"],
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "num_head_channels": settings["head_width"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "transformer_depth": 1,
        "context_dim": settings["context"],
        "legacy": False,
    }
    autoencoder = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": settings["vae_width"],
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    control = package + "model.ccsr_stage2."
    return {
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "num_timesteps_cond": 1,
        "timesteps": 1000,
        "t_max": 0.6667,
        "t_min": 0.3333,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "control_key": "hint",
        "image_size": 64,
        "channels": 4,
        "conditioning_key": "crossattn",
        "scale_factor": 0.18215,
        "use_ema": False,
        "sd_locked": True,
        "only_mid_control": False,
        "learning_rate": 5e-6,
        "control_stage_config": {
            "target": control + "ControlNet",
            "params": {**network, "hint_channels": 4},
        },
        "unet_config": {
            "target": control + "ControlledUnetModel",
            "params": {**network, "out_channels": 4},
        },
        "first_stage_config": {
            "target": package + "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "ddconfig": autoencoder,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {"target": "stand_ins.Text"},
        "lossconfig": {"target": "stand_ins.Loss"},
    }


def stand_in_for_libraries() -> None:
    """What the official modules, and their copies, import and their inference does not use."""

    class LightningModule(nn.Module):
        @property
        def device(self) -> torch.device:
            return next(self.parameters()).device

    names: dict[str, dict[str, Any]] = {
        "pytorch_lightning": {"LightningModule": LightningModule, "Callback": object},
        "pytorch_lightning.utilities": {},
        "pytorch_lightning.utilities.distributed": {"rank_zero_only": lambda function: function},
        "pytorch_lightning.utilities.rank_zero": {"rank_zero_only": lambda function: function},
        "omegaconf": {"ListConfig": list, "OmegaConf": object},
        "omegaconf.listconfig": {"ListConfig": list},
        "cv2": {},
        "open_clip": {},
    }
    for name, contents in names.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
