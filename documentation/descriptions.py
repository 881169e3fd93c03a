"""What a running ComfyUI tells about the pack's nodes, settings and texts: all the English used here.

Help pages (`pages`) and locale files (`locales`) are made from it, so that the nodes' declarations stay the
only place where a sentence is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "CreativeUpscaler_"
WIDGETS = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Input:
    """A socket or widget of a node."""

    name: str
    kind: str
    """ComfyUI's type: INT, FLOAT, BOOLEAN, STRING, COMBO, or that of a socket."""
    help: str
    optional: bool
    """A socket that may be left alone."""
    advanced: bool
    options: Mapping[str, Any]
    """default, min, max, options and so on, as ComfyUI has them."""

    @property
    def is_widget(self) -> bool:
        return self.kind in WIDGETS


@dataclass(frozen=True)
class Output:
    name: str
    help: str


@dataclass(frozen=True)
class Node:
    """A node of the pack."""

    id: str
    title: str
    description: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @property
    def usual(self) -> list[Input]:
        return [one for one in self.inputs if not one.advanced]

    @property
    def rare(self) -> list[Input]:
        return [one for one in self.inputs if one.advanced]


def read_nodes(object_info: Mapping[str, Any]) -> list[Node]:
    """The pack's nodes in ComfyUI's answer to `/object_info`, in their order."""
    return [_read_node(name, entry) for name, entry in object_info.items() if name.startswith(PREFIX)]


def _read_node(name: str, entry: Mapping[str, Any]) -> Node:
    inputs = []
    for section in ("required", "optional"):
        for key, (kind, *rest) in entry["input"].get(section, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):  # as older nodes declare a combo
                kind, options = "COMBO", {**options, "options": kind}
            inputs.append(
                Input(
                    name=key,
                    kind=kind,
                    help=options.get("tooltip", ""),
                    optional=section == "optional" and kind not in WIDGETS,
                    advanced=bool(options.get("advanced")),
                    options=options,
                )
            )
    tips = entry.get("output_tooltips") or [""] * len(entry["output_name"])
    outputs = [Output(title, tip or "") for title, tip in zip(entry["output_name"], tips, strict=True)]
    return Node(name, entry["display_name"], entry["description"], tuple(inputs), tuple(outputs))


def english_node_definitions(nodes: list[Node]) -> Tree:
    """`nodeDefs.json`: names and help by node, inputs by name and outputs by position."""
    return {
        node.id: {
            "display_name": node.title,
            "description": node.description,
            "inputs": {one.name: _leaf(one.name, one.help) for one in node.inputs},
            "outputs": {str(n): _leaf(one.name, one.help) for n, one in enumerate(node.outputs)},
        }
        for node in nodes
    }


def english_settings(rows: list[Mapping[str, Any]]) -> Tree:
    """`settings.json`: names and help by id, in which ComfyUI looks for `_` in place of dots."""
    return {row["id"].replace(".", "_"): _leaf(row["label"], row["help"]) for row in rows}


def _leaf(name: str, tip: str) -> Tree:
    return {"name": name, "tooltip": tip} if tip else {"name": name}
