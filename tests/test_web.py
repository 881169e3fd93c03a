"""The page's modules: their own tests, and rules that can be read off the sources."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "web").rglob("*") if path.suffix in (".js", ".mjs"))


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_the_modules_pass_their_own_tests() -> None:
    tests = sorted(map(str, (ROOT / "tests" / "web").glob("*.test.mjs")))
    done = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:]
    assert tests and re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE)


def test_the_page_imports_no_tests() -> None:
    """ComfyUI's page imports every .js file that is served."""
    assert MODULES and not [path for path in MODULES if "test" in path.name]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_insert_no_markup_and_name_no_other_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    addresses = re.findall(r"https?://[\w.]+", text.replace("http://www.w3.org/2000/svg", ""))
    assert addresses == []
    assert len(text.splitlines()) <= 400
