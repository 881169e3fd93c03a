"""Write what is made from the nodes' declarations: tables of help pages, pages in other languages, locales.

    python tests/host/write_documentation.py            after a change of a node, a setting or a help text
    python tests/host/write_documentation.py --pictures also the pictures of the help pages (a minute)

Needs a ComfyUI as the tests find it. A new English string needs its translation in each of
`documentation/translations/*.json` first: the program names those that are missing, and those that are no
longer needed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_server import ROOT, find_hosts, running

sys.path.insert(0, str(ROOT / "documentation"))

sys.path.insert(0, str(ROOT / "tests"))

import pages
from descriptions import Node, Tree, english_node_definitions, english_settings, read_nodes

import locales

NEW_PAGE = """# {title}

{description}

{begin}
{end}"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "models").mkdir()
        (Path(name) / "host").mkdir()
        with running(find_hosts()[0], Path(name) / "host", Path(name) / "models") as server:
            info = server.client.get("/object_info")
            rows = server.client.get("/creative_upscaler/settings")["rows"]
    nodes, english = read_nodes(info), english_trees(info, rows)
    locales.write_locale("en", english)
    needed = needed_strings(english)
    tables = {language: locales.read_table(language) for language in locales.LANGUAGES}
    missing = {language: [text for text in needed if text not in table] for language, table in tables.items()}
    for language, table in tables.items():
        spare = [text for text in table if text not in needed]
        for problem, texts in (("lacks", missing[language]), ("no longer needs", spare)):
            for text in texts:
                sys.stderr.write(f"documentation/translations/{language}.json {problem}: {text}\n")
    complete = {language: table for language, table in tables.items() if not missing[language]}
    for language, table in complete.items():
        locales.write_locale(language, locales.translate(english, table))
    add_pages(nodes)
    for path, text in pages.page_files(nodes, declarations(), complete):
        path.write_text(text, encoding="utf-8")
    if "--pictures" in sys.argv:
        import pictures  # noqa: PLC0415

        pictures.write_pictures(pages.PAGES / "pictures")
    return 1 if any(missing.values()) else 0


def english_trees(info: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> dict[str, Tree]:
    """The English files as ComfyUI's answers say; `main.json` is written by hand."""
    return {
        "nodeDefs.json": english_node_definitions(read_nodes(info)),
        "settings.json": english_settings(rows),
        "main.json": json.loads((locales.LOCALES / "en" / "main.json").read_text(encoding="utf-8")),
    }


def needed_strings(english: Mapping[str, Tree]) -> list[str]:
    """What every language translates."""
    return list(dict.fromkeys([*locales.strings(english), *pages.WORDS]))


def declarations() -> pages.Declared:
    """The settings that widgets are made from, of the pack as the tests load it."""
    if "creative_upscaler" not in sys.modules:
        spec = importlib.util.spec_from_file_location("load_pack", ROOT / "conftest.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from declared_settings import SETTINGS  # noqa: PLC0415  imports the pack

    return pages.declared_by_text(SETTINGS)


def add_pages(nodes: list[Node]) -> None:
    """Begin a page for each node that has none."""
    for node in nodes:
        path = pages.PAGES / node.id / "en.md"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            words = {"title": node.title, "description": node.description}
            path.write_text(NEW_PAGE.format(**words, begin=pages.BEGIN, end=pages.END), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
