"""What is planned before a run is what the run then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creative_upscaler.pipelines.creative import upscale
from creative_upscaler.pipelines.errors import ModelFileError, SizeLimitError
from creative_upscaler.pipelines.models import CreativeModels, load_models
from creative_upscaler.pipelines.models.outlines import count_values, read_outline
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.planning import estimate_memory, find_risks, plan_upscale
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from photographs import photograph
from tiny_starter import write_starter_diffusion

PICTURE = photograph("chelsea")[:, :, 90:186, 120:248]
"""96 x 128 pixels."""


class Watched(LocalMemory):
    """Notes what room is asked for, and by which networks."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.asked: dict[str, int] = {}

    def load(self, *modules: torch.nn.Module, activation_bytes: int = 0) -> None:
        kind = type(modules[0]).__name__
        self.asked[kind] = max(self.asked.get(kind, 0), activation_bytes)
        super().load(*modules, activation_bytes=activation_bytes)


def run(
    models: CreativeModels, pictures: int, **values: Any
) -> tuple[UpscaleParameters, int, list[int], Watched]:
    """Settings, evaluations, those of each pass, and the memory of a real upscale."""
    parameters = UpscaleParameters.from_mapping({"seed": 1, "model_type": models.model_type, **values})
    passes: list[int] = []

    def progress(stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        if stage == "redraw" and done == 0:
            passes.append(total)

    memory = Watched()
    image = PICTURE.repeat(pictures, 1, 1, 1)
    result = upscale(image, parameters, models, runtime=Runtime(memory, progress))
    return parameters, result.evaluations, passes, memory


@pytest.mark.parametrize(
    ("family", "pictures", "values"),
    [
        ("sd15", 1, {"tile_size": 128, "tile_overlap": 32, "num_inference_steps": 4, "tile_batch": 2}),
        ("sd15", 2, {"scale": 2.5, "num_inference_steps": 3, "creativity": 0.4, "tile_batch": 64}),
        ("sd15", 1, {"width": 700, "height": 90, "num_inference_steps": 4, "guidance_scale": 1.0}),
        ("sd15", 1, {"creativity": 0.0}),
        ("sdxl", 1, {"tile_size": 256, "tile_overlap": 100, "scale": 3, "num_inference_steps": 4}),
    ],
)
def test_a_run_does_what_was_planned(
    request: pytest.FixtureRequest, family: str, pictures: int, values: dict[str, Any]
) -> None:
    models = request.getfixturevalue(family)
    parameters, evaluations, passes, _ = run(models, pictures, **values)
    shape = read_outline(request.getfixturevalue(f"{family}_files")[0]).shape
    plan = plan_upscale((96, 128), parameters, shape)
    assert evaluations == pictures * plan.evaluations
    assert passes == [pictures * part.evaluations for part in plan.passes]
    assert (plan.evaluations == 0) == (parameters.creativity == 0)


def test_the_memory_asked_for_is_the_memory_estimated(
    sd15: CreativeModels, sd15_files: tuple[Path, Path]
) -> None:
    parameters, _, _, memory = run(
        sd15, 1, num_inference_steps=1, tile_batch=2, tile_size=128, tile_overlap=32
    )
    plan, outline = plan_upscale((96, 128), parameters, sd15.shape), read_outline(sd15_files[0])

    def estimate(weights: int, vae_itemsize: int) -> int:
        sizes = {"weights": weights, "itemsize": 4, "vae_itemsize": vae_itemsize}
        return estimate_memory(plan, parameters, sd15.shape, memory, **sizes).expected

    unet = sum(parameter.numel() for parameter in sd15.unet.parameters())
    assert (outline.unet_values, count_values(sd15_files[1])) == (
        unet,
        sum(parameter.numel() for parameter in sd15.controlnet.parameters()),
    )
    # Either stage by itself: the other one's numbers are made to take no room.
    assert estimate(unet, 0) == unet + memory.asked["UNet2DConditionModel"]
    assert estimate(-(2**40), 4) == memory.asked["AutoencoderKL"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_file_says_the_shape_of_its_models(request: pytest.FixtureRequest, family: str) -> None:
    models, files = request.getfixturevalue(family), request.getfixturevalue(f"{family}_files")
    outline = read_outline(files[0])
    assert outline.model_type == models.model_type
    assert outline.shape.tile_range == models.tile_range
    assert outline.shape.unet_width == models.shape.unet_width
    with pytest.raises(ModelFileError, match="ControlNet"):
        read_outline(files[1])


def test_a_folder_says_the_shape_of_its_models(tmp_path: Path) -> None:
    write_starter_diffusion(tmp_path / "starter")
    outline, models = read_outline(tmp_path / "starter"), load_models(tmp_path / "starter")
    assert outline.shape == models.shape
    assert outline.controlnet is not None and models.controlnet is not None
    assert count_values(outline.controlnet) == sum(p.numel() for p in models.controlnet.parameters())


def test_settings_that_hurt_are_named() -> None:
    assert find_risks(UpscaleParameters(creativity=0.6, shape_preservation=1.5)) == []
    creativity, shape = find_risks(UpscaleParameters(creativity=0.61, shape_preservation=1.55))
    assert "creativity 0.61" in creativity and "shape_preservation 1.55" in shape
    # Without a redraw there is no shape to hold.
    assert find_risks(UpscaleParameters(creativity=0.0, shape_preservation=3.0)) == []


def test_a_plan_beyond_the_size_limit_is_refused(sd15: CreativeModels) -> None:
    with pytest.raises(SizeLimitError, match="override_size_limits"):
        plan_upscale((3000, 3000), UpscaleParameters(), sd15.shape)
    allowed = UpscaleParameters(override_size_limits=True)
    assert plan_upscale((3000, 3000), allowed, sd15.shape).size == (6000, 6000)
