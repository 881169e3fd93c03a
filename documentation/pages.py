"""The generated parts of help pages: tables of a node's inputs and outputs, and pages in other languages.

A page `web/docs/<node>/en.md` is written by hand but for what is between its markers. ComfyUI looks for
`<node>/<language>.md` and then for `<node>.md`, never for the English page, so that both are written as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from descriptions import Input, Node

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "web" / "docs"

BEGIN = "<!-- inputs and outputs: written by tests/host/write_documentation.py -->\n"
END = "<!-- end of inputs and outputs -->\n"

WORDS = (
    "Inputs",
    "Rarely needed",
    "Outputs",
    "Input",
    "Output",
    "What it does",
    "What it is",
    "Default",
    "Allowed",
    "on",
    "off",
    "optional",
    "empty",
    "More, in English",
)
"""What the tables say beside the nodes' own texts; every language has translations of these."""

LONGEST_DEFAULT = 60
MAX_SEED = 2**64 - 1

Say = Callable[[str], str]
Declared = Mapping[tuple[str, str], Any]
"""By name and help, the `Parameter` that a widget was made from; it knows the unit and the choices."""


def declared_by_text(settings: Sequence[Any]) -> Declared:
    """All parameters of these `Settings` classes."""
    return {(p.name, p.help): p for one in settings for p in one.declared()}


def same(text: str) -> str:
    return text


def reference(node: Node, declared: Declared, say: Say = same) -> str:
    """The tables of a node, in the words of `say`."""
    parts = list[str]()
    for title, inputs in (("Inputs", node.usual), ("Rarely needed", node.rare)):
        if inputs:
            head = [say(word) for word in ("Input", "What it does", "Default", "Allowed")]
            rows = [_input_cells(one, declared.get((one.name, one.help)), say) for one in inputs]
            parts += [f"## {say(title)}", _table(head, rows)]
    if node.outputs:
        rows = [[_name(one.name, say), say(one.help) if one.help else ""] for one in node.outputs]
        parts += [f"## {say('Outputs')}", _table([say("Output"), say("What it is")], rows)]
    return "\n\n".join(parts) + "\n"


def spliced(page: str, tables: str) -> str:
    """An English page with its tables replaced. Raises `ValueError` for one without markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page has to hold {BEGIN!r} and {END!r}, each once")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables}\n{END}{rest.partition(END)[2]}"


def prose(page: str) -> str:
    """What of an English page is written by hand, without its title."""
    before, _, rest = page.partition(BEGIN)
    return before.partition("\n")[2].strip() + "\n\n" + rest.partition(END)[2].strip()


def translated_page(node: Node, declared: Declared, say: Say, english: str) -> str:
    """The page of another language: its own title, summary and tables, and the English text below."""
    tables = reference(node, declared, say)
    return (
        f"# {say(node.title)}\n\n{say(node.description)}\n\n{tables}\n"
        f"## {say('More, in English')}\n\n{prose(english).strip()}\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _name(name: str, say: Say) -> str:
    translated = say(name)
    return f"`{name}`" if translated.casefold() == name.casefold() else f"`{name}` {translated}"


def _input_cells(one: Input, parameter: Any, say: Say) -> list[str]:
    default = _default(one, say) if one.is_widget else (say("optional") if one.optional else "")
    return [_name(one.name, say), say(one.help) if one.help else "", default, _allowed(one, parameter)]


def _default(one: Input, say: Say) -> str:
    value = one.options.get("default")
    if isinstance(value, bool):
        return say("on" if value else "off")
    if value == "":
        return say("empty")
    if isinstance(value, str):
        whole = len(value) <= LONGEST_DEFAULT
        return f"`{value if whole else value[:LONGEST_DEFAULT].rsplit(' ', 1)[0] + ' …'}`"
    return "" if value is None else f"{value:g}"


def _allowed(one: Input, parameter: Any) -> str:
    if one.kind in ("INT", "FLOAT"):
        largest = one.options["max"]
        unit = f" {parameter.unit}" if parameter is not None and parameter.unit in ("px", "s", "MP") else ""
        return f"{one.options['min']:g} – {'2^64-1' if largest == MAX_SEED else f'{largest:g}'}{unit}"
    if one.kind == "COMBO" and parameter is not None:
        return ", ".join(f"`{choice}`" for choice in parameter.choices)
    return ""  # of other lists the choices are files, which differ from one computer to the next


def page_files(
    nodes: Sequence[Node], declared: Declared, tables: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Path, str]]:
    """Every help page as it should be, from the English ones as they are and the languages' tables."""
    for node in nodes:
        path = PAGES / node.id / "en.md"
        english = spliced(path.read_text(encoding="utf-8"), reference(node, declared))
        yield path, english
        yield PAGES / f"{node.id}.md", english
        for language, table in tables.items():
            say = table.__getitem__
            yield path.with_name(f"{language}.md"), translated_page(node, declared, say, english)
