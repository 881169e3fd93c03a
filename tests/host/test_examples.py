"""The example workflows, as saved by the browser and as sent to the server."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from comfy_server import PACK, Server
from example_layouts import EXAMPLES as LAYOUTS
from PIL import Image
from workflows import EXAMPLES, NOTE, api_form

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
TITLE = 30
"""Height of a node's title, which lies above its position."""
THUMBNAIL_BYTES = 60_000

Rectangle = tuple[float, float, float, float]


def test_each_example_has_an_api_form_and_a_thumbnail() -> None:
    assert sorted(path.stem for path in (EXAMPLES / "api").glob("*.json")) == NAMES
    assert sorted(path.stem for path in EXAMPLES.glob("*.jpg")) == NAMES == sorted(LAYOUTS)


def test_the_template_browser_lists_the_graphs_and_not_their_api_forms(server: Server) -> None:
    assert sorted(server.client.get("/workflow_templates")[PACK]) == NAMES
    for name in NAMES:
        served = server.client.get(f"/api/workflow_templates/{PACK}/{name}.json")
        assert served == json.loads((EXAMPLES / f"{name}.json").read_text())
        thumbnail = server.client.fetch(f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert Image.open(io.BytesIO(thumbnail)).format == "JPEG" and len(thumbnail) < THUMBNAIL_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_api_form_are_the_same_workflow(server: Server, name: str) -> None:
    missing = {"LoadImageDataSetFromFolder"} - set(server.client.get("/object_info"))
    graph = json.loads((EXAMPLES / f"{name}.json").read_text())
    if missing & {node["type"] for node in graph["nodes"]}:
        pytest.skip("this ComfyUI has no node that loads a folder; the example says so")
    sent = json.loads((EXAMPLES / "api" / f"{name}.json").read_text())
    for node in sent.values():
        del node["_meta"]
    assert api_form(graph, server.client.get("/object_info")) == sent


@pytest.mark.parametrize("name", NAMES)
def test_links_are_recorded_at_both_ends(name: str) -> None:
    graph = json.loads((EXAMPLES / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, source, out, target, into, kind in graph["links"]:
        assert number in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][into]["link"] == number
        assert nodes[source]["outputs"][out]["type"] == nodes[target]["inputs"][into]["type"] == kind


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap_and_lie_in_their_groups_with_a_note(name: str) -> None:
    graph = json.loads((EXAMPLES / f"{name}.json").read_text())
    boxes = [rectangle([x, y - TITLE], [w, h + TITLE]) for x, y, w, h in map(placed, graph["nodes"])]
    groups = [rectangle(group["bounding"][:2], group["bounding"][2:]) for group in graph["groups"]]
    for first, second in (*itertools.combinations(boxes, 2), *itertools.combinations(groups, 2)):
        assert apart(first, second)
    assert all(any(within(box, group) for group in groups) for box in boxes)
    assert NOTE in {node["type"] for node in graph["nodes"]}


def placed(node: dict) -> Rectangle:
    return (*node["pos"], *node["size"])


def rectangle(position: list[float], size: list[float]) -> Rectangle:
    """Left, top, right and bottom."""
    return (*position, position[0] + size[0], position[1] + size[1])


def apart(a: Rectangle, b: Rectangle) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def within(a: Rectangle, b: Rectangle) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.json")), ids=lambda path: path.name)
def test_no_example_names_a_folder_of_this_machine(path: Path) -> None:
    assert "/root" not in path.read_text() and "/home" not in path.read_text()
