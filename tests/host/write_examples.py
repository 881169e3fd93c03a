"""Write the example workflows, their API forms and their thumbnails through the page of a real ComfyUI:

    python tests/host/write_examples.py [NAME...]

The page itself makes the nodes, so the files are what it would save. Needs a ComfyUI as the tests find it and
Chromium. The thumbnails show the graph, not a result.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from browser import Page, browsing
from comfy_server import ROOT, find_hosts, running
from example_layouts import EXAMPLES, GAP, GROUP_TITLE, NODE_TITLE, Column
from PIL import Image
from workflows import EXAMPLES as FOLDER

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
}
IN_README = "creative_upscale"
"""The example whose graph the README shows."""
THUMBNAIL = (640, 600)
BACKGROUND = (32, 32, 32)

BUILD = """(async ([columns, gap, groupTitle, nodeTitle]) => {
  const graph = window.app.graph
  window.app.clean()
  graph.clear()
  const nodes = {}
  let left = 0
  for (const { title, boxes } of columns) {
    let top = groupTitle + nodeTitle, width = 0
    for (const [number, box] of boxes) {
      const node = window.LiteGraph.createNode(box.kind)
      if (!node) throw new Error('no node ' + box.kind)
      node.id = Number(number)
      graph.add(node)
      if (box.title) node.title = box.title
      for (const [name, value] of Object.entries(box.values)) {
        const widget = node.widgets.find((widget) => widget.name === name)
          ?? (box.kind === 'MarkdownNote' && node.widgets[0])
        if (!widget) throw new Error(`no ${name} in ${box.kind}`)
        widget.value = value
        widget.callback?.(value)
      }
      const seed = node.widgets?.find((widget) => widget.name === 'control_after_generate')
      if (seed) seed.value = 'fixed'
      node.pos = [left + gap, top]
      node.setSize([box.width, Math.max(box.height, node.computeSize()[1])])
      // The other drawing of nodes is taller, and a picture may be.
      const room = box.kind === 'LoadImage' ? 130 : Math.max(30, Math.min(60, 0.16 * node.size[1]))
      top += node.size[1] + room + nodeTitle + gap
      width = Math.max(width, node.size[0])
      nodes[number] = node
    }
    const group = new window.LiteGraph.LGraphGroup(title)
    group.pos = [left, 0]
    group.size = [width + 2 * gap, top - nodeTitle - gap]
    graph.add(group)
    left += width + 4 * gap
  }
  for (const { boxes } of columns)
    for (const [number, box] of boxes)
      for (const [name, [source, output]] of Object.entries(box.links)) {
        const slot = nodes[number].inputs.findIndex((input) => input.name === name)
        if (slot < 0) throw new Error(`no input ${name} in ${box.kind}`)
        nodes[source].connect(output, nodes[number], slot)
      }
  return Object.keys(nodes).length
})(%s)"""
SAVED = (
    "(async () => { const made = await window.app.graphToPrompt(); return [made.workflow, made.output] })()"
)
FIT = """(() => { const canvas = window.app.canvas, graph = window.app.graph
  canvas.deselectAll?.()
  const boxes = graph.groups.map((group) => [...group.pos, ...group.size])
  const right = Math.max(...boxes.map(([x, , w]) => x + w))
  const bottom = Math.max(...boxes.map(([, y, , h]) => y + h))
  const [width, height] = [window.innerWidth - 140, window.innerHeight - 140]
  canvas.ds.scale = Math.min(width / right, height / bottom, 1)
  canvas.ds.offset = [70 / canvas.ds.scale, 90 / canvas.ds.scale]
  canvas.draw(true, true)
  return [70, 90, right * canvas.ds.scale, bottom * canvas.ds.scale] })()"""


def main(names: list[str]) -> None:
    host = find_hosts()[0]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (Path(folder) / "host").mkdir()
        with running(host, Path(folder) / "host", models) as server:
            (server.folder / "input" / "photos").mkdir()
            shutil.copy(ROOT / "assets" / "chelsea.png", server.folder / "input" / "example.png")
            server.client.post("/settings", SETTINGS)
            with browsing(f"http://{server.client.address}/", Path(folder) / "profile") as page:
                size = {"width": 1800, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
                page.call("Emulation.setDeviceMetricsOverride", **size)
                page.wait_for("!!window.app?.extensionManager?.command && !!window.app?.graph")
                for name in names or sorted(EXAMPLES):
                    write(page, name, EXAMPLES[name])


def write(page: Page, name: str, columns: list[Column]) -> None:
    """The three files of an example."""
    # As pairs, for a JavaScript object has its own order of numbers.
    layout = [{**asdict(column), "boxes": list(asdict(column)["boxes"].items())} for column in columns]
    page.evaluate(BUILD % json.dumps([layout, GAP, GROUP_TITLE, NODE_TITLE]))
    page.wait_for("window.app.graph.nodes.every((node) => !node.imgs || node.imgs[0].complete)")
    frame = page.evaluate(FIT)
    saved, sent = page.evaluate(SAVED)
    save_json(FOLDER / f"{name}.json", tidy(saved, name))
    save_json(FOLDER / "api" / f"{name}.json", sent)
    graph = cut_out(screenshot(page), frame)
    save_thumbnail(FOLDER / f"{name}.jpg", graph)
    if name == IN_README:
        graph.save(ROOT / "assets" / "graph.jpg", quality=82, optimize=True)


def tidy(graph: dict[str, Any], name: str) -> dict[str, Any]:
    """Without what only this session of the page knows."""
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"creative-upscaler/{name}"))
    graph["revision"] = 0
    graph["extra"] = {}
    for node in graph["nodes"]:
        node["pos"], node["size"] = ([round(value) for value in node[key]] for key in ("pos", "size"))
        node["properties"] = {
            k: v for k, v in node["properties"].items() if k not in ("cnr_id", "ver", "aux_id")
        }
    return graph


def save_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def screenshot(page: Page) -> Image.Image:
    """The page after it has drawn itself twice."""
    page.evaluate("new Promise((done) => setTimeout(done, 700)).then(() => true)")
    taken = page.call("Page.captureScreenshot", format="png")["data"]
    return Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB")


def cut_out(picture: Image.Image, frame: list[float]) -> Image.Image:
    """The graph alone."""
    left, top, width, height = (round(value) for value in frame)
    return picture.crop((left - 6, top - 6, left + width + 6, top + height + 6))


def save_thumbnail(path: Path, graph: Image.Image) -> None:
    """On a card of one shape for all."""
    graph = graph.copy()
    graph.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    card = Image.new("RGB", THUMBNAIL, BACKGROUND)
    card.paste(graph, tuple((a - b) // 2 for a, b in zip(THUMBNAIL, graph.size, strict=True)))
    card.save(path, quality=82, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
