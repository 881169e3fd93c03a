"""The pack in a real ComfyUI, from a folder with hyphens in its name."""

from __future__ import annotations

from typing import Any

from comfy_client import ComfyClient
from comfy_server import PACK, Server

from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.settings import Parameter

NODES = (
    "CreativeUpscaler_LoadModels",
    "CreativeUpscaler_AddLora",
    "CreativeUpscaler_Upscale",
    "CreativeUpscaler_LoadCaptioner",
    "CreativeUpscaler_AutoCaption",
    "CreativeUpscaler_LoadSafetyChecker",
    "CreativeUpscaler_SafetyCheck",
)


def test_the_pack_loads_without_an_error(server: Server) -> None:
    log = server.log.read_text()
    assert PACK in log
    assert "IMPORT FAILED" not in log
    assert "comfy_entrypoint" not in log


def test_starting_the_host_does_not_import_the_engine(server: Server) -> None:
    seconds = [line.split()[0] for line in server.log.read_text().splitlines() if line.endswith(PACK)]
    assert seconds, "the host lists no import time for the pack"
    assert float(seconds[0]) < 1.0


def test_every_node_is_offered_with_help_on_everything(server: Server) -> None:
    for name in NODES:
        node = describe(server.client, name)
        assert node["display_name"] and node["description"] and node["category"] == "image/upscaling/creative"
        assert all(node["output_tooltips"])
        for section in node["input"].values():
            for input_name, (_, options) in section.items():
                assert options.get("tooltip"), f"{name}.{input_name}"


def test_every_node_has_a_help_page_for_its_inputs_and_outputs(server: Server) -> None:
    for name in NODES:
        page = server.client.fetch(f"/extensions/{PACK}/docs/{name}/en.md").decode()
        node = describe(server.client, name)
        rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("- **`")}
        inputs = {
            name: options for section in node["input"].values() for name, (_, options) in section.items()
        }
        assert set(rows) == {*inputs, *node["output_name"]}
        for input_name, options in inputs.items():
            if "max" in options and input_name != "seed":
                assert f"{options['min']:g} … {options['max']:g}" in rows[input_name]


def test_widgets_are_as_declared(server: Server) -> None:
    inputs = describe(server.client, "CreativeUpscaler_Upscale")["input"]
    widgets = {**inputs["required"], **inputs["optional"]}
    for name in ("image", "models", "upscale_model", "ccsr", "captioner", "safety_checker"):
        del widgets[name]
    hidden = {"model_type"}
    declared = {
        p.name: p for p in UpscaleParameters.declared() if not p.model_source and p.name not in hidden
    }
    assert set(widgets) == set(declared)
    for name, (kind, options) in widgets.items():
        assert_as_declared(declared[name], kind, options)


def assert_as_declared(parameter: Parameter, kind: str, options: dict[str, Any]) -> None:
    kinds = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}
    assert kind == ("COMBO" if parameter.choices else kinds[parameter.type])
    assert options["tooltip"] == parameter.help
    assert options["default"] == (0 if parameter.name == "seed" else parameter.default)
    assert options.get("advanced", False) == parameter.advanced
    assert options.get("multiline", False) == parameter.multiline
    assert options.get("options", []) == list(parameter.choices)
    for bound, value in (("min", parameter.minimum), ("max", parameter.maximum), ("step", parameter.step)):
        assert options.get(bound) == value
    assert ("control_after_generate" in options) == (parameter.name == "seed")


def test_files_are_offered_from_the_folders_of_the_host(server: Server) -> None:
    inputs = describe(server.client, "CreativeUpscaler_LoadModels")["input"]
    assert "v1-5-pruned-emaonly.safetensors" in inputs["required"]["checkpoint"][1]["options"]
    controlnets = inputs["required"]["controlnet"][1]["options"]
    assert controlnets[0] == "none" and "control_v11f1e_sd15_tile.pth" in controlnets


def describe(client: ComfyClient, node: str) -> dict[str, Any]:
    """What the server tells the browser of a node, without what the browser never shows."""
    description = client.get(f"/object_info/{node}")[node]
    description["input"].pop("hidden", None)
    return description
