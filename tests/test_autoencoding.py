"""What `LatentCodec` promises, held against diffusers' own `AutoencoderKL` on small random weights."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from skimage import data
from torch import Tensor

from creative_upscaler.pipelines import levels
from creative_upscaler.pipelines.autoencoding import LatentCodec
from creative_upscaler.pipelines.errors import Cancelled, MemoryLimitError, UpscalerError
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from creative_upscaler.pipelines.windows import Span, Window, calibrate, plan_crops, plan_windows

TILE = 28
"""Small, so that a canvas of CANVAS latents is four windows at its two finest levels."""
CANVAS = (60, 56)
HALO = 7
"""What two ResNets per level need."""


def make_vae(channels: tuple[int, ...], latents: int, **config: object) -> AutoencoderKL:
    torch.manual_seed(7)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=latents,
        layers_per_block=2,
        norm_num_groups=4,
        **config,
    ).eval()


def eightfold() -> AutoencoderKL:
    """Built as Stable Diffusion's: 8 pixels per latent, 4 channels, attention in the middle."""
    return make_vae((8, 8, 16, 16), 4)


def fourfold() -> AutoencoderKL:
    """4 pixels per latent, 16 shifted channels, neither attention nor quantisation convolutions."""
    absent = {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False}
    return make_vae((8, 8, 16), 16, shift_factor=0.06, scaling_factor=1.5, **absent)


both_vaes = pytest.mark.parametrize("make", [eightfold, fourfold])


class CountingMemory(LocalMemory):
    """The CPU, counting what is asked of it."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.loads: list[int] = []
        self.releases = 0

    def load(self, *modules: torch.nn.Module, activation_bytes: int = 0) -> None:
        self.loads.append(activation_bytes)

    def release(self) -> None:
        self.releases += 1


def codec(vae: AutoencoderKL, tile: int = TILE, **runtime: object) -> LatentCodec:
    return LatentCodec(vae, Runtime(**{"memory": CountingMemory(), **runtime}), tile=tile)


def photograph(height: int, width: int) -> Tensor:
    """The astronaut (NASA, public domain, from scikit-image) `[1,3,H,W]` in 0..1."""
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None] / 255
    return F.interpolate(picture, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


def canvas_photograph(vae: AutoencoderKL) -> Tensor:
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    return photograph(CANVAS[0] * scale, CANVAS[1] * scale)


@torch.no_grad()
def diffusers_encode(vae: AutoencoderKL, image: Tensor) -> Tensor:
    mode = vae.encode(image * 2 - 1).latent_dist.mode()
    return (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


@torch.no_grad()
def diffusers_decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    sample = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
    return (sample / 2 + 0.5).clamp(0, 1)


@both_vaes
def test_a_small_picture_is_exactly_what_diffusers_makes_of_it(make: Callable[[], AutoencoderKL]) -> None:
    original = make()
    vae = copy.deepcopy(original)
    image = photograph(64, 160)
    latents = diffusers_encode(original, image)
    assert torch.equal(codec(vae).encode(image), latents)
    assert torch.equal(codec(vae).decode(latents), diffusers_decode(original, latents))
    assert vae.state_dict().keys() == original.state_dict().keys()


def test_latents_are_centred_and_scaled_per_channel_where_the_vae_says_so() -> None:
    mean, deviation = [0.1, -1.0, 2.0, 0.3], [1.0, 2.0, 0.5, 3.0]
    vae = make_vae((8, 8, 16, 16), 4, latents_mean=mean, latents_std=deviation, scaling_factor=0.5)
    image = photograph(64, 64)
    mode = vae.encode(image * 2 - 1).latent_dist.mode()
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in (mean, deviation))
    latents = codec(vae).encode(image)
    torch.testing.assert_close(latents, ((mode - mean) * 0.5 / deviation).detach())
    torch.testing.assert_close(
        codec(vae).decode(latents), (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1).detach()
    )


def measure_on_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(height: int, width: int, **_: int) -> tuple[list[Window], Tensor]:
        return [Window(Span(0, height, 0, height), Span(0, width, 0, width))], torch.ones(1, 1, height, width)

    monkeypatch.setattr(levels, "plan_crops", plan)


@both_vaes
def test_windows_add_up_to_the_whole_under_its_statistics(make, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_on_the_whole_picture(monkeypatch)
    vae = make()
    image = canvas_photograph(vae)
    latents = diffusers_encode(vae, image)
    torch.testing.assert_close(codec(vae).encode(image), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec(vae).decode(latents), diffusers_decode(vae, latents), rtol=0, atol=1e-5)


@both_vaes
def test_a_large_picture_is_close_to_the_untiled_one(make: Callable[[], AutoencoderKL]) -> None:
    vae = calmed(make())
    image = canvas_photograph(vae)
    latents = diffusers_encode(vae, image)
    assert relative(codec(vae).encode(image), latents) < 0.1
    assert (codec(vae).decode(latents) - diffusers_decode(vae, latents)).abs().mean() < 6 / 255


def calmed(vae: AutoencoderKL) -> AutoencoderKL:
    """With weaker residual branches: untrained ones amplify small differences as trained ones do not."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.data *= 0.3
    return vae


