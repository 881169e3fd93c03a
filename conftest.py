"""Lets pytest run in a folder of any name, as ComfyUI does with the pack.

The repository root is a package whose folder may be called anything (hyphens included) and which pytest would
otherwise try to import as a test package. It is loaded here once, under the name it has after `pip install`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


class _RootIsNoTestPackage:
    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RootIsNoTestPackage(), "root-is-no-test-package")


def _load_pack() -> None:
    # The root on sys.path would shadow ComfyUI's own top-level module `nodes`.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "creative_upscaler", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["creative_upscaler"] = pack
    spec.loader.exec_module(pack)


_load_pack()  # now: tests/conftest.py imports from it before pytest_configure is called
