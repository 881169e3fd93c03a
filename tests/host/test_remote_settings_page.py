"""The settings field for keys in ComfyUI's own page: it sets a key and leaves no trace of it."""

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


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
def test_a_key_is_set_in_the_settings_and_kept_nowhere_in_the_browser(server: Server, tmp_path: Path) -> None:
    (private(server) / "credentials.json").unlink(missing_ok=True)
    server.client.post("/settings", SEEN)
    with browsing(f"http://{server.client.address}/", tmp_path / "profile") as page:
        page.wait_for("!!window.app?.extensionManager?.command && !!window.app?.graph")
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
