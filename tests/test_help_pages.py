"""Help pages: lists as the nodes declare, the same in every language, and pictures that are there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from declared_settings import SETTINGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "web" / "docs"
HOW = "; run `python tests/host/write_documentation.py`"
LARGEST_PICTURE = 120_000


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "documentation"))
        yield importlib.import_module("pages")
        for name in ("locales", "pages", "descriptions"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def definitions(pages: ModuleType) -> dict[str, dict]:
    """`nodeDefs.json` by language."""
    locales = importlib.import_module("locales")
    return {
        language: locales.read_locale(language)["nodeDefs.json"] for language in ("en", *locales.LANGUAGES)
    }


def lines(page: str) -> dict[str, tuple[str, str]]:
    """By name what is in parentheses (default; allowed) and the help, of the lists' entries."""
    found = re.findall(r"^- \*\*`([^`]+)`[^*]*\*\*(?: \((.*?)\))?(?:: (.*))?$", page, re.MULTILINE)
    return {name: (facts, told) for name, facts, told in reversed(found)}


def test_every_node_has_pages_that_name_and_explain_every_input(definitions: dict[str, dict]) -> None:
    for language, nodes in definitions.items():
        for node, texts in nodes.items():
            page = (DOCS / node / f"{language}.md").read_text(encoding="utf-8")
            title = "" if language == "en" else texts["display_name"] + "\n"
            assert page.startswith(f"# {title}"), f"{node}/{language}.md{HOW}"
            shown = lines(page)
            for name, leaf in texts["inputs"].items():
                told = leaf.get("tooltip", "").removesuffix(f" [{name}]")
                assert shown[name][1] == told, f"{node}/{language}.md: {name}{HOW}"
    assert {path.name for path in DOCS.iterdir() if path.is_dir()} == {*definitions["en"], "pictures"}


def test_ranges_and_choices_in_the_pages_are_the_declared_ones(definitions: dict[str, dict]) -> None:
    declared = {(p.name, p.help): p for one in SETTINGS for p in one.declared()}
    checked = set()
    for node in definitions["en"]:
        page = (DOCS / node / "en.md").read_text(encoding="utf-8")
        for name, (facts, told) in lines(page).items():
            p = declared.get((name, told))
            if p is None:
                continue
            checked.add((name, told))
            allowed = facts.partition("; ")[2]
            if p.choices:
                assert allowed == ", ".join(f"`{choice}`" for choice in p.choices), f"{node}: {name}{HOW}"
            elif p.maximum is not None and name != "seed":
                unit = f" {p.unit}" if p.unit in ("px", "s", "MP") else ""
                assert allowed == f"{p.minimum:g} … {p.maximum:g}{unit}", f"{node}: {name}{HOW}"
    assert set(declared) - checked == set()


def test_other_languages_have_the_english_text_as_it_is(pages: ModuleType, definitions: dict) -> None:
    for node in definitions["en"]:
        english = (DOCS / node / "en.md").read_text(encoding="utf-8")
        assert (DOCS / f"{node}.md").read_text(encoding="utf-8") == english, f"{node}.md is out of date{HOW}"
        for language in definitions.keys() - {"en"}:
            page = (DOCS / node / f"{language}.md").read_text(encoding="utf-8")
            assert page.endswith(pages.prose(english).strip() + "\n"), f"{node}/{language}.md{HOW}"


def test_pictures_are_there_small_and_used() -> None:
    linked = set()
    for page in DOCS.rglob("*.md"):
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(alt) > 20, f"{page.name}: say what {target} shows"
            linked.add(target)  # ComfyUI resolves it against web/docs for a page in any folder
    kept = {f"pictures/{path.name}" for path in (DOCS / "pictures").iterdir()}
    assert linked == kept
    for name in kept:
        assert (DOCS / name).stat().st_size < LARGEST_PICTURE
        assert 400 <= Image.open(DOCS / name).width <= 600


def test_a_page_without_its_markers_is_refused(pages: ModuleType) -> None:
    with pytest.raises(ValueError, match="has to hold"):
        pages.spliced("# Title\n", "lists")
