"""The example workflows, as saved by the browser and as sent to the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfy_server import PACK, Server
from workflows import EXAMPLES, api_form

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))


def test_there_are_examples() -> None:
    assert "creative_upscale" in NAMES
    assert sorted(path.stem for path in (EXAMPLES / "api").glob("*.json")) == NAMES


def test_the_template_browser_lists_the_graphs_and_not_their_api_forms(server: Server) -> None:
    assert sorted(server.client.get("/workflow_templates")[PACK]) == NAMES
    for name in NAMES:
        served = server.client.get(f"/api/workflow_templates/{PACK}/{name}.json")
        assert served == json.loads((EXAMPLES / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_api_form_are_the_same_workflow(server: Server, name: str) -> None:
    graph = json.loads((EXAMPLES / f"{name}.json").read_text())
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


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.json")), ids=lambda path: path.name)
def test_no_example_names_a_folder_of_this_machine(path: Path) -> None:
    assert "/root" not in path.read_text() and "/home" not in path.read_text()
