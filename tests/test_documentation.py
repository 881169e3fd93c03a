"""What the documentation says about settings is what the declaration says."""

from __future__ import annotations

from pathlib import Path

from creative_upscaler.cli.table import parameter_table
from creative_upscaler.pipelines.parameters import UpscaleParameters

ROOT = Path(__file__).parents[1]


def test_the_readmes_table_of_settings_is_the_commands_output():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin = "<!-- settings: the output of `creative-upscaler parameters` -->\n"
    table = text.split(begin)[1].split("<!-- end of settings -->")[0]
    assert table.strip() == parameter_table()


def test_the_help_page_names_every_setting_of_the_node():
    page = (ROOT / "web/docs/CreativeUpscaler_Upscale/en.md").read_text(encoding="utf-8")
    left_out = {"model_type"}
    for parameter in UpscaleParameters.declared():
        if not parameter.model_source and parameter.name not in left_out:
            assert f"- **`{parameter.name}`**" in page, parameter.name
