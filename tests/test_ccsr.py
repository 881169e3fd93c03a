"""The CCSR upscale: its chains as numbers, its tiles, exact sizes, independent pictures, little memory."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ccsr_files
from creative_upscaler.pipelines.ccsr.loading import CcsrModels, load_ccsr
from creative_upscaler.pipelines.ccsr.sampling import Chain, make_chain_v1, make_chain_v2, sample
from creative_upscaler.pipelines.ccsr.settings import PRESETS, CcsrSettings
from creative_upscaler.pipelines.ccsr.tiles import plan_windows
from creative_upscaler.pipelines.ccsr.upscaling import ccsr_upscale, working_size
from creative_upscaler.pipelines.color import fix_color
from creative_upscaler.pipelines.errors import Cancelled, MemoryLimitError, ParameterError, SizeLimitError
from creative_upscaler.pipelines.models import CreativeModels
from creative_upscaler.pipelines.models.noise_levels import make_alphas_cumprod
from creative_upscaler.pipelines.noise import PictureNoise
from creative_upscaler.pipelines.resizing import resize
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime

CPU = Runtime(LocalMemory(torch.device("cpu")))
ALPHAS = make_alphas_cumprod(Path(), {})
QUICK = CcsrSettings(scale=2, seed=3, preset="custom", steps=3, tile_size=64, tile_stride=32, tile_batch=4)
"""Two evaluations in tiles of 8 latents."""


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> CcsrModels:
    path = tmp_path_factory.mktemp("ccsr") / "v1.safetensors"
    ccsr_files.write_v1(path, {"cond_stage_model.emb": torch.zeros(1, 77, 16)}, **ccsr_files.SMALL)
    return load_ccsr(path, memory=CPU.memory)


@pytest.fixture(scope="module")
def exact(v1: CcsrModels) -> CcsrModels:
    """In float64, where the rounding of kernels that depends on the batch does not add up."""
    networks = {"unet": v1.unet, "controlnet": v1.controlnet, "vae": v1.vae, "condition_vae": v1.vae}
    return dataclasses.replace(v1, **{role: copy.deepcopy(n).double() for role, n in networks.items()})


def timesteps(chain: Chain) -> list[int]:
    return [step.timestep for step in chain.steps]


def test_the_chains_are_those_of_the_papers():
    balanced = make_chain_v1(ALPHAS, 45, 0.6667, 0.3333)
    assert (balanced.start, balanced.extraction, balanced.evaluations) == ("noise", 999, 16)
    assert (timesteps(balanced)[0], timesteps(balanced)[-1]) == (658, 341)
    assert balanced.steps[0].alpha == pytest.approx(0.110976, abs=1e-6)
    assert balanced.steps[-1].alpha == pytest.approx(0.521540, abs=1e-6)
    for steps, evaluations, first, last in ((30, 11, 655, 344), (15, 6, 642, 357), (9, 4, 624, 375)):
        chain = make_chain_v1(ALPHAS, steps, 0.6667, 0.3333)
        assert (chain.evaluations, timesteps(chain)[0], timesteps(chain)[-1]) == (evaluations, first, last)
    one, two = make_chain_v2(ALPHAS, 1, 0.6667, 0), make_chain_v2(ALPHAS, 6, 0.6667, 0.5)
    assert (one.start, one.extraction, one.evaluations, two.evaluations) == ("picture", 999, 1, 2)
    assert timesteps(two) == [499] and timesteps(make_chain_v2(ALPHAS, 6, 1, 0))[-1] == 1
    for name, (version, values) in PRESETS.items():
        make = make_chain_v1 if version == "v1" else make_chain_v2
        evaluations = {"v1 balanced": 16, "v1 fast": 6, "v2 one-step": 1, "v2 two-step": 2}[name]
        assert make(ALPHAS, values["steps"], values["t_max"], values["t_min"]).evaluations == evaluations


@pytest.mark.parametrize("make", [make_chain_v1, make_chain_v2])
def test_every_chain_is_valid_or_a_clear_error(make):
    for steps in (1, 2, 3, 5, 47, 500):
        for t_max, t_min in ((1, 0), (0.6667, 0), (0.6667, 0.3333), (0.5, 0.4999), (0.1, 0), (1, 0.9)):
            try:
                chain = make(ALPHAS, steps, t_max, t_min)
            except ParameterError as error:
                assert str(steps) in str(error)
                continue
            assert chain.evaluations >= 1
            levels = [step.alpha for step in chain.steps]
            assert levels == sorted(levels) and all(step.alpha < step.alpha_after for step in chain.steps)
            # What is noised again is taken up at that very level, which officially is not always so.
            assert not chain.steps or chain.renoise_alpha == chain.steps[0].alpha
    with pytest.raises(ParameterError, match="none lies between t_max"):
        make(ALPHAS, 2, 0.5, 0.4999)
    official = make_chain_v1(ALPHAS, 47, 0.6667, 0.3333, official=True)
    assert official.renoise_alpha < official.steps[0].alpha


@pytest.mark.parametrize("last", [ALPHAS[-1], 0.0], ids=["published", "zero terminal SNR"])
def test_any_predictor_can_walk_the_chain_and_a_perfect_one_finds_the_picture(last):
    alphas = torch.cat([ALPHAS[:-1], torch.tensor([last], dtype=torch.float64)])
    clean, noise, levels = torch.rand(2, 4, 8, 8), PictureNoise([1, 2]), []

    def predict(x: Tensor, timestep: int, index: int) -> Tensor:
        levels.append(float((x - math.sqrt(float(alphas[timestep])) * clean).var()))
        return clean

    chain = make_chain_v1(alphas, 15, 0.6667, 0.3333)
    assert torch.equal(sample(chain, predict, lambda kind, like: noise.like(like), clean), clean)
    # What surrounds the picture at every evaluation is noise of the level that the network is told.
    expected = [1.0, *(1 - step.alpha for step in chain.steps)]
    assert levels[1:] == pytest.approx(expected[1:], rel=0.2)


@pytest.mark.parametrize("gaussian", [True, False])
def test_windows_cover_any_canvas_with_weights_that_sum_to_one(gaussian):
    for height, width, stride in ((8, 8, 4), (24, 8, 4), (40, 24, 5), (16, 48, 8)):
        total = torch.zeros(height, width)
        windows = plan_windows(height, width, tile=16, stride=stride, gaussian=gaussian)
        assert len({tile[2:] for tile in windows.tiles}) == 1
        for tile, weight in windows.at_step(0).weighted():
            tile.crop(total).add_(weight)
        torch.testing.assert_close(total, torch.ones(height, width))
    middle = plan_windows(16, 48, tile=16, stride=8, gaussian=True).arrangement.row_weights[0]
    torch.testing.assert_close(middle, middle.flip(0))


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((21, 34), {"scale": 2.3}),
        ((1, 1), {"scale": 8.0, "tiling": "uniform"}),
        ((40, 30), {"width": 77, "height": 91, "color_fix": "wavelet"}),
    ],
)
def test_every_size_is_exact_and_in_range(v1, size, settings, monkeypatch):
    monkeypatch.setattr("creative_upscaler.pipelines.ccsr.upscaling.LEAST_SIDE", 64)
    image = torch.rand(1, 4, *size)
    chosen = dataclasses.replace(QUICK, **settings)
    result = ccsr_upscale(image, chosen, v1, CPU)
    height = chosen.height or math.floor(size[0] * chosen.scale + 0.5)
    width = chosen.width or math.floor(size[1] * chosen.scale + 0.5)
    assert result.shape == (1, 4, height, width)
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1
    assert torch.equal(result[:, 3:], resize(image[:, 3:], (height, width)))


def test_a_short_side_is_restored_at_the_size_the_networks_know():
    settings = CcsrSettings()
    assert working_size((100, 300), settings) == (512, 1536)
    assert working_size((513, 700), settings) == (513, 700)
    assert working_size((333, 1000), dataclasses.replace(settings, tile_size=256)) == (333, 1000)
    assert ccsr_size_limit_is_kept()


def ccsr_size_limit_is_kept() -> bool:
    with pytest.raises(SizeLimitError, match="4096"):
        ccsr_upscale(torch.zeros(1, 3, 600, 600), CcsrSettings(scale=8), None, CPU)  # type: ignore[arg-type]
    return True


def test_a_picture_does_not_depend_on_its_batch_or_on_the_tiles_evaluated_at_once(exact):
    images = torch.rand(2, 3, 32, 40)
    batch = ccsr_upscale(images, QUICK, exact, CPU)
    alone = [
        ccsr_upscale(images[i : i + 1], dataclasses.replace(QUICK, seed=3 + i, tile_batch=16), exact, CPU)
        for i in range(2)
    ]
    torch.testing.assert_close(batch, torch.cat(alone), atol=1e-5, rtol=0)
    same = ccsr_upscale(images[:1].repeat(2, 1, 1, 1), QUICK, exact, CPU)
    assert (same[0] - same[1]).abs().mean() > 1e-3


class _ScarceMemory(LocalMemory):
    """Memory in which only so many tiles fit."""

    def __init__(self, models: CcsrModels, tiles: int) -> None:
        super().__init__(torch.device("cpu"))
        self.seen: list[int] = []
        self._hook = models.unet.register_forward_pre_hook(self._check)
        self.tiles = tiles

    def _check(self, module: object, args: tuple[Tensor, ...]) -> None:
        self.seen.append(len(args[0]))
        if len(args[0]) > self.tiles:
            raise torch.OutOfMemoryError("out of memory")

    def close(self) -> None:
        self._hook.remove()


def test_out_of_memory_halves_the_tiles_evaluated_at_once(exact):
    image = torch.rand(1, 3, 32, 40)
    expected = ccsr_upscale(image, QUICK, exact, CPU)
    for tiles in (1, 0):
        memory = _ScarceMemory(exact, tiles)
        try:
            if tiles:
                made = ccsr_upscale(image, QUICK, exact, Runtime(memory))
                torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
                assert memory.seen[0] > 1 and set(memory.seen[1:]) <= {1, 2}
            else:
                with pytest.raises(MemoryLimitError, match="tile_size"):
                    ccsr_upscale(image, QUICK, exact, Runtime(memory))
        finally:
            memory.close()


def test_each_tile_is_encoded_once_and_progress_can_stop_the_work(v1):
    stages, encoded = [], []
    hook = v1.vae.encoder.conv_in.register_forward_hook(lambda *_: encoded.append(1))

    def progress(stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        assert 0 <= done <= total
        stages.append(stage)
        if stage == "restore" and preview is not None:
            raise Cancelled

    try:
        with pytest.raises(Cancelled):
            ccsr_upscale(torch.rand(1, 3, 64, 32), QUICK, v1, Runtime(CPU.memory, progress))
    finally:
        hook.remove()
    # 128 x 64 px in tiles of 64 px every 32 px.
    assert len(encoded) == 3
    assert list(dict.fromkeys(stages)) == ["encode hints", "restore"]


def test_half_precision_is_close(v1, tmp_path):
    path = tmp_path / "v1.ckpt"
    ccsr_files.write_v1(path, {"cond_stage_model.emb": torch.zeros(1, 77, 16)}, **ccsr_files.SMALL)
    memory = LocalMemory(torch.device("cpu"), diffusion_dtype=torch.bfloat16)
    half, image = load_ccsr(path, memory=memory), torch.rand(1, 3, 32, 32)
    assert half.unet.dtype == torch.bfloat16
    difference = ccsr_upscale(image, QUICK, half, CPU) - ccsr_upscale(image, QUICK, v1, CPU)
    assert difference.abs().mean() < 0.02


def test_a_creative_upscale_s_models_go_the_same_way(sd15: CreativeModels):
    image = torch.rand(1, 3, 40, 30)
    made = ccsr_upscale(image, QUICK, sd15, CPU)
    assert made.shape == (1, 3, 80, 60) and made.std() > 0.01
    zero_terminal = dataclasses.replace(
        sd15,
        prediction_type="v_prediction",
        alphas_cumprod=torch.cat([sd15.alphas_cumprod[:-1], torch.zeros(1, dtype=torch.float64)]),
    )
    assert ccsr_upscale(image, QUICK, zero_terminal, CPU).isfinite().all()
    with pytest.raises(ParameterError, match="ControlNet"):
        ccsr_upscale(image, QUICK, dataclasses.replace(sd15, controlnet=None), CPU)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"tile_size": 500}, "tile_size: 500 px is no multiple of 64"),
        ({"tile_stride": 576}, "tile_stride: 576 px must be"),
        ({"t_min": 0.7}, "t_min: 0.7 must be below t_max"),
        ({"scale": 9.0}, "scale: got 9.0"),
        ({"preset": "best"}, "preset: got 'best'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values, complaint):
    with pytest.raises(ParameterError, match=complaint):
        CcsrSettings.from_mapping(values)


def test_settings_that_do_not_fit_the_models_are_refused(v1):
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(ParameterError, match="preset: v2 one-step is for CCSR v2, and v1 is loaded"):
        ccsr_upscale(image, CcsrSettings(preset="v2 one-step"), v1, CPU)
    with pytest.raises(ParameterError, match="prompt: CCSR v1 knows only the empty one"):
        ccsr_upscale(image, dataclasses.replace(QUICK, prompt="a cat"), v1, CPU)
    with pytest.raises(ParameterError, match="not a known setting"):
        CcsrSettings.from_mapping({"stepz": 1})


def test_colours_are_fixed_before_values_are_clipped():
    image, source = torch.rand(1, 3, 40, 40) * 3 - 1, torch.rand(1, 3, 40, 40)
    for method in ("adain", "wavelet"):
        free = fix_color(image.clone(), source, method, clip=False)
        assert free.min() < 0 or free.max() > 1
        assert torch.equal(fix_color(image.clone(), source, method), free.clamp(0, 1))


def test_every_default_is_allowed():
    for parameter in CcsrSettings.declared():
        assert parameter.check(parameter.default) == parameter.default, parameter.name
