"""What the README says is so: its files, its models and the messages it explains."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from creative_upscaler.pipelines.registry import Model, published_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = 400


def model_table() -> str:
    """The table of published models, as the README has it."""
    rows = ["| Name | Model | For | Size | Licence |", "|---|---|---|---|---|"]
    for model in published_models():
        title = f"[{model.title}]({model.page})"
        rows.append(f"| `{model.name}` | {title} | {model.use} | {size(model)} | {model.licence} |")
    return "\n".join(rows)


def size(model: Model) -> str:
    """Of all files, where each is known."""
    sizes = [file.size for file in model.files]
    if None in sizes:
        return f"over {sum(known or 0 for known in sizes) / 1e9:.1f} GB" if any(sizes) else "unknown"
    return f"{sum(sizes) / 1e9:.1f} GB"  # type: ignore[arg-type]


def messages() -> list[str]:
    """All texts in the sources, with … for what is filled in."""
    found = []
    for path in (path for part in ("pipelines", "nodes", "cli") for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def explained() -> list[str]:
    """The messages in the README's table of what goes wrong."""
    section = README.split("## When something goes wrong")[1].split("\n## ")[0]
    return re.findall(r"^\| `(.+?)`", section, re.MULTILINE)


def test_each_message_that_is_explained_is_one_that_the_program_gives() -> None:
    given = messages()
    assert len(explained()) > 15
    for message in explained():
        words = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
        assert any(re.search(".*".join(words), text, re.DOTALL) for text in given), message


def test_the_table_of_models_is_what_the_registry_holds() -> None:
    table = README.split("tests/test_readme.py -->\n")[1].split("<!-- end of models -->")[0]
    assert table.strip() == model_table()


def test_every_node_and_every_example_is_listed() -> None:
    nodes = {path.parent.name for path in (ROOT / "web" / "docs").glob("*/en.md")}
    assert [name for name in sorted(nodes) if f"(web/docs/{name}/en.md)" not in README] == []
    examples = [path.name for path in (ROOT / "example_workflows").glob("*.json")]
    assert [name for name in examples if f"(example_workflows/{name})" not in README] == []


def test_links_lead_to_files_or_to_the_pages_of_models() -> None:
    pages = {model.page for model in published_models()}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).is_file() or link in pages, link


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(README.splitlines()) < LINES
