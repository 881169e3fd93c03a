"""ComfyUI's own page: new remote nodes keep their seed; the field for keys leaves no trace of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import browsing, find_browser
from comfy_server import Server
from test_remote_nodes import leaks, private

from fal_server import KEY
from remote_calls import all_bytes

SEEN = {"Comfy.TutorialCompleted": True, "Comfy.Notification.ShowVersionUpdates": False}
OPEN = "window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog').then(() => true)"
CATEGORY = """(() => { const found = [...document.querySelectorAll('[role=option], li, button')]
  .find((item) => item.textContent.trim() === 'Creative Upscaler'); found?.click(); return !!found })()"""
FIELD = "document.querySelector('.creative-upscaler-keys input[type=password]')"
STATUS = "document.querySelector('.creative-upscaler-keys [role=status]').textContent"
TYPE = f"""(() => {{ const field = {FIELD}; field.value = %s;
  field.dispatchEvent(new Event('input', {{ bubbles: true }}));
  [...document.querySelectorAll('.creative-upscaler-keys button')][0].click(); return true }})()"""
KEPT = """(async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,
  document.documentElement.outerHTML, (await indexedDB.databases()).map((base) => base.name)]))()"""
NEW_NODE = """(() => { const node = window.LiteGraph.createNode(%s); window.app.graph.add(node);
  return node.widgets.find((widget) => widget.name === 'control_after_generate').value })()"""
SAVED_NODE = """(() => { const [node] = window.app.graph.nodes; const saved = node.serialize();
  saved.widgets_values[node.widgets.findIndex((w) => w.name === 'control_after_generate')] = 'increment';
  node.configure(saved); return node.widgets.find((w) => w.name === 'control_after_generate').value })()"""


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
def test_seeds_stay_and_a_key_is_set_in_the_settings_and_kept_nowhere(server: Server, tmp_path: Path) -> None:
    (private(server) / "credentials.json").unlink(missing_ok=True)
    server.client.post("/settings", SEEN)
    with browsing(f"http://{server.client.address}/", tmp_path / "profile") as page:
        page.wait_for("!!window.app?.extensionManager?.command && !!window.app?.graph")
        page.evaluate("window.app.graph.clear()")
        for name in ("CreativeUpscaler_Remote", "CreativeUpscaler_RemoteSubmit"):
            assert page.evaluate(NEW_NODE % json.dumps(name)) == "fixed"
        assert page.evaluate(SAVED_NODE) == "increment"
        page.evaluate(OPEN)
        page.wait_for(CATEGORY)
        page.wait_for(f"!!{FIELD}")
        page.wait_for(f"{STATUS} === 'No key is set.'")
        page.evaluate(TYPE % json.dumps("with a space " + KEY))
        page.wait_for(f"{STATUS}.includes('whitespace')")
        page.evaluate(TYPE % json.dumps(KEY))
        page.wait_for(f"{STATUS} === 'Keys that are set: default'")
        assert page.evaluate(f"{FIELD}.value") == ""
        kept = page.evaluate(KEPT)
    assert json.loads((private(server) / "credentials.json").read_text()) == {"default": KEY}
    kept += all_bytes(tmp_path / "profile").decode(errors="replace")
    assert [secret for secret in (KEY, *KEY.split(":")) if secret in kept] == []
    assert leaks(server) == []
