"""`creative-upscaler caption` with a tiny captioner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

import tiny_captioners
from creative_upscaler.cli import exit_codes, main
from creative_upscaler.cli.pictures import read_picture
from creative_upscaler.pipelines.captioning import CaptionSettings, caption, load_captioner
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime

ROOT = Path(__file__).parent.parent
CPU = LocalMemory(torch.device("cpu"))
FLAGS = ("--device", "cpu", "--max-tokens", "10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A captioner and two pictures."""
    folder = tmp_path_factory.mktemp("captions")
    tiny_captioners.write_florence2(folder / "captioner")
    for name, picture in (("b.jpg", data.astronaut()), ("a.png", data.chelsea())):
        Image.fromarray(picture).resize((90, 70)).save(folder / name)
    return folder


def run(folder: Path, *arguments: object) -> int:
    return main(["caption", *map(str, arguments), "--captioner", str(folder / "captioner"), *FLAGS])


def expected(path: Path, **settings: object) -> str:
    captioner = load_captioner(path.parent / "captioner", CPU)
    wanted = CaptionSettings(max_tokens=10, **settings)
    return caption(read_picture(path).image, captioner, wanted, Runtime(CPU))[0]


def test_the_caption_of_one_picture_is_all_that_is_printed(folder, capsys):
    assert run(folder, folder / "a.png", "--template", "art, {caption}", "--length", "brief", "--quiet") == 0
    output = capsys.readouterr()
    assert output.out == expected(folder / "a.png", template="art, {caption}", length="brief") + "\n"
    assert output.err == ""


def test_pictures_of_a_folder_are_named_and_failures_do_not_stop_the_others(folder, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    assert run(folder, broken, folder) == exit_codes.SOME_FAILED
    output = capsys.readouterr()
    lines = [f"{folder / name}: {expected(folder / name)}" for name in ("a.png", "b.jpg")]
    assert output.out.splitlines() == lines
    assert output.err.count("broken.png") == 1 and "is no JPEG, PNG or WebP" in output.err
    assert run(folder, broken, folder / "a.png", "--json") == exit_codes.SOME_FAILED
    first, second = json.loads(capsys.readouterr().out)
    assert "error" in first and second["caption"] == expected(folder / "a.png")
    assert second["captioner"] == "captioner"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.png"], exit_codes.USAGE_ERROR, "missing.png does not exist"),
        (["a.png", "--template", "nothing"], exit_codes.USAGE_ERROR, "template: "),
        (["a.png", "--captioner", "."], exit_codes.MODEL_FILE_ERROR, "no config.json"),
        (["a.png", "--device", "nowhere"], exit_codes.USAGE_ERROR, "--device nowhere"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(folder, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(folder)
    command = ["caption", "--captioner", str(folder / "captioner"), *FLAGS, *arguments]
    assert main(command) == code
    assert message in capsys.readouterr().err


def test_help_answers_without_the_engine():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import conftest; "
        "from creative_upscaler.cli import main; code = main(['caption', '--help']); "
        "sys.exit(code or bool({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--strip-words" in done.stdout
