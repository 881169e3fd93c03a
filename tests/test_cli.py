"""The command line with its real engine: tiny checkpoints, or creativity 0 where no redraw is needed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from creative_upscaler.cli import exit_codes, main, upscaling
from creative_upscaler.cli.arguments import build_parser
from creative_upscaler.cli.metadata import read_record
from creative_upscaler.cli.progress import Display
from creative_upscaler.pipelines import starter
from creative_upscaler.pipelines.errors import MemoryLimitError, ModelFileError, ParameterError
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.resizing import resize

ROOT = Path(__file__).parent.parent
RESIZE = ["--creativity", "0"]


def save(path: Path, seed: int = 0, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def _without_starter_models(monkeypatch):
    """They would be used where these tests name no model."""
    monkeypatch.setattr(starter, "UPSCALER", Path("none"))
    monkeypatch.setattr(starter, "DIFFUSION", Path("none"))


@pytest.fixture
def picture(tmp_path):
    return save(tmp_path / "in" / "a.png")


@pytest.fixture
def redraw(sd15_files):
    base, controlnet = sd15_files
    flags = [
        "--checkpoint",
        base,
        "--controlnet",
        controlnet,
        "--device",
        "cpu",
        "--num-inference-steps",
        "2",
    ]
    return [str(flag) for flag in flags]


def run(*arguments: object) -> int:
    """The command with these arguments; without a safety checker unless they are about one."""
    given = [str(argument) for argument in arguments]
    unchecked = [] if any("safety-check" in argument for argument in given) else ["--no-enable-safety-checks"]
    return main(["upscale", *given, *unchecked])


def test_a_picture_is_redrawn_and_says_how(tmp_path, picture, redraw, capsys):
    out = tmp_path / "out.png"
    flags = [
        "--base-model-url",
        *redraw[1:],
        "--prompt",
        "a (cat:1.2) 🐈",
        "--seed",
        "7",
        "--scale",
        "1.5",
        "--json",
    ]
    assert run(picture, "-o", out, *flags) == 0
    output = capsys.readouterr()
    (result,) = json.loads(output.out)  # and nothing else is there
    assert (result["width"], result["height"], result["seed"]) == (18, 12, 7)
    assert result["prompt"].startswith("a (cat:1.2) 🐈 high quality")
    assert Image.open(out).size == (18, 12)
    record = read_record(out)
    assert record["settings"]["scale"] == 1.5
    assert record["models"] == {"checkpoint": "base.safetensors", "controlnet": "tile.safetensors"}
    assert record["safety_checked"] is False
    assert str(tmp_path) not in json.dumps(record)
    assert str(Path(redraw[1]).parent) not in json.dumps(record)


def test_from_image_repeats_a_result_and_flags_given_win(tmp_path, picture, redraw):
    first, again, other = (tmp_path / f"{name}.png" for name in ("first", "again", "other"))
    assert run(picture, "-o", first, *redraw, "--prompt", "a cat", "--width", "18") == 0
    assert run(picture, "-o", again, *redraw[:-2], "--from-image", first) == 0
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert run(picture, "-o", other, *redraw[:-2], "--from-image", first, "--scale", "1") == 0
    assert Image.open(other).size == (12, 8)
    assert read_record(other)["seed"] == read_record(first)["seed"]
    assert read_record(other)["settings"]["prompt"] == "a cat"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_settings_are_taken_from_every_format(tmp_path, picture, name):
    assert run(picture, "-o", tmp_path / name, *RESIZE, "--scale", "3", "--prompt", "Käthe") == 0
    assert run(picture, "-o", tmp_path / "again.png", "--from-image", tmp_path / name) == 0
    assert read_record(tmp_path / "again.png")["settings"] == read_record(tmp_path / name)["settings"]


def test_a_preset_given_beside_a_picture_wins_over_its_settings(tmp_path, picture):
    assert run(picture, "-o", tmp_path / "x.png", *RESIZE, "--sampler", "euler", "--detail", "3") == 0
    flags = ["--from-image", tmp_path / "x.png", "--preset", "clarity", *RESIZE]
    assert run(picture, "-o", tmp_path / "y.png", *flags) == 0
    settings = read_record(tmp_path / "y.png")["settings"]
    assert (settings["sampler"], settings["detail"]) == ("dpmpp_3m_sde", 0.5)


def test_the_picture_is_what_the_engine_makes(tmp_path, picture):
    assert run(picture, "-o", tmp_path / "x.png", *RESIZE) == 0
    source = torch.from_numpy(np.asarray(Image.open(picture)).copy()).permute(2, 0, 1)[None] / 255
    expected = (resize(source, (16, 24)) * 255).round()[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), expected)


def test_folders_and_files_are_taken_and_models_loaded_once(tmp_path, redraw, monkeypatch, capsys):
    for name in ("in/b.png", "in/a.jpg", "more/c.webp", "in/deeper/unwanted.png"):
        save(tmp_path / name)
    (tmp_path / "in" / "notes.txt").touch()
    loads = []
    load = upscaling.load_models
    monkeypatch.setattr(upscaling, "load_models", lambda *a, **k: loads.append(1) or load(*a, **k))
    arguments = [tmp_path / "in", tmp_path / "more" / "c.webp", "-o", tmp_path / "out", *redraw, "--json"]
    assert run(*arguments, "--scale", "1", "--seed", "5") == 0
    results = json.loads(capsys.readouterr().out)
    assert [Path(result["output"]).name for result in results] == ["a.jpg", "b.png", "c.webp"]
    assert [result["seed"] for result in results] == [5, 5, 5]
    assert len(loads) == 1


def test_without_a_seed_every_picture_has_its_own(tmp_path, picture, capsys):
    save(picture.with_name("b.png"))
    assert run(picture.parent, "-o", tmp_path / "out", *RESIZE, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["seed"] != second["seed"]


def test_the_family_follows_the_checkpoint_unless_it_was_given(tmp_path, picture, sdxl_files, capsys):
    base, controlnet = sdxl_files
    flags = ["--checkpoint", base, "--controlnet", controlnet, "--num-inference-steps", "1", "--scale", "1"]
    assert run(picture, "-o", tmp_path / "x.png", *flags, "--creativity", "1") == 0
    assert read_record(tmp_path / "x.png")["settings"]["model_type"] == "SDXL"
    code = run(picture, "-o", tmp_path / "y.png", *flags, "--model-type", "SD_1_5")
    assert code == exit_codes.MODEL_FILE_ERROR
    assert "SDXL" in capsys.readouterr().err


def test_a_failed_picture_does_not_stop_the_others(tmp_path, picture, capsys):
    (picture.parent / "b.png").write_text("no picture")
    save(picture.with_name("c.png"))
    code = run(picture.parent, "-o", tmp_path / "out", *RESIZE, "--json")
    output = capsys.readouterr()
    results = json.loads(output.out)
    assert code == exit_codes.SOME_FAILED
    assert ["error" in result for result in results] == [False, True, False]
    assert "b.png" in output.err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_an_interrupted_batch_keeps_what_is_finished_and_resumes(tmp_path, picture, monkeypatch, capsys):
    for name in ("b.png", "c.png"):
        save(picture.with_name(name), seed=1)
    made = []
    engine = upscaling.run_stages

    def interrupted(image, *arguments, **details):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(1)
        return engine(image, *arguments, **details)

    monkeypatch.setattr(upscaling, "run_stages", interrupted)
    arguments = [picture.parent, "-o", tmp_path / "out", *RESIZE, "--json"]
    assert run(*arguments) == exit_codes.INTERRUPTED
    output = capsys.readouterr()
    assert len(json.loads(output.out)) == 1
    assert "1 of 3" in output.err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]

    monkeypatch.setattr(upscaling, "run_stages", engine)
    assert run(*arguments) == exit_codes.USAGE_ERROR  # a.png is never overwritten by accident
    assert "--resume" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0
    assert [result["skipped"] for result in json.loads(capsys.readouterr().out)] == [True, False, False]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_terminal_gets_a_bar_and_anything_else_a_line_per_picture(monkeypatch, quiet, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    display = Display(3, quiet=quiet)
    display.start("a.png")
    display("redraw", 0, 10)
    display("redraw", 5, 10)
    display.line("a.png is done")
    display.close()
    shown = sys.stderr.getvalue()
    assert ("1/3 a.png is done" in shown) is not quiet
    assert ("1/3 a.png: redraw" in shown and "left" in shown) is (stream is Terminal and not quiet)


@pytest.mark.parametrize("change", ["settings", "seed", "source", "upscaler"])
def test_resume_does_not_take_another_result_for_done(tmp_path, picture, change, capsys, monkeypatch):
    arguments = [picture, "-o", tmp_path / "out.png", *RESIZE]
    assert run(*arguments, "--seed", "1", "--prompt", "x") == 0
    settings = {"seed": ["--seed", "2"], "settings": ["--prompt", "y"], "upscaler": ["--upscaler", "u.pth"]}
    if change == "source":
        save(picture, seed=9)
    other = [*arguments, "--seed", "1", "--prompt", "x", *settings.get(change, [])]
    before = (tmp_path / "out.png").read_bytes()
    assert run(*other, "--resume") == exit_codes.USAGE_ERROR
    assert "other settings or from another input" in capsys.readouterr().err
    assert (tmp_path / "out.png").read_bytes() == before
    if change != "upscaler":
        assert run(*other, "--resume", "--overwrite") == 0
        assert (tmp_path / "out.png").read_bytes() != before


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--creativity", "2"], "creativity: got 2.0; allowed is a number from 0 to 1"),
        (["--creativity", "nan"], "creativity: got nan"),
        (["--sampler", "magic"], "sampler: got 'magic'"),
        (["--seed", "1.5"], "--seed"),
        (["--creativty", "1"], "--creativty"),
        ([], "give --checkpoint FILE, or --creativity 0"),
        (["--checkpoint", "x.safetensors"], "give --controlnet FILE, or --shape-preservation 0"),
        (["--lora", "https://example.com/x:0.5"], "the setting that ends in -url"),
        (["--base-model-url", "x", "--checkpoint", "y"], "are the same"),
        ([*RESIZE, "--device", "abacus"], "--device abacus"),
        ([*RESIZE, "--format", "jpeg"], "--format jpeg does not fit"),
        ([*RESIZE, "--quality", "0"], "from 1 to 100"),
        ([*RESIZE, "--from-image", __file__], "no picture that creative-upscaler has written"),
    ],
)
def test_wrong_usage_writes_nothing_and_names_the_flag(tmp_path, picture, flags, complaint, capsys):
    assert run(picture, "-o", tmp_path / "x.png", *flags) == exit_codes.USAGE_ERROR
    output = capsys.readouterr()
    assert complaint in output.err
    assert output.out == ""
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("inputs", "out", "complaint"),
    [
        (["missing.png"], "x.png", "does not exist"),
        (["empty"], "out", "holds no picture"),
        (["in"], "x.png", "give a folder"),
        (["in/a.png"], "in/a.png", "replace its own input"),
        (["in"], "in", "replace its own input"),
        (["in/a.png", "twin/a.png"], "out", "would both become"),
        (["in/a.png"], "taken.png", "give --resume or --overwrite"),
        (["in/a.png"], "notes.txt", "neither a folder nor a picture"),
    ],
)
def test_paths_that_clash_are_refused(tmp_path, picture, inputs, out, complaint, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    save(tmp_path / "twin" / "a.png")
    save(tmp_path / "taken.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    flags = ["--overwrite"] if "own input" in complaint else []
    code = run(*(tmp_path / name for name in inputs), "-o", tmp_path / out, *RESIZE, *flags)
    assert code == exit_codes.USAGE_ERROR
    assert complaint in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("flag", ["--checkpoint", "--upscaler", "--lora"])
def test_a_bad_model_file_has_its_own_exit_code(tmp_path, picture, redraw, flag, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    code = run(picture, "-o", tmp_path / "x.png", *redraw, flag, tmp_path / "bad.safetensors")
    assert code == exit_codes.MODEL_FILE_ERROR
    assert "bad.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ParameterError("seed", "does not suit"), exit_codes.USAGE_ERROR),
        (ModelFileError("x", "does not fit"), exit_codes.MODEL_FILE_ERROR),
        (MemoryLimitError("too small"), exit_codes.SOME_FAILED),
        (RuntimeError("a defect"), exit_codes.SOME_FAILED),
    ],
)
def test_what_the_engine_raises_decides_the_exit_code(tmp_path, picture, monkeypatch, error, code, capsys):
    def fail(*arguments, **details):
        raise error

    monkeypatch.setattr(upscaling, "run_stages", fail)
    assert run(picture, "-o", tmp_path / "x.png", *RESIZE) == code
    assert str(error) in capsys.readouterr().err


def test_weighted_loras_and_model_urls_reach_the_engine(tmp_path, picture, monkeypatch):
    asked = {}

    def load(base, **files):
        asked.update(files, base=base)
        raise KeyboardInterrupt

    monkeypatch.setattr(upscaling, "load_models", load)
    flags = ["--base-model-url", "m.ckpt", "--shape-preservation", "0", "--lora", "a.safetensors:-0.5"]
    flags += ["--lora", "b.safetensors", "--additional-lora-url", "c.safetensors"]
    flags += ["--additional-lora-scale", "0.3", "--embedding", "e.pt", "--additional-embedding-url", "f.pt"]
    assert run(picture, "-o", tmp_path / "x.png", *flags) == exit_codes.INTERRUPTED
    names = ("a.safetensors", "b.safetensors", "c.safetensors")
    assert asked["base"] == Path("m.ckpt")
    assert asked["loras"] == list(zip(map(Path, names), (-0.5, 1.0, 0.3), strict=True))
    assert asked["embeddings"] == [Path("e.pt"), Path("f.pt")]


def test_every_declared_setting_is_a_flag_with_its_range_and_default(tmp_path):
    parser = build_parser()
    upscale = parser._subparsers._group_actions[0].choices["upscale"]
    help = " ".join(upscale.format_help().split())
    for parameter in UpscaleParameters.declared():
        flag = "--" + parameter.name.replace("_", "-")
        assert flag in upscale._option_string_actions
        assert " ".join(parameter.help.split()) in help
        assert parameter.allowed in help
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code} {meaning}" in help


def test_the_table_has_every_setting(capsys):
    assert main(["parameters"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(UpscaleParameters.declared())
    assert all(row.count(" | ") == 4 for row in rows if not row.startswith("|---"))
    assert rows[5].startswith("| `creativity` | 0.5 |")


def test_help_answers_without_importing_the_engine():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import conftest; "
        "from creative_upscaler.cli import main; "
        "code = main(['upscale', '--help']); "
        "sys.exit(code or bool({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
    assert time.monotonic() - start < 10
