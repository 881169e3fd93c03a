"""The files in `locales/`, which ComfyUI merges and serves as `/i18n`.

English is what the nodes declare (`descriptions`). Every other language is that tree with its strings
replaced through one table, `translations/<language>.json`, from each English string to its translation: what
many nodes share is translated once, and a sentence that changes in English is missed by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from descriptions import Tree

ROOT = Path(__file__).parents[1]
LOCALES = ROOT / "locales"
TABLES = Path(__file__).parent / "translations"
LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es")
"""ComfyUI's own names of languages. Its page does not offer German yet."""
FILES = ("nodeDefs.json", "settings.json", "main.json")

SPECIAL = re.compile(r"[{}@|]")
"""What ComfyUI's translation library gives a meaning; a text with one of these is shown mutilated."""
_NUMBER = re.compile(r"\d*[.,]?\d+")
_PLACEHOLDER = re.compile(r"<\w+>")
_VERBATIM = re.compile(
    r"FAL_KEY|[\w:.-]+/[\w.-]*[A-Za-z][\w.-]*|\.safetensors|\.ckpt|settings\.json|localhost|torch\.compile"
)
"""What is the same in every language: paths, addresses, names of files and variables."""

Table = Mapping[str, str]


def read_table(language: str) -> dict[str, str]:
    return json.loads((TABLES / f"{language}.json").read_text(encoding="utf-8"))


def read_locale(language: str) -> dict[str, Tree]:
    """The files of a language by name."""
    return {name: json.loads((LOCALES / language / name).read_text(encoding="utf-8")) for name in FILES}


def write_locale(language: str, trees: Mapping[str, Tree]) -> None:
    folder = LOCALES / language
    folder.mkdir(parents=True, exist_ok=True)
    for name, tree in trees.items():
        text = json.dumps(tree, ensure_ascii=False, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def translate(english: Mapping[str, Tree], table: Table) -> dict[str, Tree]:
    """The files of a language. Raises `KeyError` for a string that the table lacks.

    A node's input also gets the name it has in the API, in messages and in the documentation, at the end of
    its help.
    """
    trees = {name: _map(tree, table.__getitem__) for name, tree in english.items()}
    for node in trees["nodeDefs.json"].values():
        for name, leaf in node["inputs"].items():
            if "tooltip" in leaf and leaf["name"].casefold() != name.casefold():
                leaf["tooltip"] += f" [{name}]"
    return trees


def strings(english: Mapping[str, Tree]) -> list[str]:
    """Every English string once, in order."""
    return list(dict.fromkeys(text for tree in english.values() for text in _leaves(tree)))


def find_flaws(text: str, translated: str, choices: frozenset[str] = frozenset()) -> list[str]:
    """What a translation has lost or must not have: numbers, placeholders, names, and any of `choices`."""
    flaws = [f"has {mark}, which ComfyUI's page would not show" for mark in SPECIAL.findall(translated)]
    if not translated.strip() or translated != translated.strip():
        flaws.append("is empty, or has spaces around it")
    if _numbers(text) != _numbers(translated):
        flaws.append(f"has the numbers {_numbers(translated)}, not {_numbers(text)}")
    wanted = [*_PLACEHOLDER.findall(text), *(name.rstrip(".") for name in _VERBATIM.findall(text))]
    wanted += [word for word in re.findall(r"\w+(?: \w+-\w+)?", text) if word in choices]
    flaws += [f"lacks {word}" for word in dict.fromkeys(wanted) if word not in translated]
    return flaws


def _numbers(text: str) -> list[float]:
    return sorted(float(number.replace(",", ".")) for number in _NUMBER.findall(text))


def _map(tree: Tree, change: Callable[[str], str]) -> Tree:
    return {
        key: _map(value, change) if isinstance(value, dict) else change(value) for key, value in tree.items()
    }


def _leaves(tree: Tree) -> Iterator[str]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value