def relative(result: Tensor, expected: Tensor) -> float:
    """Mean absolute difference in standard deviations of what is expected."""
    return float((result - expected).abs().mean() / expected.std())


def test_windows_leave_no_seams() -> None:
    vae = eightfold()
    latents = diffusers_encode(vae, canvas_photograph(vae))
    tiled, whole = codec(vae).decode(latents), diffusers_decode(vae, latents)
    # Both borders are in the middle: four equal windows.
    for one, other in ((tiled, whole), (tiled.mT, whole.mT)):
        middle = one.shape[-1] // 2
        assert 0.95 < border_gradient(one, middle) / border_gradient(other, middle) < 1.05


def border_gradient(image: Tensor, column: int) -> float:
    """Gradient across the left border of this column, over the mean gradient across all others."""
    gradient = image.diff(dim=-1).abs().mean((0, 1, 2))
    return float(gradient[column - 1] / gradient.mean())


@pytest.mark.parametrize("size", [(1, 3000), (129, 128), (200, 149), (512, 333)])
def test_windows_have_one_size_and_their_cores_cover_the_canvas_once(size: tuple[int, int]) -> None:
    windows = plan_windows(*size, tile=128, halo=HALO)
    covered = torch.zeros(size)
    for window in windows:
        covered[
            window.rows.core_start : window.rows.core_stop,
            window.columns.core_start : window.columns.core_stop,
        ] += 1
        for span, length in zip((window.rows, window.columns), size, strict=True):
            assert span.start == 0 or span.core_start - span.start >= HALO
            assert span.stop == length or span.stop - span.core_stop >= HALO
    assert (covered == 1).all()
    assert len({(window.rows.length, window.columns.length) for window in windows}) == 1
    assert max(windows[0].rows.length, windows[0].columns.length) <= 128 + 2 * HALO


@pytest.mark.parametrize("size", [(3, 9000), (6, 5000), (9, 4000), (256, 256), (1000, 300)])
def test_measured_crops_stand_for_the_whole_canvas(size: tuple[int, int]) -> None:
    crops, weights = plan_crops(*size, tile=128)
    assert sum(crop.area for crop in crops) <= 1.3 * 128**2
    assert float(weights.sum()) == pytest.approx(size[0] * size[1], rel=1e-4)
    # A canvas whose border differs, of which a ramp and a texture cover the rest.
    rows, columns = (torch.linspace(0, 1, side) for side in size)
    canvas = rows[:, None] ** 2 + torch.sin(9 * columns)
    canvas[0] += 50
    canvas[:, -1] -= 20
    batch = torch.stack([crop.cut(canvas[None], 1) for crop in crops])

    def error(weights: Tensor) -> float:
        return abs(float((batch * weights).sum() / weights.sum() - canvas.mean()))

    assert error(weights) < 0.05
    assert error(calibrate(weights, batch, canvas[None])) < max(error(weights) / 2, 1e-3)


def test_the_position_in_a_batch_does_not_change_a_picture() -> None:
    latents = torch.randn(2, 4, *CANVAS, generator=torch.Generator().manual_seed(0))
    latents[1] *= 3
    ours = codec(eightfold())
    together = ours.decode(latents)
    assert torch.equal(together[0], ours.decode(latents[:1])[0])
    assert torch.equal(together[1], ours.decode(latents[1:])[0])


def test_one_vae_can_be_wrapped_again() -> None:
    vae = eightfold()
    latents = torch.randn(1, 4, *CANVAS, generator=torch.Generator().manual_seed(0))
    first = codec(vae)
    expected = first.decode(latents)
    assert torch.equal(codec(vae).decode(latents), expected)
    assert torch.equal(first.decode(latents), expected)


