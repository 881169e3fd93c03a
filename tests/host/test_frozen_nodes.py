"""Workflows that people have saved go on working."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from comfy_server import Server
from frozen_nodes import Node, broken, describe, read_record
from workflows import EXAMPLES, read_example

UPSCALE = "CreativeUpscaler_Upscale"


def test_nothing_that_workflows_hold_of_our_nodes_has_changed(server: Server) -> None:
    now = describe(server.client.get("/object_info"))
    assert broken(read_record(), now) == []
    assert {name: list(node["inputs"]) for name, node in now.items()} == {
        name: list(node["inputs"]) for name, node in read_record().items()
    }, "record the additions: python tests/host/frozen_nodes.py"


def test_the_examples_hold_no_input_that_is_not_recorded() -> None:
    record = read_record()
    for path in EXAMPLES.glob("*.json"):
        for node in read_example(path.stem).values():
            if node["class_type"] in record:
                assert set(node["inputs"]) <= set(record[node["class_type"]]["inputs"])


def rename(node: Node) -> None:
    node["inputs"] = {
        {"creativity": "strength"}.get(name, name): entry for name, entry in node["inputs"].items()
    }


def swap(node: Node) -> None:
    names = list(node["inputs"])
    first, second = names.index("scale"), names.index("creativity")
    names[first], names[second] = names[second], names[first]
    node["inputs"] = {name: node["inputs"][name] for name in names}


BREAKING: dict[str, Callable[[Node], object]] = {
    "input creativity is gone": rename,
    "the widgets are in another order": swap,
    "type of input scale was 'FLOAT'": lambda node: node["inputs"]["scale"].update(type="INT"),
    "default of input detail": lambda node: node["inputs"]["detail"].update(default=2.0),
    "lost choices": lambda node: node["inputs"]["sampler"]["choices"].remove("euler"),
    "allows less": lambda node: node["inputs"]["scale"].update(max=4),
    "outputs were": lambda node: node["outputs"].pop(0),
    "new input more is not optional": lambda node: node["inputs"].update(
        more={"type": "INT", "optional": False, "widget": True}
    ),
}


@pytest.mark.parametrize("problem", BREAKING)
def test_a_change_that_breaks_workflows_is_found(problem: str) -> None:
    changed = copy.deepcopy(read_record())
    BREAKING[problem](changed[UPSCALE])
    assert [found for found in broken(read_record(), changed) if problem in found]


def test_additions_at_the_end_break_nothing() -> None:
    changed = copy.deepcopy(read_record())
    changed[UPSCALE]["inputs"]["more"] = {"type": "INT", "optional": True, "widget": True}
    changed[UPSCALE]["outputs"].append(["more", "INT", False])
    changed["CreativeUpscaler_More"] = {"inputs": {}, "outputs": []}
    assert broken(read_record(), changed) == []
    del changed["CreativeUpscaler_Remote"]
    assert broken(read_record(), changed) == ["CreativeUpscaler_Remote is gone"]
