"""Networks under ComfyUI's memory management, on a pretended device in a process of the host's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_server import ROOT, host_environment

Facts = dict[str, object]


@pytest.fixture(scope="module")
def facts(host: Path, models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("memory")
    script, result = Path(__file__).with_name("manage_memory.py"), folder / "facts.json"
    command = [sys.executable, script, host, ROOT, models_folder, result]
    done = subprocess.run(command, cwd=folder, env=host_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Potential memory leak" not in done.stderr
    return json.loads(result.read_text())


def test_networks_are_loaded_whole(facts: Facts) -> None:
    assert facts["both fit"] == ["first", "second"]
    assert facts["both at once"] == ["first", "second"]


def test_the_host_can_evict_ours_and_we_the_host_s(facts: Facts) -> None:
    assert facts["the host needs the room"] == ["theirs"]
    assert facts["ours is wanted again"] == ["first"]
    assert facts["the other of ours"] == ["second"]


def test_a_network_of_someone_else_only_visits_the_device(facts: Facts) -> None:
    assert facts["a visitor is managed"] is False
    assert facts["a visitor's moves"] == ["cpu:0", "cpu"]


def test_networks_leave_with_their_last_user(facts: Facts) -> None:
    assert "first" not in facts["after the last user let go"]
    assert "second" not in facts["after the last user let go"]


def test_nodes_with_the_same_files_share_one_load_that_nothing_else_keeps(facts: Facts) -> None:
    assert facts["shared"] == [True, False]
    assert facts["kept by nobody"] == 0


def test_types_are_the_host_s(facts: Facts) -> None:
    assert set(facts["types"]) == {"diffusion", "vae", "text"}
    assert set(facts["types"].values()) == {"torch.float32"}


def test_only_failed_allocations_count_as_out_of_memory(facts: Facts) -> None:
    assert facts["out of memory"] == [True, True, False, False]
