"""The panel on the upscale node in ComfyUI's own page, with both ways in which it draws nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import Page, browsing, find_browser
from comfy_server import Server
from test_examples_in_browser import READY, SETTINGS
from workflows import EXAMPLES, UPSCALE, read_example

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures of what was tested, to be looked at."""

EXAMPLE = "creative_upscale"
NODE = f"window.app.graph.getNodeById({UPSCALE})"
LOAD = f"""(async (graph) => {{ await window.app.loadGraphData(graph)
  const {{ ds }} = window.app.canvas, node = {NODE}
  ds.scale = 1
  ds.offset = [400 - node.pos[0], 700 - node.pos[1] - node.size[1]]
  window.app.canvas.setDirty(true, true); return true }})(%s)"""
SET = f"""(() => {{ for (const [name, value] of Object.entries(%s)) {{
  const widget = {NODE}.widgets.find((each) => each.name === name)
  widget.value = value; widget.callback?.(value) }} return true }})()"""
SERIALIZED = "window.app.graph.serialize()"
SENT = "(async () => (await window.app.graphToPrompt()).output)()"
RUN = """(() => { window.done = null
  for (const name of ['execution_success', 'execution_error'])
    window.app.api.addEventListener(name, () => { window.done = name }, { once: true })
  window.app.queuePrompt(0, 1); return true })()"""
HEADLINE = "document.querySelector('.cu-headline')?.textContent"
REMARKS = "document.querySelector('.cu-remarks')?.textContent"
SLIDER = "document.querySelector('.cu-panel [role=slider]')"
POSITION = f"Number({SLIDER}?.getAttribute('aria-valuenow'))"
BOX = "(({ x, y, width, height }) => [x, y, width, height])(%s.getBoundingClientRect())"
STAGE = "document.querySelector('.cu-stage')"
PICTURES = "[...document.querySelectorAll('.cu-layer img')]"
PLACES = f"{PICTURES}.map((each) => each.style.transform + each.style.width)"
ZOOM = "document.querySelector('.cu-zoom').textContent"
CLICK = """(() => { const button = [...document.querySelectorAll('.cu-panel button')]
  .find((each) => each.textContent.startsWith(%s)); button.click(); return true })()"""
DIALOG = "document.querySelector('dialog.cu-dialog[open] [role=slider]')"
SETTLED = "new Promise((done) => setTimeout(done, 400)).then(() => true)"


@contextmanager
def opened(server: Server, folder: Path, drawing: str) -> Iterator[Page]:
    """ComfyUI's page with the example on it; at the end, that nothing went wrong is checked."""
    server.client.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": drawing == "nodes2"})
    with browsing("about:blank", folder / "profile") as page:
        page.watch()
        size = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.call("Page.navigate", url=f"http://{server.client.address}/")
        page.wait_for(READY)
        page.evaluate(LOAD % json.dumps(example()))
        yield page
        assert page.errors() == []
        assert {urlsplit(url).netloc for url in page.requests()} == {server.client.address}
        page.evaluate("window.app.graph.clear()")  # nothing unsaved that would ask to stay


def example() -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{EXAMPLE}.json").read_text(encoding="utf-8"))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
@pytest.mark.parametrize("drawing", ["litegraph", "nodes2"])
def test_the_plan_is_live_and_the_run_can_be_compared(server: Server, tmp_path: Path, drawing: str) -> None:
    if "LoadImageDataSetFromFolder" not in server.client.get("/object_info"):
        pytest.skip("the page is that of newer versions, and is tried there")
    with opened(server, tmp_path, drawing) as page:
        assert page.evaluate(SENT) == read_example(EXAMPLE)
        the_plan_follows_the_widgets(page, drawing)
        # A seed that the server has not seen: what comes from its cache shows nothing anew.
        quick = {"scale": 2, "creativity": 0.3, "num_inference_steps": 4, "seed": 90 + len(drawing)}
        page.evaluate(SET % json.dumps(quick))
        page.wait_for(f"{HEADLINE} === '154 \u00d7 134 px'")
        saved, sent = saved_nodes(page), page.evaluate(SENT)
        run(page)
        page.wait_for(f"!{SLIDER}.hidden && {PICTURES}.every((each) => each.complete)")
        assert page.evaluate(f"{PICTURES}.map((each) => each.naturalWidth)") == [77, 154]
        the_divider_moves(page)
        take(page, f"{drawing}_compared")
        the_pictures_are_zoomed_in_step(page, drawing)
        it_opens_in_the_whole_window(page, drawing)
        run(page)  # the same again, which ComfyUI serves from its cache
        assert page.evaluate(f"!{SLIDER}.hidden")
        now = saved_nodes(page)
        # The text that the run has shown is a widget of ComfyUI's, which saves it.
        assert now[UPSCALE]["widgets_values"].pop().startswith("note:")
        assert now == saved
        assert page.evaluate(SENT) == sent
        file = next(node for node in example()["nodes"] if str(node["id"]) == UPSCALE)
        assert len(saved[UPSCALE]["widgets_values"]) == len(file["widgets_values"])
        assert {name: node["inputs"].keys() for name, node in sent.items()} == {
            name: node["inputs"].keys() for name, node in read_example(EXAMPLE).items()
        }


