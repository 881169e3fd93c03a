"""The example workflow in API form, and changes to it."""

from __future__ import annotations

import copy
import json
from typing import Any

from comfy_server import ROOT

Workflow = dict[str, Any]

EXAMPLES = ROOT / "example_workflows"
PICTURE, MODELS, UPSCALE, SAVE = "1", "2", "3", "4"
"""Nodes of the example."""
NOTE = "MarkdownNote"
"""A node of the browser alone."""


def example() -> Workflow:
    """`creative_upscale` as it is."""
    return read_example("creative_upscale")


def read_example(name: str) -> Workflow:
    """An example in API form."""
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))


def quick(**settings: Any) -> Workflow:
    """The example with few steps and these settings of the upscale node; each run is a second or two."""
    return changed(example(), UPSCALE, **{"num_inference_steps": 4, **settings})


def changed(workflow: Workflow, node: str, **inputs: Any) -> Workflow:
    """A copy with other inputs of one node."""
    workflow = copy.deepcopy(workflow)
    workflow[node]["inputs"].update(inputs)
    return workflow


def with_node(workflow: Workflow, name: str, kind: str, **inputs: Any) -> Workflow:
    """A copy with one more node."""
    return {**copy.deepcopy(workflow), name: {"class_type": kind, "inputs": inputs}}


def api_form(graph: dict[str, Any], object_info: dict[str, Any]) -> Workflow:
    """What the browser would send for a saved graph: widget values are positional, links are by socket."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    workflow = {}
    for node in graph["nodes"]:
        if node["type"] == NOTE:
            continue
        values = iter(node.get("widgets_values", ()))
        linked = {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        inputs = {}
        description = object_info[node["type"]]
        for section in ("required", "optional"):
            for name in description["input_order"].get(section, []):
                kind, options = (*description["input"][section][name], {})[:2]
                if is_widget(kind):
                    inputs[name] = next(values)
                    # Further widgets that the browser adds, and whose values it saves but does not send.
                    if options.get("control_after_generate") or options.get("image_upload"):
                        next(values)
                if name in linked:
                    inputs[name] = linked[name]
        assert list(values) == [], f"{node['type']} has more widget values than widgets"
        workflow[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return workflow


def is_widget(kind: object) -> bool:
    return isinstance(kind, list) or kind in ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")
