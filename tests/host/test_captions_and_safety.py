"""Captions that become prompts, and safety checks, in a running ComfyUI with tiny models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfy_server import Server
from workflows import PICTURE, SAVE, UPSCALE, Workflow, changed, quick, with_node

import tiny_captioners
import tiny_safety_checkers as tiny

SUFFIX = quick()[UPSCALE]["inputs"]["prompt_suffix"]


@pytest.fixture(scope="module")
def captioners(server: Server) -> Iterator[Path]:
    folder = server.models("captioners")
    tiny_captioners.write_florence2(folder / "florence")
    tiny_captioners.write_blip(folder / "blip")
    yield folder
    # What is there by itself is used by itself, in other tests too.
    for name in ("florence", "blip"):
        shutil.rmtree(folder / name)


@pytest.fixture(scope="module")
def checkers(server: Server) -> Iterator[Path]:
    folder = server.models("safety_checkers")
    for name, threshold in (("always", tiny.ALWAYS), ("never", tiny.NEVER)):
        tiny.write_folder(folder / name, threshold, pickle=name == "never")
    yield folder
    for name in ("always", "never"):
        shutil.rmtree(folder / name)


def captioned(captioner: str = "auto", **settings: object) -> Workflow:
    """The example with the caption of its picture as its prompt."""
    workflow = with_node(quick(seed=200), "load", "CreativeUpscaler_LoadCaptioner", captioner=captioner)
    inputs = {"length": "detailed", "template": "{caption}", "max_tokens": 12, **settings}
    workflow = with_node(
        workflow,
        "caption",
        "CreativeUpscaler_AutoCaption",
        image=[PICTURE, 0],
        captioner=["load", 0],
        **inputs,
    )
    workflow = with_node(workflow, "used", "PreviewAny", source=[UPSCALE, 2])
    return changed(workflow, UPSCALE, prompt=["caption", 0])


def checked(checker: str, image: list[object]) -> Workflow:
    workflow = with_node(
        quick(seed=201), "load", "CreativeUpscaler_LoadSafetyChecker", safety_checker=checker
    )
    workflow = with_node(
        workflow, "check", "CreativeUpscaler_SafetyCheck", image=image, safety_checker=["load", 0]
    )
    workflow = with_node(workflow, "flagged", "PreviewAny", source=["check", 1])
    return changed(workflow, SAVE, images=["check", 0])


def test_the_caption_of_a_picture_is_the_prompt_it_is_redrawn_with(server: Server, captioners: Path) -> None:
    run = server.client.run(captioned(template="(photo:1.1) of {caption}"))
    assert run.outcome == "execution_success", run.error
    (text,) = run.outputs["caption"]["text"]
    assert text.startswith("(photo:1.1) of ") and len(text) > len("(photo:1.1) of ")
    assert text in run.texts  # shown on the node
    assert run.outputs["used"]["text"] == [text + SUFFIX]
    assert server.client.picture(run, SAVE).size == (154, 134)
    other = server.client.run(captioned("captioners/blip"))
    assert other.outputs["used"]["text"] not in ([text + SUFFIX], [SUFFIX])
    again = server.client.run(captioned("captioners/blip"))
    assert "load" in again.cached and again.executed == []


def test_each_picture_of_a_batch_has_a_caption_and_auto_is_the_best(server: Server, captioners: Path) -> None:
    workflow = with_node(captioned("captioners/florence"), "flip", "ImageInvert", image=[PICTURE, 0])
    workflow = with_node(workflow, "batch", "ImageBatch", image1=[PICTURE, 0], image2=["flip", 0])
    for name in (UPSCALE, SAVE, "used"):
        del workflow[name]
    texts = [
        server.client.run(changed(each, "caption", image=["batch", 0])).outputs["caption"]["text"][0]
        for each in (workflow, changed(workflow, "load", captioner="auto"))
    ]
    assert texts[0] == texts[1]
    first, second = texts[0].split("\n")
    assert first and second and first != second


def test_a_flagged_picture_is_black_and_told(server: Server, checkers: Path) -> None:
    harmless = server.client.run(checked("safety_checkers/never", [UPSCALE, 0]))
    hit = server.client.run(checked("safety_checkers/always", [UPSCALE, 0]))
    assert (harmless.outcome, hit.outcome) == ("execution_success", "execution_success"), hit.error
    assert "True" in hit.outputs["flagged"]["text"][0] and "False" in harmless.outputs["flagged"]["text"][0]
    pictures = [np.asarray(server.client.picture(run, SAVE)) for run in (harmless, hit)]
    assert pictures[0].std() > 5 and not pictures[1].any()
    assert pictures[0].shape == pictures[1].shape
    assert "flagged and black: picture 1 of 1" in server.log.read_text()
    assert "flagged and black: picture 1 of 1" in hit.texts


def test_creative_upscale_captions_and_checks_by_itself(
    server: Server, captioners: Path, checkers: Path
) -> None:
    workflow = quick(seed=203, prompt="", enable_safety_checks=True)
    workflow = with_node(
        workflow, "load", "CreativeUpscaler_LoadSafetyChecker", safety_checker="safety_checkers/always"
    )
    run = server.client.run(changed(workflow, UPSCALE, safety_checker=["load", 0]))
    assert run.outcome == "execution_success", run.error
    (text,) = run.outputs[UPSCALE]["text"]
    assert "made picture 1 black" in text and "florence" in text and "\nPrompt: " in text
    assert not np.asarray(server.client.picture(run, SAVE)).any()


def test_what_is_not_there_is_an_error_that_says_what_to_do(
    server: Server, captioners: Path, checkers: Path
) -> None:
    away = [(folder, folder.with_name(folder.name + "_away")) for folder in (captioners, checkers)]
    for here, there in away:
        shutil.move(here, there)
    try:
        for workflow, cure in (
            (captioned(), "Florence-2-large"),
            (checked("auto", [PICTURE, 0]), "safety-checker"),
        ):
            run = server.client.run(workflow)
            assert (run.outcome, run.error["node_id"]) == ("execution_error", "load")
            assert cure in run.error["exception_message"]
    finally:
        for here, there in away:
            shutil.move(there, here)
