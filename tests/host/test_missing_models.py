"""Models that are not there: told with the way to get them, downloaded only when the user asks."""

from __future__ import annotations

from comfy_server import Server
from test_loading import describe
from workflows import MODELS, UPSCALE, changed, quick

MISSING = "xinsir-controlnet-union-sdxl-1.0-promax.safetensors"


def test_published_models_that_are_not_there_are_offered_last(server: Server) -> None:
    inputs = describe(server.client, "CreativeUpscaler_LoadModels")["input"]
    options = inputs["required"]["controlnet"][1]["options"]
    assert options.index(MISSING) > options.index("control_v11f1e_sd15_tile.pth")
    assert inputs["required"]["checkpoint"][1]["options"].count("v1-5-pruned-emaonly.safetensors") == 1
    switch = inputs["optional"]["download_missing"][1]
    assert switch["default"] is False
    assert list(inputs["optional"])[-1] == "download_missing"


def test_a_missing_model_is_an_error_that_says_how_to_get_it(server: Server) -> None:
    run = server.client.run(changed(quick(seed=400), MODELS, controlnet=MISSING))
    assert run.error
    message = run.error["exception_message"]
    assert "creative-upscaler models get sdxl-union --folder" in message
    assert "https://huggingface.co/xinsir/controlnet-union-sdxl-1.0" in message
    assert "Apache-2.0" in message and "2.51 GB" in message
    assert str(server.models("controlnet").resolve().name) in message


def test_the_switch_downloads_and_the_host_s_offline_setting_is_kept(server: Server) -> None:
    run = server.client.run(changed(quick(seed=401), MODELS, controlnet=MISSING, download_missing=True))
    assert run.error
    assert "could not be read from the hub (OfflineModeIsEnabled" in run.error["exception_message"]
    assert not list(server.models("controlnet").glob("*promax*"))


def test_loaders_without_a_model_say_how_to_get_one(server: Server) -> None:
    for kind, checks, name in (
        ("CreativeUpscaler_LoadSafetyChecker", "CreativeUpscaler_SafetyCheck", "safety-checker"),
        ("CreativeUpscaler_LoadCaptioner", "CreativeUpscaler_AutoCaption", "florence-2-large"),
    ):
        socket = "safety_checker" if name == "safety-checker" else "captioner"
        workflow = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "2": {"class_type": kind, "inputs": {socket: "auto"}},
            "3": {"class_type": checks, "inputs": {"image": ["1", 0], socket: ["2", 0]}},
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        described = describe(server.client, checks)["input"]
        for section in described.values():
            for widget, (_, options) in section.items():
                if "default" in options:
                    workflow["3"]["inputs"][widget] = options["default"]
        if name == "safety-checker":
            workflow["4"]["inputs"]["images"] = ["3", 0]
        run = server.client.run(workflow)
        assert f"creative-upscaler models get {name} " in run.error["exception_message"]


def test_creative_upscale_does_not_go_unchecked(server: Server) -> None:
    run = server.client.run(quick(seed=204, enable_safety_checks=True))
    assert (run.outcome, run.error["node_id"]) == ("execution_error", UPSCALE)
    assert "switch enable_safety_checks off" in run.error["exception_message"]
