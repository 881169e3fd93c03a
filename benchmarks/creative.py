"""Measure the creative upscale beside other programs for it: `python benchmarks/creative.py --help`.

Every program runs in a process of its own, with networks of the published size and random weights, on the
same picture, to the same size, with the same evaluated steps, guidance and ControlNet, in the same type.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs import Job, UnavailableError
from report import print_hardware, print_report

PROGRAMS = {
    "ours": "ours",
    "diffusers": "peers.untiled",
    "refiners": "peers.refiners",
    "tiled-diffusion": "peers.tiled_diffusion",
    "ultimate": "peers.ultimate",
}
"""Name and module of each program."""

CHECKOUTS = {
    "refiners": ("refiners",),
    "tiled-diffusion": ("tiled-diffusion", "comfyui"),
    "ultimate": ("ultimate", "comfyui"),
}
"""What must be given by path for a program to run."""

MODES: dict[str, dict[str, Any]] = {
    "compare": {"family": "sd15", "size": 512, "scale": 2.0, "steps": 2},
    "flops-only": {"family": "sd15", "size": 1024, "scale": 2.0, "steps": 10, "dry": True},
    "outside": {"family": "sd15", "size": 512, "scale": 2.0, "steps": 2, "programs": "ours"},
    "huge": {"family": "tiny", "size": 4096, "scale": 2.0, "steps": 1, "programs": "ours"},
    "gpu": {"family": "sd15", "size": 512, "scale": 4.0, "steps": 10, "programs": "ours"},
    "gpu-huge": {"family": "sd15", "size": 4096, "scale": 2.0, "steps": 1, "programs": "ours"},
}
"""What each mode measures unless flags say otherwise."""


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.child:
        Path(arguments.json).write_text(
            json.dumps(measure(arguments.child[0], Job(**json.loads(arguments.child[1]))))
        )
        return 0
    settings = settings_of(arguments)
    hardware = describe_hardware(settings["device"])
    print_hardware(hardware, settings)
    jobs = {name: Job(**settings["job"]) for name in settings["programs"]}
    results = {name: run_alone(name, job) for name, job in jobs.items()}
    record = {"hardware": hardware, **settings, "programs": results}
    print_report(record)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all("error" not in result for result in results.values()) else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    for name, help in (
        ("flops-only", "count operations at 2048 px without computing networks (target: .75 of refiners')"),
        ("outside", "share of the time outside the networks at 1024 px (target: 5 %%)"),
        ("huge", "peak memory at 8192 px with tiny networks (target: 4 outputs + networks)"),
        ("gpu", "512 to 2048 px in 10 steps on CUDA (target: 3 s, half the matmul rate)"),
        ("gpu-huge", "device memory at 8192 px on CUDA (target: 8 GB)"),
    ):
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=help)
    parser.set_defaults(mode="compare")
    parser.add_argument("--family", choices=("sd15", "sdxl", "narrow", "tiny"), help="size of the networks")
    parser.add_argument("--size", type=int, help="side of the input in pixels")
    parser.add_argument("--scale", type=float)
    parser.add_argument("--steps", type=int, help="evaluated steps")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--programs", help=f"comma separated, of {', '.join(PROGRAMS)}")
    parser.add_argument(
        "--peers", default="", metavar="NAME=PATH,...", help="checkouts of the programs given by name"
    )
    parser.add_argument(
        "--comfyui", metavar="PATH", help="checkout of ComfyUI, for tiled-diffusion and ultimate"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured here")
    parser.add_argument("--child", nargs=2, metavar=("PROGRAM", "JOB"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings in full: mode, programs, device, and the `job` common to all programs."""
    job = {"dry": False, "programs": ",".join(PROGRAMS), **MODES[arguments.mode]}
    given = ("family", "size", "scale", "steps", "programs", "dtype", "device")
    job |= {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    if "device" not in job:
        job["device"] = "cpu" if job["dry"] or not has_cuda() else "cuda"
    job.setdefault("dtype", "float32" if job["device"] == "cpu" else "bfloat16")
    checkouts = dict(pair.split("=", 1) for pair in arguments.peers.split(",") if pair)
    if arguments.comfyui:
        checkouts["comfyui"] = arguments.comfyui
    programs = job.pop("programs").split(",")
    unknown = {*programs, *checkouts} - {*PROGRAMS, "comfyui"}
    if unknown:
        raise SystemExit(f"unknown program {', '.join(unknown)}; known are {', '.join(PROGRAMS)}")
    return {
        "mode": arguments.mode,
        "device": job["device"],
        "programs": programs,
        "job": {**job, "checkouts": checkouts},
    }


def run_alone(name: str, job: Job) -> dict[str, Any]:
    """Measure a program in a fresh process; a dictionary of figures, or of `unavailable` or `error`."""
    if missing := [checkout for checkout in CHECKOUTS.get(name, ()) if checkout not in job.checkouts]:
        return {"unavailable": f"no checkout of {' and '.join(missing)} was given"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [
            sys.executable,
            __file__,
            "--json",
            str(result),
            "--child",
            name,
            json.dumps(job.to_dict()),
        ]
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if result.exists():
            return json.loads(result.read_text())
    return {"error": f"exit status {process.returncode}: {process.stderr.strip()[-2000:]}"}


def measure(name: str, job: Job) -> dict[str, Any]:
    """Run a program in this process and take its figures."""
    torch = importlib.import_module("torch")
    metering = importlib.import_module("metering")
    device = torch.device(job.device)
    try:
        program = importlib.import_module(PROGRAMS[name]).prepare(job)
    except UnavailableError as error:
        return {"unavailable": str(error)}
    except ModuleNotFoundError as error:
        return {"unavailable": f"it needs the Python package {error.name}"}
    meter = metering.Meter(program.networks, device, dry=job.dry)
    weights = {
        id(p): p.numel() * p.element_size()
        for modules in program.networks.values()
        for module in modules
        for p in module.parameters()
    }
    resident = metering.resident_bytes()
    if device.type == "cuda" or (job.family == "tiny" and job.side <= 2048):
        # Kernels are chosen and caches filled in the first run; on slow devices that is a trifle.
        program.run()
        meter.reset()
    _, total = metering.timed_run(program.run, device, job.side)
    figures = {
        "settings": program.settings,
        "evaluations": meter.samples["sample"],
        "shapes": {phase: sorted(shapes) for phase, shapes in meter.shapes.items()},
        "tflop": {phase: flop / 1e12 for phase, flop in meter.flop.items()},
        "tflop_per_megapixel": sum(meter.flop.values()) / 1e12 / (job.side**2 / 1e6),
    }
    if job.dry:
        return figures
    inside = meter.seconds()
    seconds = {**inside, "outside": total - sum(inside.values()), "total": total}
    figures |= {
        "seconds": seconds,
        "outside_share": seconds["outside"] / total,
        "megapixels_per_second": job.side**2 / 1e6 / total,
        "tflop_per_second": sum(meter.flop.values()) / 1e12 / total,
        "peak_bytes": metering.peak_bytes(device),
        "network_bytes": sum(weights.values()),
        "bytes_before": resident,
        "output_bytes": 3 * 4 * job.side**2,
    }
    if device.type == "cuda":
        figures["matmul_tflop_per_second"] = metering.matmul_rate(getattr(torch, job.dtype), device) / 1e12
    return figures


def has_cuda() -> bool:
    return importlib.import_module("torch").cuda.is_available()


def describe_hardware(device: str) -> dict[str, Any]:
    on_cpu = device == "cpu"  # then this process does without torch, which is slow to import
    return {
        "device": processor() if on_cpu else importlib.import_module("torch").cuda.get_device_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    sys.exit(main())
