"""The example workflow in a running ComfyUI: results, reports, caching, interrupts and errors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from comfy_client import Rejected, Run
from comfy_server import Server
from PIL import Image
from workflows import MODELS, SAVE, UPSCALE, changed, example, quick, with_node

import tiny_checkpoints

SIZE = (77, 67)
"""Of the input photograph."""


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_the_example_upscales_a_photograph(server: Server) -> None:
    workflow = changed(example(), UPSCALE, prompt="an astronaut", seed=2**53 + 1)
    workflow = with_node(workflow, "seed", "PreviewAny", source=[UPSCALE, 1])
    workflow = with_node(workflow, "prompt", "PreviewAny", source=[UPSCALE, 2])
    run = server.client.run(workflow)
    assert run.outcome == "execution_success"
    picture = server.client.picture(run, SAVE)
    assert picture.size == (2 * SIZE[0], 2 * SIZE[1])
    assert pixels(picture).std() > 5
    assert run.outputs["seed"]["text"] == [str(2**53 + 1)]
    assert run.outputs["prompt"]["text"] == ["an astronaut" + workflow[UPSCALE]["inputs"]["prompt_suffix"]]


def test_progress_names_its_stages_and_shows_previews(server: Server) -> None:
    run = server.client.run(quick(seed=10, num_inference_steps=8))
    assert "redraw" in run.texts and len(set(run.texts)) >= 3
    steps = [(done, total) for node, done, total in run.progress if node == UPSCALE]
    assert len(steps) >= 8
    assert all(0 <= done <= total for done, total in steps)
    assert run.previews
    assert all(max(preview.size) <= 512 for preview in run.previews)
    assert pixels(run.previews[-1]).std() > 0


def test_without_previews_none_are_sent(server: Server) -> None:
    version = server.client.get("/system_stats")["system"]["comfyui_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < (0, 8):
        pytest.skip("this ComfyUI has one setting for all runs, and the server has it on")
    run = server.client.run(quick(seed=11), extra_data={"preview_method": "none"})
    assert run.outcome == "execution_success"
    assert run.previews == []


def test_only_what_a_change_concerns_runs_again(server: Server) -> None:
    first = server.client.run(quick(seed=20))
    same = server.client.run(quick(seed=20))
    assert first.outcome == same.outcome == "execution_success"
    assert same.executed == [] and {MODELS, UPSCALE, SAVE} <= set(same.cached)
    seed = server.client.run(quick(seed=21))
    assert seed.executed == [UPSCALE, SAVE] and MODELS in seed.cached
    prompt = server.client.run(quick(seed=21, prompt="a cat"))
    assert prompt.executed == [UPSCALE, SAVE] and MODELS in prompt.cached
    pictures = [pixels(server.client.picture(run, SAVE)) for run in (first, seed, prompt)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.1
    assert np.abs(pictures[1] - pictures[2]).mean() > 0.1


def test_a_replaced_model_file_is_read_again(server: Server) -> None:
    file = server.models("checkpoints") / f"replaced_{server.folder.name}.safetensors"
    tiny_checkpoints.write_sd15(file, seed=1)
    workflow = changed(quick(seed=30), MODELS, checkpoint=file.name)
    before = server.client.run(workflow)
    tiny_checkpoints.write_sd15(file.with_name("new.safetensors"), seed=2)
    file.with_name("new.safetensors").replace(file)
    after = server.client.run(workflow)
    assert before.outcome == after.outcome == "execution_success"
    assert MODELS in after.executed
    pictures = [pixels(server.client.picture(run, SAVE)) for run in (before, after)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.1


def test_an_interrupt_takes_effect_within_one_evaluation(server: Server) -> None:
    def under_way(run: Run) -> bool:
        return any(node == UPSCALE and done > 2 for node, done, _ in run.progress)

    long = quick(seed=40, num_inference_steps=200, creativity=1.0, scale=4.0, tile_batch=1)
    run = server.client.run(long, interrupt_when=under_way)
    assert run.outcome == "execution_interrupted"
    # The whole run takes minutes; the limit leaves room for a busy machine.
    assert run.seconds_after_interrupt < 3.0
    assert server.client.run(quick(seed=41)).outcome == "execution_success"


def test_a_damaged_file_is_named_and_the_next_run_works(server: Server) -> None:
    intact = server.models("checkpoints") / "v1-5-pruned-emaonly.safetensors"
    damaged = intact.with_name("damaged.safetensors")
    shutil.copy(intact, damaged)
    with damaged.open("r+b") as file:
        file.truncate(intact.stat().st_size // 2)
    run = server.client.run(changed(quick(seed=50), MODELS, checkpoint=damaged.name))
    assert run.outcome == "execution_error"
    assert run.error["node_id"] == MODELS
    assert "damaged.safetensors" in run.error["exception_message"]
    assert server.client.run(quick(seed=50)).outcome == "execution_success"


def test_settings_that_do_not_fit_together_are_an_error_on_the_node(server: Server) -> None:
    run = server.client.run(quick(seed=51, tile_size=128, tile_overlap=128))
    assert (run.outcome, run.error["node_id"]) == ("execution_error", UPSCALE)
    assert run.error["exception_message"].startswith("tile_size: 128 px is less than twice tile_overlap")


def test_a_missing_controlnet_is_an_error_that_says_what_to_do(server: Server) -> None:
    run = server.client.run(changed(quick(seed=52), MODELS, controlnet="none"))
    assert (run.outcome, run.error["node_id"]) == ("execution_error", UPSCALE)
    assert "shape_preservation" in run.error["exception_message"]


@pytest.mark.parametrize(
    ("name", "value"), [("creativity", 1.5), ("scale", 0.5), ("sampler", "magic"), ("preset", "nobody's")]
)
def test_a_value_that_is_not_allowed_is_refused(server: Server, name: str, value: object) -> None:
    try:
        run = server.client.run(quick(seed=53, **{name: value}))
    except Rejected as refusal:
        assert name in str(refusal.errors[UPSCALE])
    else:  # 0.3.64 checks no lists of choices
        assert run.outcome == "execution_error"
        assert name in run.error["exception_message"]


def test_after_all_models_were_unloaded_a_run_gives_the_same_picture(server: Server) -> None:
    before = server.client.run(quick(seed=60))
    server.client.post("/free", {"unload_models": True, "free_memory": True})
    after = server.client.run(quick(seed=60))
    if after.executed == []:  # the flags are taken up between two runs, so at the latest now
        after = server.client.run(quick(seed=60))
    assert MODELS in after.executed
    difference = pixels(server.client.picture(before, SAVE)) - pixels(server.client.picture(after, SAVE))
    assert np.abs(difference).max() <= 1


def test_nothing_is_logged_as_an_error_but_the_errors_above(server: Server) -> None:
    server.client.run(with_node(quick(seed=61), "unused", "LoadImage", image="example.png"))
    log = server.log.read_text()
    assert "Potential memory leak" not in log
