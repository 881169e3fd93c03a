"""`creative-upscaler remote`, against the local server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from creative_upscaler.cli import exit_codes, main
from creative_upscaler.cli.metadata import read_record
from fal_server import KEY, FalServer, enlarge
from remote_calls import ENDPOINT, all_bytes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        values = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(values).save(folder / name)
    return folder


@pytest.fixture
def remote(private_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FAL_KEY", KEY)
    monkeypatch.setenv("CREATIVE_UPSCALER_HOME", str(private_folder))
    needs_endpoint = ("status", "result", "cancel", "submit")

    def run(*arguments: object) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        if words[0] in needs_endpoint or "-o" in words:
            words += ["--endpoint", ENDPOINT]
        code = main(["remote", *words])
        captured = capsys.readouterr()
        assert KEY not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def test_pictures_are_upscaled_and_say_how(fal: FalServer, remote, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (pictures, "-o", out, "--prompt", "a cat", "--seed", 5, "--scale", 3, "--json")
    code, text, heard = remote(*arguments)
    assert code == exit_codes.OK
    answers = {Path(answer["output"]).name: answer for answer in json.loads(text)}
    for name, seed in (("a.png", 5), ("b.png", 6)):
        result = Image.open(out / name)
        expected = enlarge(Image.open(pictures / name), {"scale": 3})
        assert np.array_equal(np.array(result), np.array(expected))
        assert answers[name]["seed"] == str(seed) and answers[name]["request_id"] in fal.jobs
        assert read_record(out / name)["models"]["request"] == answers[name]["request_id"]
    assert "2 requests, 0.0 megapixels" in heard and "1/2 a.png: done" in heard
    assert remote(*arguments)[0] == exit_codes.USAGE_ERROR  # the results exist
    assert remote(*arguments, "--overwrite", "--quiet")[0] == exit_codes.OK
    assert len(fal.jobs) == 2


def test_requests_are_submitted_asked_about_collected_and_cancelled(
    fal: FalServer, remote, pictures: Path, tmp_path: Path
) -> None:
    fal.hold = True
    code, text, _ = remote("submit", pictures, "--webhook-url", "https://example.com/hook")
    first, second = text.split()
    assert fal.jobs[first].webhook == "https://example.com/hook"
    time.sleep(0.1)
    assert remote("status", first)[1].split() == [first, "IN_PROGRESS"]
    answer = json.loads(remote("cancel", second, "--json")[1])
    assert answer == [{"request_id": second, "status": "CANCELLATION_REQUESTED"}]
    assert fal.jobs[second].cancelled_at
    fal.release()
    code, _, heard = remote("result", first, second, "-o", tmp_path / "results")
    assert code == exit_codes.SOME_FAILED and second in heard
    assert Image.open(tmp_path / "results" / f"{first}.png").size == (32, 24)
    assert remote("result", first, "-o", tmp_path / "one.jpg")[0] == exit_codes.OK
    listed = {e["request_id"]: e["state"] for e in json.loads(remote("list", "--json")[1])}
    assert listed == {first: "done", second: "failed"}
    assert first in remote("list")[1]
    assert remote("status", "00000000-not-there")[0] == exit_codes.SOME_FAILED
    assert len(fal.jobs) == 2


def test_a_key_is_read_from_standard_input_and_used(
    fal: FalServer,
    remote,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    private_folder: Path,
) -> None:
    monkeypatch.delenv("FAL_KEY")
    code, _, heard = remote(pictures, "-o", tmp_path / "out")
    assert code == exit_codes.USAGE_ERROR and "remote key" in heard
    monkeypatch.setattr("sys.stdin", io.StringIO(KEY + "\n"))
    assert remote("key")[0] == exit_codes.OK
    assert (private_folder / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert remote(pictures / "a.png", "-o", tmp_path / "a.png")[0] == exit_codes.OK
    assert remote("key", "--delete")[0] == exit_codes.OK
    assert KEY.encode() not in all_bytes(private_folder)


def test_wrong_usage_costs_nothing(fal: FalServer, remote, pictures: Path, tmp_path: Path) -> None:
    for arguments in (
        (pictures, "-o", tmp_path, "--scale", "9"),
        (pictures, "-o", tmp_path, "--base-model-url", "http://example.com/a.ckpt"),
        (pictures, "-o", tmp_path, "--max-megapixels", "0.0001"),
        (tmp_path / "missing", "-o", tmp_path),
        ("submit", pictures, "--webhook-url", "http://example.com"),
        (pictures,),
    ):
        assert remote(*arguments)[0] == exit_codes.USAGE_ERROR, arguments
    assert fal.jobs == {} and remote("--help")[0] == exit_codes.OK


def test_ctrl_c_cancels(fal: FalServer, private_folder: Path, pictures: Path, tmp_path: Path) -> None:
    fal.hold = True
    tests = Path(__file__).parent
    program = (
        f"import importlib.util, sys; spec = importlib.util.spec_from_file_location('conftest', "
        f"{str(tests.parent / 'conftest.py')!r}); "
        "spec.loader.exec_module(importlib.util.module_from_spec(spec)); "
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from creative_upscaler.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "remote", str(pictures), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "FAL_KEY": KEY, "CREATIVE_UPSCALER_HOME": str(private_folder)}
    process = subprocess.Popen(
        [*command, "--endpoint", ENDPOINT], env=environment, stderr=subprocess.PIPE, text=True
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    while process.poll() is None and len(fal.named("status")) < 4:
        time.sleep(0.02)
    moment = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, heard = process.communicate()
    killer.cancel()
    assert process.returncode == exit_codes.INTERRUPTED, heard
    assert [job.cancelled_at - moment < 1 for job in fal.jobs.values()] == [True, True]
    assert "interrupted" in heard and "Traceback" not in heard and KEY not in heard
