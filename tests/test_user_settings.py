"""The user's own settings: what may be set, what is kept, and that no workflow gets around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creative_upscaler.pipelines.errors import UpscalerError
from creative_upscaler.pipelines.remote.changing_settings import change_setting
from creative_upscaler.pipelines.remote.errors import SpendLimitError
from creative_upscaler.pipelines.remote.settings import UserSettings, load_settings
from fal_server import FalServer
from remote_calls import photo, upscale

MEGAPIXELS = 48 * 64 / 1e6
"""Of one result."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_megapixels_per_run", -1, r"max_megapixels_per_run: got -1; allowed is a number from 0 to 1"),
        ("max_cost_per_day", "5", "max_cost_per_day: got '5'; allowed is a number"),
        ("max_cost_per_day", float("nan"), "got nan"),
        ("max_cost_per_day", True, "got True"),
        ("max_everything", 1, "is not a setting; known are"),
        ("trusted_hosts", ["https://x.org/"], "the name of a host alone"),
        ("trusted_hosts", ["*"], "the name of a host alone"),
        ("trusted_hosts", "x.org", "a list of names"),
        ("servers", {"box": "http://example.com/queue"}, "http is allowed to private addresses only"),
        ("servers", {"box": ""}, "server box: not an http"),
        ("servers", {"fal": "https://x.org"}, "taken"),
        ("servers", {"Box 1": "https://x.org"}, "^server Box 1: the name is taken or not of a-z"),
    ],
)
def test_what_is_not_allowed_is_refused_and_the_file_stays(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    change_setting(tmp_path, "max_megapixels_per_day", 7)
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(UpscalerError, match=message):
        change_setting(tmp_path, name, value)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    assert (tmp_path / "settings.json").read_bytes() == before


def test_settings_change_one_by_one_and_go_back_to_their_defaults(tmp_path: Path) -> None:
    change_setting(tmp_path, "max_cost_per_run", 2.5)
    change_setting(tmp_path, "trusted_hosts", ["Studio.local"])
    settings = change_setting(tmp_path, "max_megapixels_per_run", 3)
    assert (settings.max_cost_per_run, settings.max_megapixels_per_run) == (2.5, 3.0)
    assert settings.trusted_hosts == ("studio.local",)
    assert change_setting(tmp_path, "max_cost_per_run", None).max_cost_per_run == 0
    assert load_settings(tmp_path) == UserSettings(max_megapixels_per_run=3, trusted_hosts=("studio.local",))


def test_a_file_that_cannot_be_understood_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"max_cost_per_run": "much"}')
    with pytest.raises(UpscalerError, match="max_cost_per_run: got 'much'"):
        change_setting(tmp_path, "max_cost_per_run", 1)
    assert json.loads((tmp_path / "settings.json").read_text()) == {"max_cost_per_run": "much"}


def test_a_server_is_sent_a_key_only_if_the_file_says_so(tmp_path: Path) -> None:
    entry = {"queue_url": "https://box.example/queue", "credentials": ["box"]}
    (tmp_path / "settings.json").write_text(json.dumps({"servers": {"box": entry}}))
    added = {"box": entry["queue_url"] + "/", "other": "http://192.168.1.5:8000"}
    servers = change_setting(tmp_path, "servers", added).servers
    assert (servers["box"].credentials, servers["other"].credentials) == (("box",), ())
    servers = change_setting(tmp_path, "servers", {"box": "https://elsewhere.example"}).servers
    assert servers["box"].credentials == () and set(servers) == {"fal", "box"}


def test_a_workflow_cannot_lift_a_limit_that_was_set(fal: FalServer, private_folder: Path) -> None:
    change_setting(private_folder, "max_megapixels_per_run", 0.5 * MEGAPIXELS)
    with pytest.raises(SpendLimitError, match="this run"):
        upscale(fal, private_folder, [photo()], max_megapixels=100000)
    change_setting(private_folder, "max_megapixels_per_run", None)
    change_setting(private_folder, "max_megapixels_per_day", 1.5 * MEGAPIXELS)
    upscale(fal, private_folder, [photo()], max_megapixels=100000)
    with pytest.raises(SpendLimitError, match="today"):
        upscale(fal, private_folder, [photo(1)], max_megapixels=100000, max_cost=10000)
    assert len(fal.jobs) == 1
