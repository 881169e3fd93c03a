"""Help pages, their pictures and the locales are what the nodes declare to this ComfyUI, served and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import write_documentation as writer
from browser import browsing, find_browser
from comfy_server import PACK, ROOT, Server
from test_remote_nodes import private
from test_remote_settings_page import CATEGORY, OPEN, SEEN, STATUS
from test_settings_page import screenshot

NODE = "CreativeUpscaler_Upscale"
SELECT = """(() => { const node = window.LiteGraph.createNode('%s'); window.app.graph.clear();
  if (!node) return false
  window.app.graph.add(node); window.app.canvas.selectNode(node); return true })()"""
INFO = """(() => { const button = document.querySelector('[data-testid=info-button]');
  button?.click(); return !!button })()"""
CLOSE = "document.querySelector('[role=dialog] button[aria-label]')?.click() ?? true"
HELP = "document.querySelector('.node-help-content')"
PICTURES = """(() => { const all = [...document.querySelectorAll('.node-help-content img')];
  return all.length && all.every((one) => one.complete) ? all.map((one) => one.naturalWidth) : null })()"""


def test_the_committed_files_are_what_this_comfyui_tells(server: Server) -> None:
    info = server.client.get("/object_info")
    rows = server.client.get("/creative_upscaler/settings")["rows"]
    english = writer.english_trees(info, rows)
    how = "run `python tests/host/write_documentation.py`"
    assert writer.locales.read_locale("en") == english, how
    nodes = writer.read_nodes(info)
    tables = {language: writer.locales.read_table(language) for language in writer.locales.LANGUAGES}
    outdated = [
        str(path.relative_to(ROOT))
        for path, text in writer.pages.page_files(nodes, writer.declarations(), tables)
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert outdated == [], how


def test_locales_and_pictures_are_served(server: Server) -> None:
    served = server.client.get("/i18n")
    for language in ("en", *writer.locales.LANGUAGES):
        files = writer.locales.read_locale(language)
        assert served[language]["nodeDefs"] == files["nodeDefs.json"]
        assert served[language]["settings"] == files["settings.json"]
        assert served[language].items() >= files["main.json"].items()
    for node in served["en"]["nodeDefs"]:
        # What ComfyUI shows in languages that have no page of their own.
        fallback = server.client.fetch(f"/extensions/{PACK}/docs/{node}.md")
        assert fallback == (writer.pages.PAGES / node / "en.md").read_bytes()
    for picture in (writer.pages.PAGES / "pictures").iterdir():
        assert server.client.fetch(f"/extensions/{PACK}/docs/pictures/{picture.name}") == picture.read_bytes()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium")
@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_shows_help_and_names_in_the_users_language(
    server: Server, tmp_path: Path, language: str
) -> None:
    server.client.post("/settings", {**SEEN, "Comfy.Locale": language})
    (private(server) / "credentials.json").unlink(missing_ok=True)
    told = writer.locales.read_locale(language)["nodeDefs.json"][NODE]
    try:
        with browsing(f"http://{server.client.address}/", tmp_path / "profile") as page:
            page.wait_for("!!window.app?.extensionManager?.command && !!window.app?.graph")
            page.wait_for(SELECT % NODE)
            page.wait_for(INFO)
            page.wait_for(f"!!{HELP}?.innerText.includes({json.dumps(told['display_name'])})")
            text = page.evaluate(f"{HELP}.innerText")
            assert "<!--" not in text and "end of inputs" not in text
            for name in ("creativity", "guidance_scale"):
                assert told["inputs"][name]["tooltip"].removesuffix(f" [{name}]") in text
            widths = page.wait_for(PICTURES)
            assert len(widths) == 5 and min(widths) >= 400
            labels = page.evaluate("window.app.graph.nodes[0].widgets.map((one) => one.label ?? one.name)")
            assert told["inputs"]["creativity"]["name"] in labels, labels
            page.evaluate(OPEN)
            page.wait_for(CATEGORY)
            said = writer.locales.read_locale(language)
            page.wait_for(f"{STATUS} === {json.dumps(said['main.json']['creativeUpscaler']['noKey'])}")
            dialog = page.evaluate("document.body.innerText")
            for row in said["settings.json"].values():
                assert row["name"] in dialog
            for heading in said["main.json"]["settingsCategories"].values():
                assert heading in dialog
            screenshot(page, server, f"settings-{language}")
            page.evaluate(CLOSE)
            page.evaluate(f"{HELP}.querySelector('img').scrollIntoView() ?? true")
            screenshot(page, server, f"help-{language}")
    finally:
        server.client.post("/settings", {"Comfy.Locale": "en"})
