"""The starter models in a running ComfyUI, and what the node says about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from comfy_server import ROOT, Server
from example_layouts import BUILT_IN
from workflows import MODELS, PICTURE, SAVE, UPSCALE, changed, quick, with_node


def starter_workflow(**settings: object) -> dict:
    return changed(quick(**settings), MODELS, checkpoint=BUILT_IN, controlnet="none")


def test_the_starter_is_a_checkpoint_to_choose_and_redraws(server: Server) -> None:
    loader = server.client.get("/object_info")["CreativeUpscaler_LoadModels"]["input"]
    kind, options = loader["required"]["checkpoint"]
    listed = kind if isinstance(kind, list) else options["options"]
    assert listed[0] == BUILT_IN and "v1-5-pruned-emaonly.safetensors" in listed
    run = server.client.run(starter_workflow(seed=70, num_inference_steps=10))
    assert run.outcome == "execution_success", run.error
    picture = server.client.picture(run, SAVE)
    assert picture.size == (154, 134)
    assert np.asarray(picture).std() > 5
    assert run.previews and np.asarray(run.previews[-1]).std() > 0
    (text,) = run.outputs[UPSCALE]["text"]
    assert "Made with starter-sr (project-trained), starter-diffusion (project-trained)." in text
    assert "creativity 0.3" in text
    assert text in run.texts


def test_a_creativity_that_was_chosen_is_kept_with_a_warning(server: Server) -> None:
    run = server.client.run(changed(starter_workflow(seed=71, creativity=0.6), MODELS, pre_upscaler="none"))
    (text,) = run.outputs[UPSCALE]["text"]
    assert "warning: " in text and "0.6" in text
    assert "starter-sr" not in text and "starter-diffusion (project-trained)" in text


def test_the_small_network_goes_before_other_models_too_unless_it_is_turned_off(server: Server) -> None:
    run = server.client.run(quick(seed=72))
    (text,) = run.outputs[UPSCALE]["text"]
    assert "Made with starter-sr (project-trained), v1-5-pruned-emaonly.safetensors" in text
    plain = server.client.run(changed(quick(seed=72), MODELS, pre_upscaler="none"))
    assert "starter" not in plain.outputs[UPSCALE]["text"][0]
    pictures = [np.asarray(server.client.picture(r, SAVE)).astype(int) for r in (run, plain)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.1
    resized = server.client.run(quick(seed=72, creativity=0.0))
    assert resized.outputs[UPSCALE]["text"] == [""]


def test_comfyui_itself_loads_the_small_network(server: Server, starter_folder: Path) -> None:
    name = Path("sr") / "starter-sr-2x.safetensors"
    shipped = ROOT / "starter" / name
    shutil.copy(shipped if shipped.is_file() else starter_folder / name, server.models("upscale_models"))
    workflow = with_node(quick(seed=73), "network", "UpscaleModelLoader", model_name=name.name)
    workflow = with_node(
        workflow, "larger", "ImageUpscaleWithModel", upscale_model=["network", 0], image=[PICTURE, 0]
    )
    workflow = changed(workflow, UPSCALE, upscale_model=["network", 0])
    workflow = with_node(workflow, "saved", "SaveImage", images=["larger", 0], filename_prefix="larger")
    run = server.client.run(workflow)
    assert run.outcome == "execution_success", run.error
    assert server.client.picture(run, "saved").size == (154, 134)
    assert "starter-sr" not in run.outputs[UPSCALE]["text"][0]  # it is the user's own here
