"""CCSR as the official programs compute it, on their own outputs (tests/fixtures/ccsr/README.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ccsr_files
from creative_upscaler.pipelines.autoencoding import LatentCodec
from creative_upscaler.pipelines.ccsr.denoising import Branch, CanvasHint, LatentHintDenoiser
from creative_upscaler.pipelines.ccsr.loading import CcsrModels, load_ccsr
from creative_upscaler.pipelines.ccsr.sampling import DrawKind
from creative_upscaler.pipelines.ccsr.settings import CcsrSettings
from creative_upscaler.pipelines.ccsr.upscaling import Restoration
from creative_upscaler.pipelines.models import architectures
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from creative_upscaler.pipelines.tiling import Job, Tile

CPU = Runtime(LocalMemory(torch.device("cpu")))
TOLERANCE = 2e-5
CHAIN = {"preset": "custom", "official": True, "tile_size": 64, "tile_stride": 32}


@pytest.fixture(scope="module", autouse=True)
def reference_heads():
    """No file of version 1 says how many attention heads there are; the published rule is not this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "HEAD_WIDTH", ccsr_files.HEAD_WIDTH)
        yield


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory, reference_heads: None) -> CcsrModels:
    path = tmp_path_factory.mktemp("ccsr") / "real-world_ccsr.ckpt"
    ccsr_files.write_v1(path, {"cond_stage_model.emb": ccsr_files.golden("v1")["ctx"]})
    return load_ccsr(path, memory=CPU.memory)


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> CcsrModels:
    folder = tmp_path_factory.mktemp("ccsr2")
    ccsr_files.write_v2(folder)
    models = load_ccsr(
        controlnet=folder / "controlnet", vae=folder / "vae", base=folder / "base", memory=CPU.memory
    )
    arrays = ccsr_files.golden("v2")
    models.prompts |= {"positive": arrays["pos"], "negative": arrays["neg"]}
    return models


def predict_noise(models: CcsrModels, x: Tensor, hint: Tensor, text: Tensor) -> Tensor:
    """The noise prediction at t = 511, from the denoiser's clean estimate."""
    alpha = float(models.alphas_cumprod[511])
    sigma = ((1 - alpha) / alpha) ** 0.5
    branch = Branch(text, CanvasHint(hint))
    denoiser = LatentHintDenoiser(
        models=models, positive=branch, negative=None, guidance=1.0, extraction=branch
    )
    scaled = x / alpha**0.5
    clean = denoiser.denoise(scaled, sigma, [Job(0, Tile(0, 0, *x.shape[-2:]))], 0.5)
    return (scaled - clean) / sigma


def agrees(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_v1_networks_agree(v1: CcsrModels) -> None:
    arrays = ccsr_files.golden("v1")
    assert v1.condition_vae is v1.vae
    agrees(predict_noise(v1, arrays["x_T"], arrays["hint"], arrays["ctx"]), arrays["eps_t511"])
    codec = LatentCodec(v1.vae, CPU)
    agrees(codec.encode(arrays["img"]), arrays["cond_latent"])
    agrees(codec.decode(arrays["x_T"], clip=False) * 2 - 1, arrays["decode_xT"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ccsr_none", {"tiling": "untiled", "color_fix": "none"}),
        ("ccsr_adain", {"tiling": "untiled", "color_fix": "adain"}),
        ("ccsr_wavelet", {"tiling": "untiled", "color_fix": "wavelet"}),
        ("gauss_adain_t64_s32", {"tiling": "gaussian", "color_fix": "adain"}),
        ("mixdiff_adain_t64_s32", {"tiling": "uniform", "color_fix": "adain"}),
    ],
)
@torch.inference_mode()
def test_v1_pictures_agree(v1: CcsrModels, name: str, settings: dict[str, str]) -> None:
    arrays = ccsr_files.golden("v1")
    generator = torch.Generator().manual_seed(5)

    def draw(kind: DrawKind, like: Tensor) -> Tensor:
        if kind == "start":
            return arrays["x_T"]
        if kind == "renoise" and settings["tiling"] == "untiled":
            torch.randn(like.shape, generator=generator)  # official: drawn, and not used
        return torch.randn(like.shape, generator=generator)

    chosen = CcsrSettings(**CHAIN, **settings, steps=9, t_max=0.6667, t_min=0.3333)
    agrees(Restoration.plan((128, 128), chosen, v1, CPU).restore(arrays["img"], draw), arrays[name])


@torch.inference_mode()
def test_v2_network_agrees(v2: CcsrModels) -> None:
    arrays = ccsr_files.golden("v2")
    agrees(predict_noise(v2, arrays["x"], arrays["z"], arrays["pos"]), arrays["eps_t511"])


ONE_STEP = {"steps": 1, "t_min": 0.0, "guidance_scale": 1.0}
TWO_STEP = {"steps": 6, "t_min": 0.5, "guidance_scale": 4.5}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("one_step", {**ONE_STEP, "tiling": "untiled"}),
        ("one_step_tile64_s32", {**ONE_STEP, "tiling": "gaussian"}),
        ("two_step_cfg4.5", {**TWO_STEP, "tiling": "untiled"}),
        ("two_step_cfg4.5_tile64_s32", {**TWO_STEP, "tiling": "gaussian"}),
        ("six_loop", {"steps": 6, "t_min": 0.3333, "guidance_scale": 1.0, "tiling": "untiled"}),
    ],
)
@torch.inference_mode()
def test_v2_pictures_agree(v2: CcsrModels, name: str, settings: dict[str, Any]) -> None:
    arrays = ccsr_files.golden("v2")
    ours, theirs = torch.Generator().manual_seed(8), torch.Generator().manual_seed(7)

    def draw(kind: DrawKind, like: Tensor) -> Tensor:
        if kind == "renoise":
            for _ in range(2):  # official: two numbers whose range leaves no choice
                torch.randint(999, 1000, (1,), generator=theirs)
            # Official: randn_like fills memory in its order, and a guided batch has its channels last.
            order = torch.channels_last if settings["guidance_scale"] > 1 else torch.contiguous_format
            return torch.empty(like.shape).to(memory_format=order).normal_(generator=theirs)
        return torch.randn(like.shape, generator=ours if kind in ("start", "step") else theirs)

    chosen = CcsrSettings(
        **CHAIN,
        **settings,
        t_max=0.6667,
        color_fix="none",
        prompt="positive",
        negative_prompt="negative",
    )
    made = Restoration.plan((128, 128), chosen, v2, CPU).restore(arrays["img"], draw)
    agrees(made.clamp(0, 1), arrays[name])
