"""The example workflows in ComfyUI's own page, with both ways in which it draws nodes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Page, browsing, find_browser
from comfy_server import PACK, Server
from workflows import EXAMPLES, NOTE, read_example

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures of what was tested, to be looked at."""

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.InstalledVersion": "1.35.9",
    "Comfy.Minimap.Visible": False,
}
READY = "!!window.app?.extensionManager?.command && !!window.app?.graph"
LOAD = """(async () => {
  const answer = await fetch('/api/workflow_templates/%s/%s.json')
  await window.app.loadGraphData(await answer.json())
  const graph = window.app.graph, boxes = graph.groups.map((group) => [...group.pos, ...group.size])
  const right = Math.max(...boxes.map(([x, , w]) => x + w))
  const bottom = Math.max(...boxes.map(([, y, , h]) => y + h))
  const { ds } = window.app.canvas
  ds.scale = Math.min((window.innerWidth - 140) / right, (window.innerHeight - 140) / bottom)
  ds.offset = [80 / ds.scale, 90 / ds.scale]
  window.app.canvas.setDirty(true, true)
  return graph.nodes.length })()"""
SENT = "(async () => (await window.app.graphToPrompt()).output)()"
SMALL = """(() => { for (const node of window.app.graph.nodes) for (const widget of node.widgets ?? [])
  if (widget.name === 'num_inference_steps') widget.value = 2
  window.done = null
  for (const name of ['execution_success', 'execution_error'])
    window.app.api.addEventListener(name, () => { window.done = name }, { once: true })
  return true })()"""
RUN = """(() => { const button = [...document.querySelectorAll('button')]
  .find((each) => /^Run/.test(each.textContent.trim())); button?.click(); return !!button })()"""
DRAWN = "document.querySelectorAll('[data-node-id]').length"
SELECT = """(() => { const node = window.app.graph.getNodeById(3)
  window.app.canvas.selectNodes([node]); return node.type })()"""
INFO = """(() => { const button = document.querySelector('[data-testid=info-button]')
  button?.click(); return !!button })()"""
HELP = "document.querySelector('.node-help-content')?.textContent ?? ''"
OVERLAPS = """(() => { const boxes = [...document.querySelectorAll('[data-node-id]')]
  .map((node) => [node.dataset.nodeId, node.getBoundingClientRect()])
  return boxes.flatMap(([a, p]) => boxes.filter(([b, q]) => a < b && p.left < q.right && q.left < p.right
    && p.top < q.bottom && q.top < p.bottom).map(([b]) => `${a} and ${b}`)) })()"""
SLEEP = "new Promise((done) => setTimeout(done, 400)).then(() => true)"


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
@pytest.mark.parametrize("drawing", ["litegraph", "nodes2"])
def test_examples_load_run_and_explain_themselves(server: Server, tmp_path: Path, drawing: str) -> None:
    if "LoadImageDataSetFromFolder" not in server.client.get("/object_info"):
        pytest.skip("the page is that of newer versions; its examples are tried there")
    server.client.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": drawing == "nodes2"})
    (server.folder / "input" / "photos").mkdir(exist_ok=True)
    address = f"http://{server.client.address}/"
    with browsing("about:blank", tmp_path / "profile") as page:
        page.watch()
        size = {"width": 1600, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.call("Page.navigate", url=address)
        page.wait_for(READY)
        for name in NAMES:
            assert page.evaluate(LOAD % (PACK, name)) == len(saved_nodes(name))
            sent = page.evaluate(SENT)
            assert sent == read_example(name), name
            if drawing == "nodes2":
                page.wait_for(f"{DRAWN} === {len(saved_nodes(name))}")
                page.evaluate(SLEEP)
                assert page.evaluate(OVERLAPS) == [], name
            take(page, f"{drawing}_{name}")
        run_it(page, drawing)
        read_help(page, drawing)
        assert page.errors() == []
        assert {urlsplit(url).netloc for url in page.requests()} == {server.client.address}
        page.evaluate("window.app.graph.clear()")  # nothing unsaved that would ask to stay


def saved_nodes(name: str) -> list[dict]:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))["nodes"]


def run_it(page: Page, drawing: str) -> None:
    """The first example, with its Run button."""
    page.evaluate(LOAD % (PACK, "creative_upscale"))
    page.evaluate(SMALL)
    assert page.evaluate(RUN)
    assert page.wait_for("window.done") == "execution_success"
    page.wait_for("!!window.app.nodeOutputs?.['4']?.images?.length")
    take(page, f"{drawing}_ran")


def read_help(page: Page, drawing: str) -> None:
    """The page of the upscale node, in the panel that its info button opens."""
    assert page.evaluate(SELECT) == "CreativeUpscaler_Upscale"
    page.wait_for(INFO)
    page.wait_for(f"{HELP}.includes('shape_preservation')")
    take(page, f"{drawing}_help")


def take(page: Page, name: str) -> None:
    if SHOTS:
        page.evaluate(SLEEP)
        page.screenshot(Path(SHOTS) / f"{name}.png")


def test_every_example_explains_itself_in_a_note() -> None:
    assert all(NOTE in {node["type"] for node in saved_nodes(name)} for name in NAMES)
