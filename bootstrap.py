"""Do everything needed for one job on a bare machine with Python 3.10+:

    python3 bootstrap.py demo   upscale a photograph with the starter models; shows before and after
    python3 bootstrap.py test   check style and types and run all tests

Makes a virtual environment in `.venv` beside this file and installs the pack's requirements into it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main() -> int:
    jobs = {"demo": demo, "test": test}
    if sys.version_info < (3, 10):  # noqa: UP036 - the one file an older Python may be asked to run
        sys.exit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in jobs:
        sys.exit(__doc__)
    return jobs[sys.argv[1]](sys.argv[2:])


def demo(arguments: list[str]) -> int:
    """Upscale the cat of `assets/` through the command line with the starter models, without a network."""
    install(".[standalone]")
    source, folder = Path("assets/chelsea.png"), ROOT / "demo"
    folder.mkdir(exist_ok=True)
    result, both = folder / "chelsea_2x.png", folder / "chelsea_before_after.png"
    command: list[str | Path] = [PYTHON, "-m", "creative_upscaler.cli", "upscale", source, "-o", result]
    # The checker is a download of 1.2 GB, and this is a picture of a cat.
    command += ["--no-enable-safety-checks", "--seed", "1", "--overwrite"]
    run([*command, *arguments])
    run([PYTHON, "benchmarks/before_after.py", source, result, both])
    print(f"\nThe picture is in {result}\nBefore and after, side by side: {both}")
    return 0


def test(arguments: list[str]) -> int:
    """Run ruff, mypy and pytest; the tests with a real ComfyUI too where one is found."""
    hosts = [Path(path) for path in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if path]
    hosts = hosts or sorted(main.parent for main in Path.home().glob("ComfyUI*/main.py"))
    install(".[standalone,test]", *(f"-r{hosts[0] / 'requirements.txt'}" for _ in hosts[:1]))
    checks = [
        [PYTHON, "-m", "ruff", "check", "."],
        [PYTHON, "-m", "ruff", "format", "--check", "."],
        [PYTHON, "-m", "mypy"],
        # A core for each process: small networks gain nothing from a second one.
        [PYTHON, "-m", "pytest", "-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadgroup", *arguments],
    ]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return max([subprocess.run(check, cwd=ROOT, env=environment).returncode for check in checks])


def install(*requirements: str) -> None:
    """Install the pack, editable, with these requirements, unless they are there already."""
    if not PYTHON.exists():
        print(f"Making a virtual environment in {ENVIRONMENT.name}", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT]).returncode:
            sys.exit(
                "Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv"
            )
    print("Installing what is needed; the first time that takes some minutes", flush=True)
    began = time.monotonic()
    run(
        [
            PYTHON,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            "constraints.txt",
            "-e",
            requirements[0],
            *requirements[1:],
        ]
    )
    print(f"Installed in {time.monotonic() - began:.0f} s", flush=True)


def run(command: list[str | Path]) -> None:
    """Run a command in the repository; stop with its exit code if it fails."""
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
