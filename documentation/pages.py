"""The generated parts of help pages: lists of a node's inputs and outputs, and pages in other languages.

Lists and not tables, for ComfyUI shows help in a panel that is 300 pixels wide.

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
    "In parentheses: the default; what is allowed.",
    "Rarely needed",
    "Outputs",
    "on",
    "off",
    "optional",
    "empty",
    "More, in English",
)
"""What the lists say beside the nodes' own texts; every language has translations of these."""

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
    """The lists of a node, in the words of `say`."""
    parts = list[str]()
    for title, inputs in (("Inputs", node.usual), ("Rarely needed", node.rare)):
        if inputs:
            lines = [_line(one, declared.get((one.name, one.help)), say) for one in inputs]
            parts += [f"## {say(title)}", "\n".join(lines)]
    if any(one.is_widget for one in node.inputs):
        parts.insert(1, say("In parentheses: the default; what is allowed."))
    if node.outputs:
        lines = [f"- **{_name(one.name, say)}**{_told(one.help, say)}" for one in node.outputs]
        parts += [f"## {say('Outputs')}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def spliced(page: str, lists: str) -> str:
    """An English page with its lists replaced. Raises `ValueError` for one without markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page has to hold {BEGIN!r} and {END!r}, each once")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{lists}\n{END}{rest.partition(END)[2]}"


def prose(page: str) -> str:
    """What of an English page is written by hand, without its title."""
    before, _, rest = page.partition(BEGIN)
    return before.partition("\n")[2].strip() + "\n\n" + rest.partition(END)[2].strip()


def translated_page(node: Node, declared: Declared, say: Say, english: str) -> str:
    """The page of another language: its own title, summary and lists, and the English text below."""
    lists = reference(node, declared, say)
    return (
        f"# {say(node.title)}\n\n{say(node.description)}\n\n{lists}\n"
        f"## {say('More, in English')}\n\n{prose(english).strip()}\n"
    )


def _name(name: str, say: Say) -> str:
    translated = say(name)
    return f"`{name}`" if translated.casefold() == name.casefold() else f"`{name}` {translated}"


def _line(one: Input, parameter: Any, say: Say) -> str:
    default = _default(one, say) if one.is_widget else (say("optional") if one.optional else "")
    facts = "; ".join(fact for fact in (default, _allowed(one, parameter)) if fact)
    return f"- **{_name(one.name, say)}**{f' ({facts})' if facts else ''}{_told(one.help, say)}"


def _told(text: str, say: Say) -> str:
    return f": {say(text)}" if text else ""


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
        return f"{one.options['min']:g} … {'2^64-1' if largest == MAX_SEED else f'{largest:g}'}{unit}"
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
