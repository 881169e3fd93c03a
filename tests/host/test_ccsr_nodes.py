"""CCSR in a running ComfyUI, alone and before the creative upscale."""

from __future__ import annotations

import json

from comfy_server import Server
from workflows import EXAMPLES, UPSCALE, Workflow, changed, with_node

LOAD, CCSR, SAVE = "5", "6", "4"
"""Nodes of the example."""

SIZE = (77, 67)
"""Of the input photograph."""


def example(**settings: object) -> Workflow:
    """The example in small tiles and few steps, with these settings of CCSR."""
    workflow = json.loads((EXAMPLES / "api" / "ccsr_then_creative_upscale.json").read_text())
    workflow = changed(workflow, UPSCALE, num_inference_steps=2)
    return changed(workflow, CCSR, **{"tile_size": 64, "tile_stride": 64, "preset": "v1 fast", **settings})


def test_a_photograph_goes_through_ccsr_and_the_creative_upscale(server: Server) -> None:
    workflow = with_node(example(), "seen", "PreviewImage", images=[CCSR, 0])
    run = server.client.run(workflow)
    assert run.outcome == "execution_success", run.error
    assert server.client.picture(run, "seen").size == (2 * SIZE[0], 2 * SIZE[1])
    assert server.client.picture(run, SAVE).size == (4 * SIZE[0], 4 * SIZE[1])
    assert {"encode hints", "restore", "decode", "redraw"} <= set(run.texts)
    assert any(node == CCSR for node, _, _ in run.progress)
    assert run.previews


def test_wrong_files_and_settings_are_errors_on_their_node(server: Server) -> None:
    run = server.client.run(example(preset="v2 one-step"))
    assert (run.outcome, run.error["node_id"]) == ("execution_error", CCSR)
    assert "preset: v2 one-step is for CCSR v2" in run.error["exception_message"]
    wrong = changed(example(), LOAD, v1_checkpoint="v1-5-pruned-emaonly.safetensors")
    run = server.client.run(wrong)
    assert (run.outcome, run.error["node_id"]) == ("execution_error", LOAD)
    assert "not a CCSR v1 checkpoint" in run.error["exception_message"]
