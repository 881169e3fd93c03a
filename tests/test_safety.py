"""The safety check: the verdict is diffusers', a hit is black and told, and nothing passes unchecked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from transformers import CLIPImageProcessor

import tiny_safety_checkers as tiny
from creative_upscaler.pipelines.errors import (
    MissingSafetyCheckerError,
    ModelFileError,
    PictureError,
    UpscalerError,
)
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from creative_upscaler.pipelines.safety import check_safety, load_safety_checker

CPU = LocalMemory(torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    files = [data.astronaut()[:256, :400], data.chelsea()[:256, :400]]
    return torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2) / 255


def layouts(folder, threshold):
    """The same checker in every form in which it is found."""
    checker = tiny.make_checker(threshold)
    checker.save_pretrained(folder / "new")
    save_file(tiny.published_names(checker), folder / "old.safetensors")
    torch.save(tiny.published_names(checker), folder / "old.bin")
    return [
        folder / "new",
        tiny.write_folder(folder / "old", threshold),
        tiny.write_folder(folder / "old_pickle", threshold, pickle=True),
        folder / "old.safetensors",
        folder / "old.bin",
        folder / "new" / "model.safetensors",
    ]


@pytest.mark.parametrize(("threshold", "flagged"), [(tiny.ALWAYS, True), (tiny.NEVER, False)])
def test_a_hit_is_black_and_flagged_in_every_layout(tmp_path, pictures, threshold, flagged):
    before = pictures.clone()
    for path in layouts(tmp_path, threshold):
        result = check_safety(pictures, load_safety_checker(path), Runtime(CPU))
        assert result.flags == [flagged, flagged], path
        assert torch.equal(result.image, torch.zeros_like(pictures) if flagged else pictures)
    assert torch.equal(pictures, before)
    assert result.image.data_ptr() != pictures.data_ptr()


def test_the_verdict_is_that_of_diffusers_on_the_published_preprocessing(tmp_path, pictures):
    """Over thresholds on both sides of what the pictures score, with and without special care."""
    checker = load_safety_checker(tiny.write_folder(tmp_path / "checker", 0.0))
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    files = [Image.fromarray((p * 255).round().byte().permute(1, 2, 0).numpy()) for p in pictures]
    clip_input = processor(images=files, return_tensors="pt")["pixel_values"]
    seen = set()
    reference = tiny.make_checker(0.0)
    for network in (reference, checker.network):
        network.special_care_embeds_weights.fill_(0.2)
    for threshold in np.linspace(0.2, 0.8, 13):
        for network in (reference, checker.network):
            network.concept_embeds_weights.fill_(float(threshold))
        _, expected = reference(clip_input, [np.zeros((1, 1, 3))] * 2)
        assert check_safety(pictures, checker, Runtime(CPU)).flags == expected
        seen.add(tuple(expected))
    assert {(True, True), (False, False)} < seen  # and one in which the pictures differ


def test_only_the_flagged_picture_is_black_and_each_stands_alone(tmp_path, pictures):
    checker = load_safety_checker(tiny.write_folder(tmp_path / "checker", 0.0))
    for threshold in np.linspace(0.2, 0.8, 61):
        checker.network.concept_embeds_weights.fill_(float(threshold))
        result = check_safety(pictures, checker, Runtime(CPU))
        if len(set(result.flags)) == 2:
            break
    assert check_safety(pictures.flip(0), checker).flags == result.flags[::-1]
    for picture, given, flag in zip(result.image, pictures, result.flags, strict=True):
        assert torch.equal(picture, torch.zeros_like(given) if flag else given)


def test_what_is_under_transparency_is_checked_and_hidden_for_good(tmp_path, pictures):
    checker = load_safety_checker(tiny.write_folder(tmp_path / "checker", tiny.ALWAYS))
    transparent = torch.cat([pictures, torch.zeros_like(pictures[:, :1])], dim=1)
    result = check_safety(transparent, checker)
    assert result.flags == [True, True]
    assert not result.image[:, :3].any() and bool((result.image[:, 3] == 1).all())


def test_without_a_checker_nothing_is_passed_on_and_the_error_says_what_to_do(pictures):
    with pytest.raises(MissingSafetyCheckerError, match=r"load one .* or switch enable_safety_checks off"):
        check_safety(pictures, None)
    assert issubclass(MissingSafetyCheckerError, UpscalerError)


@pytest.mark.parametrize("fault", ["not finite", "empty concept", "lacks 1", "no safety checker", "pickle"])
def test_a_damaged_checker_is_refused(tmp_path, fault):
    tensors = tiny.published_names(tiny.make_checker(tiny.NEVER))
    if fault == "not finite":
        tensors["visual_projection.weight"][0, 0] = torch.inf
    elif fault == "empty concept":
        tensors["concept_embeds"][3] = 0
    elif fault == "lacks 1":
        del tensors["vision_model.vision_model.encoder.layers.1.mlp.fc1.bias"]
    elif fault == "no safety checker":
        tensors["unet.weight"] = torch.ones(2)
    path = tmp_path / "checker.safetensors"
    if fault == "pickle":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with pytest.raises(ModelFileError, match=fault):
        load_safety_checker(path)


def test_a_checker_that_computes_nonsense_does_not_let_a_picture_through(tmp_path, pictures):
    """Finite weights can overflow; a comparison with NaN would find every picture harmless."""
    checker = load_safety_checker(tiny.write_folder(tmp_path / "checker", tiny.NEVER))
    checker.network.visual_projection.weight.fill_(3e38)
    with pytest.raises(ModelFileError, match="gave no verdict"):
        check_safety(pictures, checker)
    with pytest.raises(PictureError, match="NaN"):
        check_safety(torch.full_like(pictures, torch.nan), checker)
