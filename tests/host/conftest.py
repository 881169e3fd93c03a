"""One running server for each ComfyUI found on this machine, and tiny models for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from comfy_server import Server, find_hosts, running
from PIL import Image
from skimage import data

import ccsr_files
import tiny_checkpoints
from tiny_starter import write_starter_diffusion, write_starter_sr


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        reason = "no ComfyUI: set COMFYUI_PATH to a checkout, or put one at ~/ComfyUI"
        hosts = find_hosts() or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
        metafunc.parametrize(
            "host", hosts, ids=lambda host: host.name if host else "none", scope="session", indirect=True
        )


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Path:
    """The folder of a ComfyUI checkout; every test that uses it runs once for each."""
    return request.param


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models in the published layouts, under the names that the example workflows use."""
    models = tmp_path_factory.mktemp("tiny") / "models"
    for kind in ("checkpoints", "controlnet", "vae", "loras", "embeddings", "upscale_models"):
        (models / kind).mkdir(parents=True)
    tiny_checkpoints.write_sd15(models / "checkpoints" / "v1-5-pruned-emaonly.safetensors")
    for name in ("control_v11f1e_sd15_tile.pth", "control_v11f1e_sd15_tile_fp16.safetensors"):
        tiny_checkpoints.write_controlnet(models / "controlnet" / name)
    tiny_checkpoints.write_sdxl(models / "checkpoints" / "sd_xl_base_1.0.safetensors")
    sdxl_tile = models / "controlnet" / "xinsir-controlnet-tile-sdxl-1.0.safetensors"
    tiny_checkpoints.write_controlnet(sdxl_tile, "sdxl", diffusers_keys=True)
    text = {"cond_stage_model.emb": torch.zeros(1, 77, 16)}
    ccsr_files.write_v1(models / "checkpoints" / "real-world_ccsr-fp16.safetensors", text, **ccsr_files.SMALL)
    return models


@pytest.fixture(scope="session")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models in place of the starter models."""
    starter = tmp_path_factory.mktemp("starter")
    write_starter_diffusion(starter / "diffusion", limits={"creativity": 0.3, "settings": {"detail": 0.5}})
    write_starter_sr(starter / "sr" / "starter-sr-2x.safetensors")
    return starter


@pytest.fixture(scope="session")
def server(
    host: Path, models_folder: Path, starter_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server with a real photograph, odd in both sides, as its input `example.png`."""
    with running(host, tmp_path_factory.mktemp(host.name), models_folder, starter_folder) as server:
        face = Image.fromarray(data.astronaut()).crop((120, 0, 350, 200))
        face.resize((77, 67), Image.Resampling.LANCZOS).save(server.folder / "input" / "example.png")
        yield server
