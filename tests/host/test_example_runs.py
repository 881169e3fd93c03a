"""Each example workflow, run in ComfyUI with tiny models in place of the published ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_client import Run
from comfy_server import Server
from host_checkpoint import write_host_models
from PIL import Image
from test_remote_nodes import change_key, private
from workflows import Workflow, changed, read_example

import tiny_captioners
from fal_server import KEY, FalServer
from remote_calls import ENDPOINT, write_settings

SIZE = (77, 67)
"""Of the input photograph."""


@pytest.fixture
def captioner(server: Server) -> Iterator[None]:
    """One that `auto` finds; other tests must not."""
    folder = tiny_captioners.write_florence2(server.models("captioners") / "Florence-2-large")
    yield
    shutil.rmtree(folder)


@pytest.fixture
def service(server: Server, fal: FalServer) -> FalServer:
    """The local server, which the settings of this ComfyUI list as `local`."""
    write_settings(private(server), fal)
    assert change_key(server, {"name": "default", "key": KEY})[0] == 200
    return fal


def quickly(name: str) -> Workflow:
    """The example with few steps and small tiles."""
    workflow = read_example(name)
    for number, node in workflow.items():
        if node["class_type"] in ("CreativeUpscaler_Upscale", "CreativeUpscaler_UpscaleHostModel"):
            workflow = changed(workflow, number, num_inference_steps=4)
        if node["class_type"] == "CreativeUpscaler_CCSRUpscale":
            workflow = changed(workflow, number, tile_size=64, tile_stride=64, preset="v1 fast")
    return workflow


def with_local_server(workflow: Workflow) -> Workflow:
    """The paid nodes' endpoint, which the example leaves at fal's, on the server of the test."""
    for number, node in workflow.items():
        if "endpoint" in node["inputs"]:
            assert node["inputs"]["endpoint"] == "fal-ai/creative-upscaler"
            workflow = changed(workflow, number, endpoint=ENDPOINT)
    return workflow


def results(server: Server, run: Run, node: str) -> list[Image.Image]:
    """What it saved. Fails unless these are pictures with something to see."""
    assert run.outcome == "execution_success", run.error
    pictures = [server.client.picture(run, node, i) for i in range(len(run.outputs[node]["images"]))]
    assert all(np.asarray(picture.convert("L")).std() > 5 for picture in pictures)
    return pictures


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("creative_upscale", 2),
        ("creative_upscale_sdxl", 2),
        ("creative_upscale_starter", 2),
        ("ccsr_then_creative_upscale", 4),
    ],
)
def test_a_local_example_enlarges_its_picture(server: Server, name: str, times: int) -> None:
    run = server.client.run(quickly(name))
    assert [picture.size for picture in results(server, run, "4")] == [(times * SIZE[0], times * SIZE[1])]


def test_models_of_comfyuis_own_loaders_redraw_too(server: Server) -> None:
    checkpoint = server.models("checkpoints") / "host_sd15.safetensors"
    controlnet = server.models("controlnet") / "host_sd15_tile.safetensors"
    write_host_models(checkpoint, controlnet)
    try:
        workflow = changed(quickly("creative_upscale_comfyui_model"), "2", ckpt_name=checkpoint.name)
        run = server.client.run(changed(workflow, "7", control_net_name=controlnet.name))
        assert [picture.size for picture in results(server, run, "4")] == [(2 * SIZE[0], 2 * SIZE[1])]
    finally:
        for file in (checkpoint, controlnet):
            file.unlink()


def test_the_captioner_writes_the_prompt_and_ccsr_restores_first(server: Server, captioner: None) -> None:
    run = server.client.run(quickly("creative_upscale_ccsr_caption"))
    assert [picture.size for picture in results(server, run, "4")] == [(2 * SIZE[0], 2 * SIZE[1])]
    (text,) = run.outputs["3"]["text"]
    assert "Prompt: " in text and "real-world_ccsr" in text
    assert {"restore", "redraw"} <= set(run.texts)


def test_a_folder_is_made_picture_by_picture_each_in_its_size(server: Server) -> None:
    if "LoadImageDataSetFromFolder" not in server.client.get("/object_info"):
        pytest.skip("this ComfyUI has no node that loads a folder; the example says so")
    folder = server.folder / "input" / "photos"
    folder.mkdir(exist_ok=True)
    picture = Image.open(server.folder / "input" / "example.png")
    picture.crop((0, 0, 40, 30)).save(folder / "one.png")
    picture.crop((10, 10, 60, 67)).save(folder / "two.jpg")
    run = server.client.run(quickly("creative_upscale_folder"))
    assert {made.size for made in results(server, run, "4")} == {(80, 60), (100, 114)}


def test_the_remote_example_comes_back_from_the_service(server: Server, service: FalServer) -> None:
    run = server.client.run(with_local_server(read_example("creative_upscale_fal")))
    assert [picture.size for picture in results(server, run, "3")] == [(2 * SIZE[0], 2 * SIZE[1])]
    assert sent(service)["seed"] == 1


def test_local_and_remote_get_the_same_prompt_and_seed_and_lie_side_by_side(
    server: Server, service: FalServer
) -> None:
    workflow = with_local_server(quickly("creative_upscale_local_and_fal"))
    workflow = changed(changed(workflow, "7", value="a face"), "8", value=77)
    run = server.client.run(workflow)
    gap = workflow["6"]["inputs"]["spacing_width"]
    assert [picture.size for picture in results(server, run, "4")] == [(4 * SIZE[0] + gap, 2 * SIZE[1])]
    assert (sent(service)["prompt"], sent(service)["seed"]) == ("a face", 77)


def sent(service: FalServer) -> dict[str, Any]:
    """The settings of the one request that arrived."""
    (job,) = service.jobs.values()
    return job.arguments


def test_every_example_is_run_above() -> None:
    names = {path.stem for path in (Path(__file__).parents[2] / "example_workflows").glob("*.json")}
    assert [name for name in names if f'"{name}"' not in Path(__file__).read_text()] == []
