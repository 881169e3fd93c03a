"""Every language is complete, says the same numbers, and is what its table makes of the English."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from declared_settings import SETTINGS

ROOT = Path(__file__).parents[1]
HOW = (
    "; run `python tests/host/write_documentation.py`, which writes the English files and everything made "
    "from them, after adding what it names to documentation/translations/*.json: the English string, and its "
    "translation"
)
LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es")
SAME = {"ControlNet", "LoRA", "VAE", "CCSR", "fal", "Creative Upscaler"}
"""Names that no language translates."""
LOAN_WORDS = {
    "de": {
        "optional",
        "Name",
        "Hosts",
        "Prompt",
        "Seed",
        "Seeds",
        "Sampler",
        "Scheduler",
        "Checkpoint",
        "Embedding",
    },
    "fr": {"Image", "Images", "Prompt", "Checkpoint", "Embedding"},
    "es": {"Hosts", "Prompt", "Checkpoint", "Embedding"},
}
"""What is the same word there as in English."""


@pytest.fixture(scope="module")
def locales() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "documentation"))
        yield importlib.import_module("locales")
        for name in ("locales", "pages", "descriptions"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_files_are_what_the_table_makes_of_the_english(locales: ModuleType, language: str) -> None:
    english, table = locales.read_locale("en"), locales.read_table(language)
    words = importlib.import_module("pages").WORDS
    needed = {*locales.strings(english), *words}
    assert needed - set(table) == set(), f"{language} lacks translations{HOW}"
    assert set(table) - needed == set(), f"{language} translates what is not said any more{HOW}"
    made = locales.translate(english, table)
    assert locales.read_locale(language) == made, f"locales/{language} is out of date{HOW}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_numbers_placeholders_and_choices_and_are_not_english(
    locales: ModuleType, language: str
) -> None:
    choices = {
        p.help: frozenset({*p.choices, "auto"}) for one in SETTINGS for p in one.declared() if p.choices
    }
    flaws = []
    for text, translated in locales.read_table(language).items():
        found = locales.find_flaws(text, translated, choices.get(text, frozenset({"auto"})))
        same = {name.casefold() for name in SAME | LOAN_WORDS.get(language, set())}
        if translated.casefold() == text.casefold() and text.casefold() not in same and len(text) > 4:
            found.append("is not translated")
        flaws += [f"{text!r} -> {translated!r} {flaw}" for flaw in found]
    assert flaws == []


def test_english_help_is_what_the_settings_declare(locales: ModuleType) -> None:
    told = {
        (name, leaf.get("tooltip"))
        for node in locales.read_locale("en")["nodeDefs.json"].values()
        for name, leaf in node["inputs"].items()
    }
    declared = {(p.name, p.help) for one in SETTINGS for p in one.declared()}
    assert declared - told == set(), f"locales/en is out of date{HOW}"


def test_english_has_nothing_that_comfyui_would_not_show(locales: ModuleType) -> None:
    texts = locales.strings(locales.read_locale("en"))
    assert [text for text in texts if locales.SPECIAL.search(text)] == []


@pytest.mark.parametrize(
    ("text", "translated", "flaw"),
    [
        ("0 only resizes; above .6", "0 verkleinert; über 0,7", "numbers"),
        ("from models/LLM", "aus models/llm", "lacks models/LLM"),
        ("auto reads it", "es wird gelesen", "lacks auto"),
        ("The server answered <status>.", "Antwort: status", "lacks <status>"),
        ("in place of it", "statt {caption}", "would not show"),
    ],
)
def test_a_flaw_is_found(locales: ModuleType, text: str, translated: str, flaw: str) -> None:
    assert any(flaw in found for found in locales.find_flaws(text, translated, frozenset({"auto"})))
