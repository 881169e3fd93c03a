"""The same files mean the same in ComfyUI's own classes as in ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_checkpoints as tiny
from creative_upscaler.pipelines.models import CreativeModels, load_models
from creative_upscaler.pipelines.runtime import LocalMemory

SCRIPT = Path(__file__).with_name("predict_with_comfyui.py")
KINDS = {"sd15": "SD15", "sdxl": "SDXL", "sdxl v": "SDXL"}
TIMESTEPS = (10, 500, 950)


@pytest.fixture(scope="session")
def work(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, inputs for them, and what ComfyUI made of those."""
    work = tmp_path_factory.mktemp("predictions")
    for name in KINDS:
        family = name[:4]
        marked = name.endswith("v")
        tiny.write_checkpoint(work / f"{name}.safetensors", family, v_prediction=marked, zero_snr=marked)
        tiny.write_controlnet(work / f"{name}.controlnet.safetensors", family, seed=1)
        save_file(make_inputs(load(work, name)), work / f"{name}.inputs.safetensors")
    (work / "job.json").write_text(json.dumps(KINDS))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(work)], cwd=host, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return work


def load(work: Path, name: str) -> CreativeModels:
    return load_models(
        work / f"{name}.safetensors",
        controlnet=work / f"{name}.controlnet.safetensors",
        memory=LocalMemory(torch.device("cpu")),
    )


def make_inputs(models: CreativeModels) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    count = len(TIMESTEPS)
    alphas = models.alphas_cumprod[list(TIMESTEPS)]
    sigma = ((1 - alphas) / alphas).sqrt().float()
    clean, noise = torch.randn(2, count, 4, 16, 24, generator=generator)
    inputs = {
        "sigma": sigma,
        "x": clean + noise * sigma.view(-1, 1, 1, 1),
        "context": torch.randn(count, 77, models.unet.config.cross_attention_dim, generator=generator),
        "hint": torch.rand(count, 3, 128, 192, generator=generator),
        "image": torch.rand(1, 3, 64, 96, generator=generator),
        "latents": torch.randn(1, 4, 8, 12, generator=generator),
    }
    if models.model_type == "SDXL":
        inputs["pooled"] = torch.randn(count, tiny.CLIP_G_WIDTH, generator=generator)
    return inputs


@torch.no_grad()
def predict(models: CreativeModels, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    x, sigma = inputs["x"], inputs["sigma"].view(-1, 1, 1, 1)
    variance = sigma**2 + 1
    call = {"encoder_hidden_states": inputs["context"], "timestep": torch.tensor(TIMESTEPS)}
    if "pooled" in inputs:
        height, width = (8 * side for side in x.shape[-2:])
        ids = torch.tensor([[height, width, 0, 0, height, width]] * len(x))
        call["added_cond_kwargs"] = {"text_embeds": inputs["pooled"], "time_ids": ids}
    scaled = x / variance.sqrt()
    down, mid = models.controlnet(scaled, controlnet_cond=inputs["hint"], return_dict=False, **call)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    outputs = {f"residual.{number:02}": tensor for number, tensor in enumerate((*down, mid))}
    for name, extra in (("clean", {}), ("controlled", residuals)):
        output = models.unet(scaled, **call, **extra).sample
        if models.prediction_type == "v_prediction":
            outputs[name] = x / variance - output * sigma / variance.sqrt()
        else:
            outputs[name] = x - sigma * output
    scale = models.vae.config.scaling_factor
    outputs["sigmas"] = ((1 - models.alphas_cumprod) / models.alphas_cumprod).sqrt().float()
    outputs["latents"] = models.vae.encode(2 * inputs["image"] - 1).latent_dist.mode() * scale
    outputs["decoded"] = (models.vae.decode(inputs["latents"] / scale).sample / 2 + 0.5).clamp(0, 1)
    return outputs


@pytest.mark.parametrize("name", KINDS)
def test_a_file_gives_the_same_predictions_and_pictures_in_comfyui(name: str, work: Path) -> None:
    models = load(work, name)
    ours = predict(models, load_file(work / f"{name}.inputs.safetensors"))
    theirs = load_file(work / f"{name}.outputs.safetensors")
    assert ours.keys() == theirs.keys()
    if models.alphas_cumprod[-1] < 1e-6:
        # In place of zero signal we end where diffusers does (2**-24), ComfyUI at 4.9e-8.
        ours["sigmas"], theirs["sigmas"] = ours["sigmas"][:-1], theirs["sigmas"][:-1]
    for key, tensor in theirs.items():
        assert tensor.std() > 0.01, f"{key} is degenerate"
        difference = (ours[key] - tensor).abs() / (1 + tensor.abs())
        assert difference.max() < 2e-4, key
    assert (theirs["controlled"] - theirs["clean"]).std() > 0.01
