"""The nodes for ComfyUI's own models in a running ComfyUI, with tiny models of three families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from comfy_client import Run
from comfy_server import Server
from workflows import Workflow

MODELS, PICTURE, UPSCALE, SAVE = "models", "picture", "upscale", "save"
SIZE = (116, 101)
"""Of the result: the input photograph one and a half times larger."""

SETTINGS: dict[str, Any] = {
    "scale": 1.5,
    "creativity": 0.5,
    "detail": 1.0,
    "shape_preservation": 0.0,
    "seed": 1,
    "guidance_scale": 2.0,
    "width": 0,
    "height": 0,
    "color_fix": "wavelet",
    "shape_end": 1.0,
    "tile_size": 64,
    "tile_overlap": 32,
    "tile_batch": 0,
    "override_size_limits": False,
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def upscaling(family: str, *, control: bool = False, advanced: bool = False, **changes: Any) -> Workflow:
    """A workflow with one of the two nodes that upscale."""
    sockets = {
        "image": [PICTURE, 0],
        **{name: [MODELS, slot] for slot, name in enumerate(("model", "positive", "negative", "vae"))},
        **({"control_net": [MODELS, 4]} if control else {}),
    }
    workflow = {
        MODELS: node("TinyModels", family=family),
        PICTURE: node("LoadImage", image="example.png"),
        SAVE: node("SaveImage", images=[UPSCALE, 0], filename_prefix="host"),
    }
    if advanced:
        scheduler = {"model": [MODELS, 0], "scheduler": "simple", "steps": 6, "denoise": 1.0}
        workflow["sampler"] = node("KSamplerSelect", sampler_name="euler")
        workflow["sigmas"] = node("BasicScheduler", **scheduler)
        sockets |= {"sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
        kind = "CreativeUpscaler_UpscaleHostModelAdvanced"
    else:
        sockets |= {"sampler_name": "euler", "scheduler": "simple", "num_inference_steps": 4}
        kind = "CreativeUpscaler_UpscaleHostModel"
    workflow[UPSCALE] = node(kind, **{**SETTINGS, **sockets, **changes})
    return workflow


def sampled_in_tiles(family: str, *, tile_size: int) -> Workflow:
    """ComfyUI's KSampler after the node that tiles a model."""
    tiling = {"model": [MODELS, 0], "tile_size": tile_size, "tile_overlap": 32, "tile_batch": 0}
    sampling = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    sockets = {"positive": [MODELS, 1], "negative": [MODELS, 2], "latent_image": ["encode", 0]}
    return {
        MODELS: node("TinyModels", family=family),
        PICTURE: node("LoadImage", image="example.png"),
        "encode": node("VAEEncode", pixels=[PICTURE, 0], vae=[MODELS, 3]),
        "tiling": node("CreativeUpscaler_TiledDiffusion", **tiling, moving_borders=True),
        "tiled": node("KSampler", model=["tiling", 0], denoise=0.6, **sampling, **sockets),
        "untiled": node("KSampler", model=[MODELS, 0], denoise=0.6, **sampling, **sockets),
        "decode": node("VAEDecode", samples=["tiled", 0], vae=[MODELS, 3]),
        "decode untiled": node("VAEDecode", samples=["untiled", 0], vae=[MODELS, 3]),
        SAVE: node("SaveImage", images=["decode", 0], filename_prefix="host"),
        "save untiled": node("SaveImage", images=["decode untiled", 0], filename_prefix="host"),
    }


def pixels(server: Server, run: Run, save: str = SAVE) -> np.ndarray:
    assert run.outcome == "execution_success", run.error
    return np.asarray(server.client.picture(run, save)).astype(int)


@pytest.mark.parametrize(("family", "control"), [("sd15", True), ("flux", True), ("qwen", False)])
def test_a_photograph_is_upscaled_with_the_users_models(server: Server, family: str, control: bool) -> None:
    run = server.client.run(upscaling(family, control=control, shape_preservation=0.5))
    picture = pixels(server, run)
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    assert picture.std() > 5
    assert "redraw" in run.texts
    steps = [(done, total) for name, done, total in run.progress if name == UPSCALE]
    assert steps and all(0 <= done <= total for done, total in steps)
    assert run.previews


def test_a_sampler_and_a_schedule_can_be_wired(server: Server) -> None:
    run = server.client.run(upscaling("flux", advanced=True))
    assert pixels(server, run).shape == (SIZE[1], SIZE[0], 3)


def test_any_sampler_node_works_in_tiles(server: Server) -> None:
    small = server.client.run(sampled_in_tiles("sd15", tile_size=64))
    large = server.client.run(sampled_in_tiles("sd15", tile_size=1024))
    assert np.abs(pixels(server, small) - pixels(server, small, "save untiled")).mean() > 0.5
    assert np.array_equal(pixels(server, large), pixels(server, large, "save untiled"))


def test_an_interrupt_takes_effect_between_tiles(server: Server) -> None:
    def under_way(run: Run) -> bool:
        return any(name == UPSCALE and done > 2 for name, done, _ in run.progress)

    long = upscaling("sd15", seed=2, num_inference_steps=200, creativity=1.0, scale=4.0, tile_batch=1)
    run = server.client.run(long, interrupt_when=under_way)
    assert run.outcome == "execution_interrupted"
    # The whole run takes minutes; the limit leaves room for a busy machine.
    assert run.seconds_after_interrupt < 3.0


def test_models_of_no_use_are_an_error_on_the_node(server: Server) -> None:
    workflow = upscaling("sd15", seed=4)
    workflow["other"] = node("TinyModels", family="flux")
    workflow[UPSCALE]["inputs"]["vae"] = ["other", 3]
    run = server.client.run(workflow)
    assert (run.outcome, run.error["node_id"]) == ("execution_error", UPSCALE)


def test_nothing_leaks(server: Server) -> None:
    assert "Potential memory leak" not in server.log.read_text()
