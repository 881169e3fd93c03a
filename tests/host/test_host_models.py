"""ComfyUI's own models in tiles, in a process of each host: six families of tiny random models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ROOT, host_environment

EXACT = 1e-5

Facts = dict[str, Any]


class Findings(dict[str, Any]):
    """The findings by check; one that failed fails the test that asks for it, and no other."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, dict) and set(found) == {"error"}:
            pytest.fail(found["error"])
        return found


@pytest.fixture(scope="module")
def found(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("models")
    script, result = Path(__file__).with_name("run_host_models.py"), folder / "findings.json"
    command = [sys.executable, script, host, ROOT, result]
    done = subprocess.run(command, cwd=folder, env=host_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return Findings(json.loads(result.read_text()))


def test_models_of_five_families_at_least_were_tried(found: Findings) -> None:
    assert {"sd15", "sdxl", "sd3", "flux", "qwen"} <= set(found["families"])


def test_a_tile_as_large_as_the_canvas_is_the_host_s_ksampler_for_every_sampler(found: Findings) -> None:
    distances = found["whole_canvas_for_every_sampler"]
    assert len(distances) > 40
    assert {name: d for name, d in distances.items() if d > EXACT} == {}


def test_it_is_with_lora_controlnet_and_masks_too_in_every_family(found: Findings) -> None:
    distances = found["whole_canvas_with_everything"]
    assert {name: d for name, d in distances.items() if d > EXACT} == {}


def test_tiles_in_batches_are_tiles_one_by_one(found: Findings) -> None:
    for name, (to_sequential, to_whole) in found["batched"].items():
        assert to_sequential < EXACT, name
        assert to_whole > 0.1, f"{name} was not tiled"


def test_every_part_of_the_canvas_is_in_a_tile_and_cfg_1_costs_half(found: Findings) -> None:
    for name, tiles in found["tiles"].items():
        assert tiles["tiles"] == tiles["samples"] == tiles["counted"] == 8, name
        assert tiles["guided"] == 16, name
        assert tiles["most at once"] == 4, name
        assert tiles["least cover"] >= 1, name


def test_a_tile_s_controlnet_sees_that_part_of_the_hint(found: Findings) -> None:
    for name, value in found["hints_of_tiles"].items():
        assert value == 8 if name.endswith("tiles") else value < EXACT, name


def test_another_hint_of_the_same_size_is_another_result(found: Findings) -> None:
    for name, (other, again) in found["two_hints"].items():
        assert other > 1e-3, name
        assert again < EXACT, name


def test_lora_and_controlnet_take_effect_everywhere(found: Findings) -> None:
    effects = found["effect_everywhere"]
    assert {name.split()[1] for name in effects} == {"lora", "control"}
    assert min(effects.values()) > 0.05


def test_regional_prompts_count_inside_their_region_only(found: Findings) -> None:
    for name, (inside, outside) in found["regional"].items():
        assert inside > 0.05, name
        assert outside < 1e-4, name


def test_reference_and_masked_pictures_are_cropped_to_the_tile(found: Findings) -> None:
    for name, distances in found["references"].items():
        assert len(distances) >= 8 and max(distances) < EXACT, name


def test_a_tile_is_given_the_size_of_a_picture_of_its_own(found: Findings) -> None:
    sizes = found["sizes"]
    assert max(sizes["to that of a picture of the tile's size"]) < EXACT
    assert min(sizes["to that of the whole"]) > 0.1


def test_the_model_that_was_given_stays_as_it_was(found: Findings) -> None:
    sharing = found["sharing"]
    assert sharing["same options"]
    assert not sharing["tiling"]
    assert sharing["tiling of the clone"] and sharing["tiling of its clone"]
    assert sharing["same results"] == 0


def test_models_leave_with_their_last_user(found: Findings) -> None:
    assert found["leftovers"] == {"model": False, "vae": False, "control": False}


def test_out_of_memory_is_tried_again_with_the_same_result(found: Findings) -> None:
    memory = found["memory"]
    assert memory["2 refused"] and memory["2"] < EXACT
    assert memory["0"].startswith("MemoryLimitError: out of memory on a single tile")


def test_pictures_in_a_batch_of_latents_are_sampled_alone(found: Findings) -> None:
    assert max(found["pictures"].values()) < EXACT


def test_the_upscale_of_one_tile_is_the_host_s_own_nodes_for_every_sampler(found: Findings) -> None:
    distances = found["like_the_host_for_every_sampler"]
    assert len(distances) >= 18
    assert {name: d for name, d in distances.items() if d > EXACT} == {}


def test_the_upscale_of_one_tile_is_the_host_s_own_nodes_in_every_family(found: Findings) -> None:
    distances = found["like_the_host_for_every_family"]
    assert set(distances) == set(found["families"])
    assert {name: d for name, d in distances.items() if d > EXACT} == {}


def test_creativity_is_the_same_noise_for_every_schedule_and_kind_of_model(found: Findings) -> None:
    levels = found["first_levels"]
    published = dict(zip(("0.2", "0.5", "0.9"), levels.pop("published")["sigma"], strict=True))
    for name, level in levels.items():
        family, creativity = name.split()
        sigma = published[creativity]
        expected = sigma if family in ("sd15", "sdxl") else sigma / (1 + sigma)
        assert level["first"] == pytest.approx([expected] * len(level["first"]), rel=1e-3), name
        assert level["cut"] == pytest.approx(level["first"], rel=1e-6), name
        assert set(level["last"]) == {0.0} and all(level["falls"]), name
        assert set(level["steps"]) == {int(10 * float(creativity))}, name
    assert set(found["network_begins_at"].values()) == {400.0}


def test_every_family_makes_a_picture_of_the_asked_size_in_tiles(found: Findings) -> None:
    for name, run in found["in_tiles"].items():
        assert run["size"] == [1, 3, 105, 197], name
        assert run["finite"] and run["spread"] > 0.05, name
        assert run["shapes"] == [[16, 16]], name


def test_a_picture_does_not_depend_on_others_in_its_batch(found: Findings) -> None:
    assert max(found["upscaled_pictures"].values()) < EXACT


def test_settings_cost_and_change_what_they_say(found: Findings) -> None:
    settings = found["settings_of_an_upscale"]
    assert settings["calls of the ControlNet at shape 0"] == 0
    assert settings["samples with guidance"] == 2 * settings["samples at guidance 1"]
    assert settings["samples at guidance 1"] == settings["evaluations"]
    assert settings["repeated"] == 0
    assert settings["batch"] < EXACT
    assert settings["detail"] > 1e-3 and settings["shape"] > 1e-2
    assert settings["model is unpatched"]


def test_moving_borders_leave_no_seams(found: Findings) -> None:
    for name, seams in found["seams"].items():
        assert seams["difference"] > 0.05, f"{name} was not tiled"
        assert seams["tiled"] < seams["side by side"] / 10, name
