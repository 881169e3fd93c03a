"""What the Comfy registry asks of a pack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SYSTEMS = re.compile(r"Operating System :: (OS Independent|Microsoft|POSIX|MacOS)")
ACCELERATORS = {
    f"Environment :: {name}"
    for name in (
        "GPU :: NVIDIA CUDA",
        "GPU :: AMD ROCm",
        "GPU :: Intel Arc",
        "GPU :: Apple Metal",
        "NPU :: Huawei Ascend",
    )
}
DELIVERED = re.compile(
    r"(__init__\.py|(cli|nodes|pipelines|web|locales|example_workflows)/.+|starter/(sr|diffusion)/.+|"
    r"starter/README\.md|(README|CHANGELOG)\.md|LICENSE|pyproject\.toml|requirements\.txt)"
)


def configuration(file: Path = ROOT / "pyproject.toml") -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def test_the_name_and_the_versions_are_as_the_registry_wants_them() -> None:
    project, comfy = configuration()["project"], configuration()["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-._](?![-._])){1,98}", project["name"])
    assert "comfy" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert comfy["PublisherId"] and comfy["DisplayName"] and project["description"] and project["license"]
    assert "web" not in comfy  # WEB_DIRECTORY registers the folder; twice would load every script twice


def test_systems_and_accelerators_are_words_that_the_registry_knows() -> None:
    classifiers = configuration()["project"]["classifiers"]
    systems = [word for word in classifiers if word.startswith("Operating System")]
    assert systems and all(SYSTEMS.match(word) for word in systems)
    accelerators = {word for word in classifiers if word.startswith("Environment")}
    assert accelerators and accelerators <= ACCELERATORS


def test_icon_and_banner_have_the_registrys_shapes() -> None:
    comfy = configuration()["tool"]["comfy"]
    icon, banner = (Image.open(ROOT / comfy[name]) for name in ("Icon", "Banner"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21


def test_the_linter_refuses_what_the_registry_refuses() -> None:
    lint = configuration()["tool"]["ruff"]["lint"]
    refused = {"S102", "S307", "E702"}
    assert refused <= {*lint["select"]}
    assert not refused & {rule for rules in lint["per-file-ignores"].values() for rule in rules}


def test_addresses_are_those_of_the_repository_it_is_published_from(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    variables = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "someone/some-name",
        "GITHUB_SHA": "0123abc",
    }
    command = [sys.executable, ROOT / ".github" / "registry_addresses.py"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, check=True)
    filled = configuration(tmp_path / "pyproject.toml")
    assert filled["project"]["urls"]["Repository"] == "https://github.com/someone/some-name"
    assert filled["tool"]["comfy"]["Icon"] == (
        "https://github.com/someone/some-name/raw/0123abc/assets/icon.png"
    )
    for name in ("Icon", "Banner"):
        filled["tool"]["comfy"][name] = configuration()["tool"]["comfy"][name]
    del filled["project"]["urls"]
    assert filled == configuration()


def test_users_get_the_pack_and_nothing_for_developers() -> None:
    delivered = listed("--cached") - listed("--cached", "--ignored", "--exclude-from=.comfyignore")
    wanted = {name for name in listed("--cached") if DELIVERED.fullmatch(name)}
    assert delivered == wanted


def listed(*options: str) -> set[str]:
    """Files that git knows."""
    answer = subprocess.run(("git", "ls-files", *options), cwd=ROOT, capture_output=True, text=True)
    if answer.returncode != 0:
        pytest.skip("not a git checkout")
    return set(answer.stdout.splitlines())
