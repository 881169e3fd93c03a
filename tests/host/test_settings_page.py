"""The pack's settings: through their route, in ComfyUI's dialog, and above what a workflow asks for."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from browser import Page, browsing, find_browser
from comfy_server import Server
from test_remote_nodes import private
from test_remote_settings_page import CATEGORY, OPEN, SEEN
from workflows import UPSCALE, quick

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures of what was tested, to be looked at."""

FIELD = "document.querySelector('.creative-upscaler-%s :is(input, textarea)')"
SAYS = "document.querySelector('.creative-upscaler-%s [role=status]').textContent"
TYPE = """(() => {{ const field = {field}; field.value = {value};
  field.dispatchEvent(new Event('change', {{ bubbles: true }}));
  document.querySelector('.creative-upscaler-{name} button')?.click(); return true }})()"""
STORED = "(async () => JSON.stringify(await (await fetch('/api/settings')).json()))()"


@pytest.fixture(autouse=True)
def _own_settings(server: Server) -> Any:
    path = private(server) / "settings.json"
    path.unlink(missing_ok=True)
    yield
    path.unlink(missing_ok=True)


def change(server: Server, name: str, value: Any, **headers: str) -> tuple[int, Any]:
    sent = {"Content-Type": "application/json", "Origin": f"http://{server.client.address}", **headers}
    body = json.dumps({"name": name, "value": value}).encode()
    request = Request(f"http://{server.client.address}/creative_upscaler/settings", body, sent)
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.loads(error.read() or "{}")  # ComfyUI's own refusal is empty


def kept(server: Server) -> dict[str, Any]:
    return json.loads((private(server) / "settings.json").read_text())


def test_the_route_changes_settings_for_this_page_only(server: Server) -> None:
    status, told = change(server, "max_cost_per_day", 5)
    assert (status, told["values"]["max_cost_per_day"]) == (200, 5.0)
    assert kept(server) == {"max_cost_per_day": 5.0}
    assert change(server, "max_cost_per_day", 99, Origin="http://evil.example")[0] == 403
    assert change(server, "max_cost_per_day", 99, **{"Content-Type": "text/plain"})[0] == 403
    status, told = change(server, "max_cost_per_day", -1)
    assert (status, told) == (
        400,
        {"error": "max_cost_per_day: got -1; allowed is a number from 0 to 100000"},
    )
    assert change(server, "servers", {"box": "http://example.com"})[0] == 400
    assert kept(server) == {"max_cost_per_day": 5.0}
    listed = server.client.get("/creative_upscaler/settings")
    assert {row["name"] for row in listed["rows"]} == {*listed["values"], "keys"}


def test_a_workflow_cannot_make_more_than_the_user_allows_here(server: Server) -> None:
    change(server, "max_local_megapixels", 0.01)
    large = quick(scale=3.0, override_size_limits=True, seed=9)
    run = server.client.run(large)
    assert run.outcome == "execution_error" and UPSCALE not in run.outputs
    assert "your settings allow 0.01 on this computer" in run.error["exception_message"]
    change(server, "max_local_megapixels", None)
    assert server.client.run(large).outcome == "execution_success"


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
def test_limits_and_hosts_are_set_in_the_dialog_and_are_no_settings_of_comfyui(
    server: Server, tmp_path: Path
) -> None:
    server.client.post("/settings", SEEN)
    with browsing(f"http://{server.client.address}/", tmp_path / "profile") as page:
        page.wait_for("!!window.app?.extensionManager?.command && !!window.app?.graph")
        page.evaluate(OPEN)
        page.wait_for(CATEGORY)
        type_into(page, "max_megapixels_per_run", "12.5", says="Saved.")
        type_into(page, "max_megapixels_per_day", "-3", says="got -3; allowed is a number from 0 to 999999")
        type_into(page, "trusted_hosts", "Studio.local\nhttps://x.org/", says="the name of a host alone")
        type_into(page, "trusted_hosts", "Studio.local", says="Saved.")
        type_into(page, "servers", "box http://192.168.1.5:8000/queue", says="Saved.")
        assert page.evaluate(FIELD % "trusted_hosts" + ".value") == "studio.local"
        type_into(page, "max_cost_per_run", "4", says="Saved.")
        type_into(page, "max_cost_per_run", "", says="Saved.")
        page.wait_for(FIELD % "max_cost_per_run" + ".value === '0'")
        screenshot(page, server, "settings")
        stored = page.evaluate(STORED)
    assert kept(server) == {
        "max_megapixels_per_run": 12.5,
        "trusted_hosts": ["studio.local"],
        "servers": {"box": {"queue_url": "http://192.168.1.5:8000/queue"}},
    }
    assert "CreativeUpscaler" not in stored and "studio.local" not in stored


def type_into(page: Page, name: str, value: str, *, says: str) -> None:
    page.wait_for(f"!!{FIELD % name}")
    page.evaluate(TYPE.format(field=FIELD % name, value=json.dumps(value), name=name))
    page.wait_for(f"{SAYS % name}.includes({json.dumps(says)})", seconds=20)


def screenshot(page: Page, server: Server, name: str) -> None:
    if SHOTS:
        size = {"width": 1400, "height": 1300, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        shot = page.call("Page.captureScreenshot", format="png")
        Path(SHOTS, f"{name}-{server.folder.name}.png").write_bytes(base64.b64decode(shot["data"]))
