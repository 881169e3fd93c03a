"""Measure ComfyUI's own models in tiles beside other node packs: `python benchmarks/host_models.py --help`.

Every program runs in the same ComfyUI, in a process of its own with the same flags, on the same weights
(random), picture and output size, with its own default tiles. It is measured twice: all with the same number
of evaluated steps, and all with the same settings, of which each evaluates what it does at a strength of .5.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from creative import describe_hardware, has_cuda
from host_report import OURS, REFERENCES, print_case, say
from jobs import CONTROL_WEIGHT, CREATIVITY, GUIDANCE, Job, UnavailableError
from seams import seam_ratio

CHECKOUTS = {
    **dict.fromkeys(("ultimate", "ultimate half-tile"), "ultimate"),
    **dict.fromkeys(("multidiffusion", "mixture", "spot"), "tiled-diffusion"),
}
"""What must be given by path for a program to run."""
PROGRAMS = (*REFERENCES, *OURS, *CHECKOUTS)

CASES = ("equal", "settings")
"""With the same number of evaluated steps; and with the same number in the widget called steps (20 by default
in all): of it KSampler and UltimateSDUpscale evaluate all steps at any strength, ours only its share."""


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.child:
        name, job, file = arguments.child
        Path(file).write_text(json.dumps(measure(name, Job(**json.loads(job)))))
        return 0
    device = arguments.device or ("cuda" if has_cuda() else "cpu")
    hardware = describe_hardware(device)
    job = Job(
        family=arguments.family,
        size=arguments.size,
        scale=arguments.scale,
        steps=arguments.steps,
        dtype=arguments.dtype or ("float32" if device == "cpu" else "bfloat16"),
        device=device,
        checkouts={
            "comfyui": arguments.comfyui,
            **dict(pair.split("=", 1) for pair in arguments.peers.split(",") if pair),
        },
    )
    programs = arguments.programs.split(",")
    say(
        f"{job.family} networks with random weights, {job.size}² to {job.side}² px, denoising strength "
        f"{CREATIVITY}, guidance {GUIDANCE}, ControlNet at {CONTROL_WEIGHT}, {job.dtype} on {device}, "
        "ComfyUI with --use-pytorch-cross-attention"
    )
    say(
        f"{hardware['device']}, {hardware['cores']} cores, load {hardware['load']:.1f}; "
        f"torch {hardware['torch']}, Python {hardware['python']}"
    )
    record: dict[str, Any] = {"hardware": hardware, "job": job.to_dict(), "cases": {}}
    for case in arguments.cases.split(","):
        results = record["cases"][case] = {}
        for name in programs:
            steps = steps_of(case, name, arguments.steps)
            if steps:
                results[name] = run_alone(name, Job(**{**job.to_dict(), "steps": steps}))
                add_seams(record["cases"])
                if arguments.json:  # as far as it is, since all of it takes long
                    Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")
        print_case(case, results)
    failed = [
        result for results in record["cases"].values() for result in results.values() if "error" in result
    ]
    return 1 if failed else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", required=False, metavar="PATH", help="checkout of ComfyUI")
    parser.add_argument(
        "--peers", default="", metavar="NAME=PATH,...", help="checkouts: ultimate=..., tiled-diffusion=..."
    )
    parser.add_argument("--family", choices=("sd15", "sdxl", "narrow", "tiny"), default="narrow")
    parser.add_argument("--size", type=int, default=512, help="side of the input in pixels")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20, help="nominal; at equal steps half are evaluated")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {' and '.join(CASES)}")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--json", metavar="FILE", help="write everything measured here")
    parser.add_argument("--child", nargs=3, metavar=("PROGRAM", "JOB", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not arguments.child and not arguments.comfyui:
        parser.error("--comfyui PATH is needed: everything here runs inside ComfyUI")
    return arguments


def steps_of(case: str, name: str, steps: int) -> int:
    """How many steps a program evaluates when `steps` are asked for; 0 where it has no part."""
    if case == "equal":
        return round(steps * CREATIVITY)
    if name in REFERENCES:
        return 0
    return round(steps * CREATIVITY) if name == "ours" else steps


def run_alone(name: str, job: Job) -> dict[str, Any]:
    """Measure a program in a fresh process; a dictionary of figures, or of `unavailable` or `error`."""
    needed = CHECKOUTS.get(name)
    if needed is not None and needed not in job.checkouts:
        return {"unavailable": f"no checkout of {needed} was given"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--child", name, json.dumps(job.to_dict()), str(file)]
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if file.exists():
            return json.loads(file.read_text())
    return {"error": f"exit status {process.returncode}: {process.stderr.strip()[-2000:]}"}


def add_seams(cases: dict[str, Any]) -> None:
    """Put `seam` into all results, beside the untiled picture of as many steps in any case."""
    every = [result for results in cases.values() for result in results.values() if "profiles" in result]
    untiled = [results["untiled"] for results in cases.values() if "untiled" in results]
    for result in every:
        for control in untiled:
            if control.get("steps") == result["steps"]:
                result["seam"] = seam_ratio(result["profiles"], control["profiles"])


def measure(name: str, job: Job) -> dict[str, Any]:
    """Run a program in this process and take its figures."""
    torch, metering, programs, seams = (
        importlib.import_module(module) for module in ("torch", "metering", "host_programs", "seams")
    )
    device = torch.device(job.device)
    try:
        program = programs.PROGRAMS[name](job)
    except UnavailableError as error:
        return {"unavailable": str(error)}
    meter = metering.Meter(program.networks, device, dry=False)
    if device.type == "cuda":
        # Kernels are chosen and caches filled in the first run; on a CPU that is a trifle.
        program.run()
        meter.reset()
    image, total = metering.timed_run(program.run, device, job.side)
    inside = meter.seconds()
    return {
        "settings": program.settings,
        "steps": job.steps,
        "evaluations": meter.samples["sample"],
        "shapes": sorted(meter.shapes["sample"]),
        "tflop": meter.flop["sample"] / 1e12,
        "seconds": {**inside, "outside": total - sum(inside.values()), "total": total},
        "peak_bytes": metering.peak_bytes(device),
        "profiles": seams.profiles(image),
    }


if __name__ == "__main__":
    sys.exit(main())