def test_sizes_that_are_no_multiple_of_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"100x64 pixels.*multiples of 8"):
        codec(eightfold()).encode(torch.zeros(1, 3, 64, 100))


def test_each_evaluation_asks_for_memory_and_is_reported() -> None:
    memory, seen = CountingMemory(), []
    runtime = {
        "memory": memory,
        "progress": lambda stage, done, total, preview=None: seen.append((stage, done, total)),
    }
    codec(eightfold(), **runtime).decode(torch.zeros(2, 4, *CANVAS))
    assert seen == [("decode", done, 14) for done in range(1, 15)]
    assert len(memory.loads) == 14 and min(memory.loads) > 0


def test_cancelling_goes_through_and_leaves_the_vae_as_it_was() -> None:
    def stop(stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        if done == 4:
            raise Cancelled

    vae = eightfold()
    latents = torch.randn(1, 4, *CANVAS)
    expected = diffusers_decode(vae, latents)
    with pytest.raises(Cancelled):
        codec(vae, progress=stop).decode(latents)
    assert torch.equal(diffusers_decode(vae, latents), expected)


class OutOfMemory(RuntimeError):
    """Stands for the device's own error."""


class LimitedMemory(CountingMemory):
    """Refuses evaluations of more than so many latents."""

    def __init__(self, vae: AutoencoderKL, latents: int) -> None:
        super().__init__()
        vae.decoder.conv_out.register_forward_pre_hook(lambda _, inputs: self.check(inputs[0], latents))

    def check(self, features: Tensor, latents: int) -> None:
        if features[:, 0].numel() > latents * 64:
            raise OutOfMemory

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, OutOfMemory)


def test_smaller_tiles_are_used_when_memory_runs_out() -> None:
    vae = calmed(eightfold())
    latents = diffusers_encode(vae, canvas_photograph(vae))
    expected = diffusers_decode(vae, latents)
    memory = LimitedMemory(vae, 40 * 40)
    result = codec(vae, tile=60, memory=memory).decode(latents)
    assert memory.releases == 2
    assert (result - expected).abs().mean() < 6 / 255


def test_memory_that_is_too_small_for_any_tile_is_an_error_that_says_so() -> None:
    vae = eightfold()
    with pytest.raises(MemoryLimitError, match="decode in tiles of 7x7 latents"):
        codec(vae, memory=LimitedMemory(vae, 0)).decode(torch.zeros(1, 4, 16, 16))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        codec(eightfold()).decode(torch.zeros(1, 5, 16, 16))


def test_a_picture_that_overflows_half_precision_is_computed_in_float32() -> None:
    vae = eightfold()
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e5)
    vae = vae.half()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    result = codec(vae).decode(latents)
    assert vae.dtype == torch.float16
    assert torch.equal(result, diffusers_decode(copy.deepcopy(vae).float(), latents))


def test_bfloat16_windows_keep_their_statistics_in_float32() -> None:
    vae = eightfold()
    latents = diffusers_encode(vae, canvas_photograph(vae))
    expected = codec(vae).decode(latents)
    result = codec(copy.deepcopy(vae).bfloat16()).decode(latents)
    assert result.dtype == torch.float32
    assert (result - expected).abs().mean() < 3 / 255


def test_values_that_are_not_finite_are_an_error() -> None:
    latents = torch.zeros(1, 4, *CANVAS)
    latents[..., -1] = float("nan")
    for part in (latents[..., -8:], latents):
        with pytest.raises(UpscalerError, match="input is not finite either"):
            codec(eightfold()).decode(part)


MEASURE_PEAK = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from conftest import pytest_configure
class Config:
    class pluginmanager:
        register = staticmethod(lambda *plugin: None)
pytest_configure(Config)
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from creative_upscaler.pipelines.autoencoding import LatentCodec
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
vae = AutoencoderKL(
    block_out_channels=(4, 4, 4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4, mid_block_add_attention=False,
)
codec = LatentCodec(vae, Runtime(LocalMemory(torch.device("cpu"))), tile=64)
for side in (192, 384):
    codec.decode(torch.zeros(1, 4, side, side))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_peak_memory_grows_by_no_more_than_the_picture_itself() -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", MEASURE_PEAK, str(root)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    small, large = map(int, output.split())
    picture = 3 * 4 * (3072**2 - 1536**2)
    assert large - small < 1.25 * picture
