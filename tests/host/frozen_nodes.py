"""What saved workflows hold of our nodes, as recorded in `frozen_nodes.json`.

    python tests/host/frozen_nodes.py

records what was added. It refuses what would break a workflow that somebody has: those hold widget values by
position, links by socket, and, in API form, inputs by name.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy_server import find_hosts, running
from workflows import is_widget

RECORD = Path(__file__).with_name("frozen_nodes.json")
PREFIX = "CreativeUpscaler_"
FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft")
"""Choices that are files are the user's, not ours."""

Node = dict[str, Any]


def describe(object_info: Mapping[str, Any]) -> dict[str, Node]:
    """Our nodes, from what ComfyUI tells the browser, with inputs and widgets in the browser's order."""
    return {name: _node(info) for name, info in sorted(object_info.items()) if name.startswith(PREFIX)}


def _node(info: Mapping[str, Any]) -> Node:
    inputs = {}
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, options = (*info["input"][section][name], {})[:2]
            choices = kind if isinstance(kind, list) else options.get("options", [])
            inputs[name] = {
                "type": "COMBO" if isinstance(kind, list) else kind,
                "optional": section == "optional",
                "widget": is_widget(kind),
                **{key: options[key] for key in ("default", "min", "max") if key in options},
                **({"choices": [c for c in choices if not str(c).endswith(FILES)]} if choices else {}),
                **({"control_after_generate": True} if options.get("control_after_generate") else {}),
            }
    outputs = zip(info["output_name"], info["output"], info["output_is_list"], strict=True)
    return {"inputs": inputs, "outputs": [list(output) for output in outputs]}


def broken(frozen: Mapping[str, Node], now: Mapping[str, Node]) -> list[str]:
    """What of the record no longer holds, in words."""
    found = [f"{name} is gone" for name in frozen if name not in now]
    for name in frozen.keys() & now.keys():
        found += [f"{name}: {problem}" for problem in _broken_node(frozen[name], now[name])]
    return sorted(found)


def _broken_node(frozen: Node, now: Node) -> Iterator[str]:
    before, after = frozen["inputs"], now["inputs"]
    for name, record in before.items():
        if name not in after:
            yield f"input {name} is gone"
            continue
        current = after[name]
        for key in ("type", "widget", "default", "control_after_generate"):
            if record.get(key) != current.get(key):
                yield f"{key} of input {name} was {record.get(key)!r}, is {current.get(key)!r}"
        if record["optional"] and not current["optional"]:
            yield f"input {name} was optional"
        if lost := set(record.get("choices", ())) - set(current.get("choices", ())):
            yield f"input {name} lost choices: {sorted(lost)}"
        if "min" in record and not current["min"] <= record["min"] <= record["max"] <= current["max"]:
            yield f"input {name} allows less"
    for name in after.keys() - before.keys():
        if not after[name]["optional"]:
            yield f"new input {name} is not optional"
    widgets = [name for name, record in before.items() if record["widget"]]
    if [name for name, current in after.items() if current["widget"]][: len(widgets)] != widgets:
        yield "the widgets are in another order"
    if now["outputs"][: len(frozen["outputs"])] != frozen["outputs"]:
        yield f"outputs were {frozen['outputs']}, are {now['outputs']}"


def read_record() -> dict[str, Node]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def main() -> None:
    now: dict[str, Node] = {}
    for host in find_hosts():
        here = _ask(host)
        now = now or here
        # Samplers and schedulers are ComfyUI's, and older ones have fewer.
        for name, node in now.items():
            for key, record in node["inputs"].items():
                if "choices" in record:
                    others = here[name]["inputs"][key].get("choices", ())
                    record["choices"] = [choice for choice in record["choices"] if choice in others]
    if RECORD.exists() and (problems := broken(read_record(), now)):
        sys.exit("\n".join(["saved workflows would break:", *problems]))
    RECORD.write_text(_lines(now) + "\n", encoding="utf-8")


def _ask(host: Path) -> dict[str, Node]:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("models", "host"):
            (Path(folder) / name).mkdir()
        with running(host, Path(folder) / "host", Path(folder) / "models") as server:
            return describe(server.client.get("/object_info"))


def _lines(content: Any, depth: int = 0) -> str:
    """As JSON with an input, or a node's outputs, in each line."""
    if depth == 3 or not isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    entries = [f"{json.dumps(key)}: {_lines(value, depth + 1)}" for key, value in content.items()]
    return "{\n" + ",\n".join(" " * (depth + 1) + entry for entry in entries) + "\n" + " " * depth + "}"


if __name__ == "__main__":
    main()
