"""Measure CCSR v1 beside the official program: `python benchmarks/ccsr.py --official CHECKOUT`.

And beside kijai's node: `--kijai CHECKOUT --comfyui CHECKOUT`. All get the same weights (random ones),
picture, output size, noise, tiles and chain, each in a process of its own, without loading in the time; their
results are compared.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from creative import describe_hardware, has_cuda
from jobs import make_picture

ROOT = Path(__file__).parents[1]

FAMILIES: dict[str, dict[str, Any]] = {
    "small": {"width": 32, "head_width": 8, "context": 16, "vae_width": 32},
    "full": {"width": 320, "head_width": 64, "context": 1024, "vae_width": 128},
}
"""Sizes of the networks: those of the reference outputs, and the published ones (10 GB in float32)."""

TOLERANCE, SPEEDUP = 1e-4, 2.5


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", metavar="PATH", help="checkout of csslc/CCSR")
    parser.add_argument("--kijai", metavar="PATH", help="checkout of kijai/ComfyUI-CCSR; needs --comfyui")
    parser.add_argument("--comfyui", metavar="PATH", help="checkout of ComfyUI, for the node")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="small")
    parser.add_argument("--side", type=int, default=768, help="of the output in pixels, a multiple of 64")
    parser.add_argument("--steps", type=int, default=9, help="of the chain; 9 are 4 evaluations, 45 are 16")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", metavar="FILE", help="write everything measured here")
    parser.add_argument("--child", nargs=2, metavar=("PROGRAM", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kijai and not arguments.comfyui:
        parser.error("--kijai needs --comfyui: the node runs inside ComfyUI")
    settings = {
        name: getattr(arguments, name)
        for name in ("official", "kijai", "comfyui", "family", "side", "steps", "tile", "stride", "threads")
    }
    settings |= FAMILIES[arguments.family]
    settings["device"] = arguments.device or ("cuda" if has_cuda() else "cpu")
    if arguments.child:
        measure(arguments.child[0], Path(arguments.child[1]))
        return 0
    hardware = describe_hardware(settings["device"])
    print(f"CCSR v1, {settings['family']} networks with random weights, float32: {settings}")
    print(hardware)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "settings.json").write_text(json.dumps(settings))
        write_weights(Path(folder), settings)
        programs = ["ours", *(name for name in ("official", "kijai") if settings[name])]
        figures = {name: run_alone(name, Path(folder)) for name in programs}
        passed = report(figures, Path(folder))
    if arguments.json:
        record = {"hardware": hardware, "settings": settings, "programs": figures}
        Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")
    return 0 if passed else 1


def write_weights(folder: Path, settings: dict[str, Any]) -> None:
    torch, files = importlib.import_module("torch"), load_test_module("ccsr_files")
    unet = {
        "block_out_channels": tuple(settings["width"] * m for m in (1, 2, 4, 4)),
        "attention_head_dim": tuple(settings["width"] * m // settings["head_width"] for m in (1, 2, 4, 4)),
        "cross_attention_dim": settings["context"],
        "vae_channels": tuple(settings["vae_width"] * m for m in (1, 2, 4, 4)),
    }
    text = {"cond_stage_model.emb": torch.randn(1, 77, settings["context"])}
    files.write_v1(folder / "ccsr.safetensors", text, **unet)


def run_alone(name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    result = folder / f"{name}.json"
    if not result.exists():
        return {"error": f"exit status {process.returncode}: {process.stderr.strip()[-2000:]}"}
    return json.loads(result.read_text())


def measure(name: str, folder: Path) -> None:
    """Run one program in this process and leave its picture and figures in `folder`."""
    torch, metering = importlib.import_module("torch"), importlib.import_module("metering")
    settings = json.loads((folder / "settings.json").read_text())
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    device = torch.device(settings["device"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    prepare = {"ours": prepare_ours, "official": prepare_official, "kijai": prepare_kijai}[name]
    run = prepare(folder, settings, device)
    image = make_picture(settings["side"])
    noise = torch.randn(
        1, 4, *(side // 8 for side in image.shape[2:]), generator=torch.Generator().manual_seed(1)
    )
    if device.type == "cuda":
        run(image, noise)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    before, start = metering.resident_bytes(), time.perf_counter()
    torch.manual_seed(5)
    with torch.no_grad():
        result = run(image, noise).cpu()
    seconds = time.perf_counter() - start
    torch.save(result, folder / f"{name}.pt")
    figures = {"seconds": seconds, "peak_bytes": metering.peak_bytes(device), "bytes_before": before}
    (folder / f"{name}.json").write_text(json.dumps(figures))


def prepare_ours(folder: Path, settings: dict[str, Any], device: Any) -> Any:
    load_test_module("ccsr_files")  # makes the package importable
    torch = importlib.import_module("torch")
    package = "creative_upscaler.pipelines."
    loading, upscaling, declared, runtime, architectures = (
        importlib.import_module(package + name)
        for name in ("ccsr.loading", "ccsr.upscaling", "ccsr.settings", "runtime", "models.architectures")
    )
    architectures.HEAD_WIDTH = settings["head_width"]
    memory = runtime.LocalMemory(device, diffusion_dtype=torch.float32)
    # The VAE in float32 as well, for a comparison of like with like.
    memory.dtype = lambda role: torch.float32
    models = loading.load_ccsr(folder / "ccsr.safetensors", memory=memory)
    chosen = declared.CcsrSettings(
        preset="custom",
        steps=settings["steps"],
        tile_size=settings["tile"],
        tile_stride=settings["stride"],
        official=True,
    )

    @torch.inference_mode()
    def run(image: Any, noise: Any) -> Any:
        size = (image.shape[2], image.shape[3])
        task = upscaling.Restoration.plan(size, chosen, models, runtime.Runtime(memory))
        draw = lambda kind, like: noise if kind == "start" else torch.randn(like.shape)  # noqa: E731
        return task.restore(image, draw).clamp(0, 1)

    return run


def prepare_official(folder: Path, settings: dict[str, Any], device: Any) -> Any:
    peer = importlib.import_module("peers.ccsr_official")
    return peer.prepare(checkout(settings["official"]), load_weights(folder), settings, device)


def prepare_kijai(folder: Path, settings: dict[str, Any], device: Any) -> Any:
    peer = importlib.import_module("peers.ccsr_kijai")
    places = checkout(settings["kijai"]), checkout(settings["comfyui"])
    return peer.prepare(*places, load_weights(folder), settings, device)


def checkout(path: str) -> Path:
    return Path(path).expanduser().resolve()


def load_weights(folder: Path) -> dict[str, Any]:
    return importlib.import_module("safetensors.torch").load_file(folder / "ccsr.safetensors")


def report(figures: dict[str, Any], folder: Path) -> bool:
    """Print the figures; say whether the targets, which are against the official program, are met."""
    for name, result in figures.items():
        if "error" in result:
            print(f"{name}: {result['error']}")
            continue
        peak, before = result["peak_bytes"] / 2**30, result["bytes_before"] / 2**30
        print(f"{name}: {result['seconds']:.1f} s, peak {peak:.2f} GiB ({before:.2f} GiB resident before)")
    ran = {name for name, result in figures.items() if "error" not in result}
    passed = "ours" in ran and ("official" in ran or "official" not in figures)
    if {"ours", "official"} <= ran:
        difference, ratio = compare("official", figures, folder)
        print(f"largest difference: {difference:.1e} (target: at most {TOLERANCE:.0e})")
        print(f"speed of ours over the official program's: {ratio:.2f} (target: at least {SPEEDUP})")
        passed = difference <= TOLERANCE and ratio >= SPEEDUP
    if {"ours", "kijai"} <= ran:
        difference, ratio = compare("kijai", figures, folder)
        print(
            f"largest difference to kijai's node: {difference:.1e} (no target: its result is cut to 8 bits)"
        )
        print(f"speed of ours over the node's: {ratio:.2f} (no target)")
    return passed


def compare(name: str, figures: dict[str, Any], folder: Path) -> tuple[float, float]:
    """The largest difference of a program's result to ours, and the speed of ours over its."""
    torch = importlib.import_module("torch")
    ours, theirs = (torch.load(folder / f"{one}.pt", weights_only=True) for one in ("ours", name))
    return (ours - theirs).abs().max().item(), figures[name]["seconds"] / figures["ours"]["seconds"]


def load_test_module(name: str) -> Any:
    """A module of the tests, with the pack importable as `creative_upscaler`."""
    for folder in (ROOT, ROOT / "tests"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location("pack_loader", ROOT / "conftest.py")
    if "creative_upscaler" not in sys.modules:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
