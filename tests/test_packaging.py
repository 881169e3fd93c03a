"""The wheel, and the command that it installs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("__init__.py", "cli/", "nodes/", "pipelines/", "starter/sr/", "starter/diffusion/")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
CHECK = """
import sys, creative_upscaler
assert creative_upscaler.WEB_DIRECTORY and "torch" not in sys.modules
sys.stdout.write(creative_upscaler.__file__)
"""


def own_files() -> list[str]:
    """The files of the repository, without what git ignores."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built away from the working tree, in which it would leave its traces."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in own_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = (*PIP, "wheel", "--no-deps", "--wheel-dir", out, source)
    built = subprocess.run(command, capture_output=True, text=True, cwd=out)
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("building needs setuptools from a package index, and none can be reached")
    assert built.returncode == 0, built.stderr[-3000:]
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_whole_pack_and_no_tests(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    assert packed >= {f"creative_upscaler/{name}" for name in own_files() if name.startswith(PARTS)}
    assert [name for name in packed if not name.startswith("creative_upscaler/") or "tests/" in name] == []


def test_the_installed_command_and_package_work_without_a_host(wheel: Path, tmp_path: Path) -> None:
    subprocess.run((*PIP, "install", "--no-deps", "--target", tmp_path, wheel), check=True, cwd=tmp_path)
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    options["env"] = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = subprocess.run((tmp_path / "bin" / "creative-upscaler", "upscale", "--help"), **options)
    assert shown.returncode == 0, shown.stderr
    assert "--creativity" in shown.stdout
    imported = subprocess.run((sys.executable, "-c", CHECK), **options)
    assert imported.stdout.startswith(str(tmp_path)), imported.stderr
