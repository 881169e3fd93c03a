"""The documentation table of the settings, from their declaration."""

from __future__ import annotations

from ..pipelines.parameters import UpscaleParameters
from ..pipelines.settings import Parameter


def parameter_table() -> str:
    """All settings as a Markdown table: name, default, allowed values, whether fal has it, help."""
    rows = ["| Setting | Default | Allowed | fal | What it does |", "|---|---|---|---|---|"]
    for parameter in UpscaleParameters.declared():
        cells = [
            f"`{parameter.name}`",
            default_text(parameter),
            parameter.allowed,
            "yes" if parameter.fal else "",
            parameter.help,
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def default_text(parameter: Parameter) -> str:
    """The default in words, for the table and the help."""
    if parameter.default is None:
        return "none"
    if parameter.type is bool:
        return "on" if parameter.default else "off"
    if parameter.type is str and not parameter.choices:
        return f'"{parameter.default}"' if parameter.default else "empty"
    return f"{parameter.default:g}" if parameter.type is float else str(parameter.default)
