"""Enlarging with real spandrel architectures of few features, in the layouts they are published in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from creative_upscaler.pipelines import pre_upscaling
from creative_upscaler.pipelines.errors import Cancelled, MemoryLimitError, ModelFileError, UpscalerError
from creative_upscaler.pipelines.pre_upscaling import load_upscaler, pre_upscale
from creative_upscaler.pipelines.resizing import resize
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime

CPU = Runtime(memory=LocalMemory(device=torch.device("cpu")))


def compact_weights(channels: int = 3, scale: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale)
    return network.state_dict()


def write_compact(path: Path, scale: int = 4, channels: int = 3) -> Path:
    """realesr-general-x4v3 as published, but smaller: a .pth with the weights under `params`."""
    torch.save({"params": compact_weights(channels, scale)}, path)
    return path


@pytest.fixture
def compact(tmp_path):
    return load_upscaler(write_compact(tmp_path / "compact.pth"))


def test_published_layouts_load_with_their_weights(tmp_path):
    torch.manual_seed(0)
    esrgan = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4).state_dict()
    image = torch.rand(1, 3, 12, 9)
    results = []
    for number, content in enumerate([esrgan, {"params_ema": esrgan}, {"model": esrgan}]):
        torch.save(content, tmp_path / f"{number}.pth")
        results.append(load_upscaler(tmp_path / f"{number}.pth")(image))
    save_file({key: value.half() for key, value in esrgan.items()}, tmp_path / "half.safetensors")
    half = load_upscaler(tmp_path / "half.safetensors")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half(image), results[0], atol=2e-3, rtol=0)
    assert results[0].shape == (1, 3, 48, 36)
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_result_is_the_lanczos_resize_of_the_networks(compact):
    image = torch.rand(2, 3, 40, 30)
    for size in ((80, 60), (61, 91), (200, 30)):
        expected = torch.cat([resize(compact(picture[None]), size) for picture in image])
        torch.testing.assert_close(pre_upscale(image, size, compact, CPU), expected, atol=1e-6, rtol=0)


def test_tiles_join_as_if_there_were_none(compact, monkeypatch):
    image = torch.rand(1, 3, 230, 301)
    whole = pre_upscale(image, (407, 555), compact, CPU)
    monkeypatch.setattr(pre_upscaling, "TILE", 128)
    shapes = set()
    watched = with_run(compact, lambda part: shapes.add(tuple(part.shape)) or compact(part))
    torch.testing.assert_close(pre_upscale(image, (407, 555), watched, CPU), whole, atol=1e-6, rtol=0)
    ((*_, height, width),) = shapes  # all tiles have one shape
    assert max(height, width) <= 128


def test_without_a_model_or_an_enlargement_it_only_resizes(compact, tmp_path):
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(pre_upscale(image, (41, 60), None, CPU), resize(image, (41, 60)))
    assert torch.equal(pre_upscale(image, (20, 15), compact, CPU), resize(image, (20, 15)))
    restorer = load_upscaler(write_compact(tmp_path / "restorer.pth", scale=1))
    torch.testing.assert_close(pre_upscale(image, (20, 30), restorer, CPU), restorer(image))


def test_one_pixel_is_enlarged(compact):
    assert pre_upscale(torch.rand(1, 3, 1, 1), (2, 3), compact, CPU).shape == (1, 3, 2, 3)


def test_out_of_memory_halves_the_tile_until_it_is_the_smallest(compact):
    image = torch.rand(1, 3, 300, 300)

    def allow(side):
        def run(part):
            if max(part.shape[-2:]) > side:
                raise torch.OutOfMemoryError("out of memory")
            return compact(part)

        return with_run(compact, run)

    whole = pre_upscale(image, (600, 600), compact, CPU)
    torch.testing.assert_close(pre_upscale(image, (600, 600), allow(256), CPU), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(pre_upscale(image, (600, 600), allow(128), CPU), whole, atol=1e-6, rtol=0)
    with pytest.raises(MemoryLimitError, match="128 px"):
        pre_upscale(image, (600, 600), allow(100), CPU)


def test_progress_is_reported_and_stops_before_the_next_tile(compact, monkeypatch):
    monkeypatch.setattr(pre_upscaling, "TILE", 128)
    reports = []
    runs = []

    def progress(stage, done, total, preview=None):
        reports.append((stage, done, total))
        if done == 3:
            raise Cancelled

    counted = with_run(compact, lambda part: runs.append(1) or compact(part))
    with pytest.raises(Cancelled):
        pre_upscale(
            torch.rand(1, 3, 150, 150), (300, 300), counted, dataclasses.replace(CPU, progress=progress)
        )
    assert reports == [("pre-upscale", done, 9) for done in range(4)]
    assert len(runs) == 3


class Executes:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_hostile_damaged_and_foreign_files_are_refused(tmp_path):
    trace = tmp_path / "executed"
    torch.save({"params": Executes(trace)}, tmp_path / "hostile.pth")
    truncated = write_compact(tmp_path / "truncated.pth").read_bytes()[:2000]
    (tmp_path / "truncated.pth").write_bytes(truncated)
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    broken = compact_weights()
    broken["body.2.weight"] = torch.zeros(5, 5, 3, 3)
    torch.save(broken, tmp_path / "broken.pth")
    write_compact(tmp_path / "grey.pth", channels=1)
    for name, reason in {
        "hostile": "could run",
        "truncated": "damaged",
        "foreign": "no upscale model",
        "broken": "cannot be loaded as an upscale model",
        "grey": "takes 1 and gives 1 channels",
        "missing": "cannot be opened",
    }.items():
        with pytest.raises(ModelFileError, match=reason) as caught:
            load_upscaler(tmp_path / f"{name}.pth")
        assert f"{name}.pth" in str(caught.value)
    assert not trace.exists()


def test_a_model_of_other_channels_from_the_host_is_refused(compact):
    compact.input_channels = 1
    with pytest.raises(UpscalerError, match="takes 1 and gives 3 channels"):
        pre_upscale(torch.rand(1, 3, 8, 8), (16, 16), compact, CPU)


def with_run(descriptor, run):
    """A descriptor with another way to run its network, to watch it or to make it fail."""
    return type(descriptor)(
        descriptor.model,
        descriptor.model.state_dict(),
        architecture=descriptor.architecture,
        purpose="SR",
        tags=[],
        supports_half=True,
        supports_bfloat16=True,
        scale=descriptor.scale,
        input_channels=3,
        output_channels=3,
        call_fn=lambda model, part: run(part),
    )
