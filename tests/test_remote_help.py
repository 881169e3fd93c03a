"""The help pages of the remote nodes say what the declarations say."""

from __future__ import annotations

from pathlib import Path

import pytest

from creative_upscaler.pipelines.remote.options import RemoteOptions
from creative_upscaler.pipelines.remote.payload import PICTURE_FIELD, fal_parameters

PAGES = Path(__file__).parents[1] / "web" / "docs"


@pytest.mark.parametrize(
    "name", [PICTURE_FIELD, *(p.name for p in (*fal_parameters(), *RemoteOptions.declared()))]
)
def test_the_help_page_names_every_input(name: str) -> None:
    page = (PAGES / "CreativeUpscaler_Remote" / "en.md").read_text(encoding="utf-8")
    assert f"- **`{name}`**" in page


def test_every_remote_node_has_a_help_page() -> None:
    for node in ("Remote", "RemoteSubmit", "RemoteCollect"):
        assert (PAGES / f"CreativeUpscaler_{node}" / "en.md").read_text(encoding="utf-8").startswith("# ")