def the_plan_follows_the_widgets(page: Page, drawing: str) -> None:
    page.wait_for(f"{HEADLINE} === '154 \u00d7 134 px'")
    page.evaluate(SET % json.dumps({"scale": 3, "creativity": 0.7}))
    page.wait_for(f"{HEADLINE} === '231 \u00d7 201 px'")
    assert "creativity 0.7" in page.evaluate(REMARKS)
    take(page, f"{drawing}_plan")
    page.evaluate(SET % json.dumps({"width": 9000}))
    page.wait_for(f"{HEADLINE} === 'Cannot run like this'")
    assert "override_size_limits" in page.evaluate(REMARKS)
    page.evaluate(SET % json.dumps({"width": 0}))
    # The picture is no longer known; what is behind the other link does not matter to the size.
    page.evaluate(f"{NODE}.disconnectInput({NODE}.inputs.findIndex((each) => each.name === 'image'))")
    page.wait_for(f"{HEADLINE}.startsWith('Connect')")
    page.evaluate(f"window.app.graph.getNodeById(1).connect(0, {NODE}, 'image')")
    page.wait_for(f"{HEADLINE} === '231 \u00d7 201 px'")


def the_divider_moves(page: Page) -> None:
    place = page.evaluate(f"JSON.stringify([...{NODE}.pos])")
    left, top, width, height = page.evaluate(BOX % SLIDER)
    start, y = left + width / 2, top + height / 2
    assert page.evaluate(POSITION) == 50
    page.mouse((start, y), (start + 20, y), (start + 40, y + 5))
    moved = page.evaluate(POSITION)
    assert moved > 55
    assert page.evaluate(f"JSON.stringify([...{NODE}.pos])") == place  # the node was not dragged along
    assert page.evaluate(f"document.activeElement === {SLIDER}")
    for key, position in (("ArrowLeft", moved - 1), ("PageUp", moved + 9), ("Home", 0), ("End", 100)):
        page.press(key)
        assert page.evaluate(POSITION) == position
    page.press("ArrowLeft", shift=True)
    assert page.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')") == "90 % before"
    left, top, width, height = page.evaluate(BOX % STAGE)
    page.mouse((left + width / 2, top + height / 2))  # a click anywhere brings it there
    assert abs(page.evaluate(POSITION) - 50) <= 1


def the_pictures_are_zoomed_in_step(page: Page, drawing: str) -> None:
    fitted = page.evaluate(PLACES)
    page.press("1")
    assert page.evaluate(ZOOM) == "100 %"
    for _ in range(4):
        page.press("+")
    assert page.evaluate(ZOOM) == "506 %"
    before = page.evaluate(PLACES)
    left, top, width, height = page.evaluate(BOX % STAGE)
    x, y = left + width / 4, top + height / 2
    page.mouse((x, y), (x - 20, y), (x - 40, y - 10))
    after = page.evaluate(PLACES)
    assert before[0] == before[1] != after[0] == after[1]
    take(page, f"{drawing}_zoomed")
    page.press("ArrowRight")  # the pictures have the focus now
    panned = page.evaluate(PLACES)
    assert after != panned and panned[0] == panned[1]
    page.press("0")
    assert page.evaluate(PLACES) == fitted
    page.wheel((x, y), -100)
    page.wait_for(f"{PLACES}[0] !== {json.dumps(fitted[0])}")
    assert page.evaluate("window.app.canvas.ds.scale") == 1  # of the pictures alone
    page.press("0")


def it_opens_in_the_whole_window(page: Page, drawing: str) -> None:
    page.evaluate(CLICK % json.dumps("Enlarge"))
    page.wait_for(f"{DIALOG} === document.activeElement")
    assert page.evaluate(BOX % STAGE)[3] > 800
    take(page, f"{drawing}_enlarged")
    page.press("Escape")
    page.wait_for(f"!{DIALOG} && {STAGE}.clientHeight > 100 && {STAGE}.clientHeight < 800")


def run(page: Page) -> None:
    page.evaluate(RUN)
    assert page.wait_for("window.done", 120) == "execution_success"


def saved_nodes(page: Page) -> dict[str, dict[str, Any]]:
    """What would be saved, but for sizes: ComfyUI makes room for a text and a preview of its own."""
    nodes = page.evaluate(SERIALIZED)["nodes"]
    return {str(node["id"]): {k: v for k, v in node.items() if k != "size"} for node in nodes}


def take(page: Page, name: str) -> None:
    if SHOTS:
        page.evaluate(SETTLED)
        page.screenshot(Path(SHOTS) / f"compare_{name}.png")
