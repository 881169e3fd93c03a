"""The benchmark's figures as text."""

from __future__ import annotations

import sys
from typing import Any

GIB = 2**30

TARGETS = {
    "compare": "speed of ours over the fastest other: {0:.2f} (target: at least 1.3)",
    "flops-only": "operations of ours over refiners': {0:.3f} (target: at most 0.75)",
    "outside": "share of the time outside the networks: {0:.1%} (target: at most 5 %)",
    "huge": "peak memory less the networks, in outputs: {0:.2f} (target: at most 4), before the run {1:.2f}",
    "gpu": "{0:.2f} s (target: under 3), {1:.0%} of the measured matmul rate (target: over 50 %)",
    "gpu-huge": "peak device memory {0:.2f} GB (target: under 8)",
}


def print_hardware(hardware: dict[str, Any], settings: dict[str, Any]) -> None:
    job = settings["job"]
    side = round(job["size"] * job["scale"])
    _say(
        f"{settings['mode']}: {job['family']} networks with random weights, {job['size']}² to {side}² px, "
        f"{job['steps']} evaluated steps with guidance and ControlNet, {job['dtype']} on {settings['device']}"
    )
    _say(
        f"{hardware['device']}, {hardware['cores']} cores, load {hardware['load']:.1f}; "
        f"torch {hardware['torch']}, Python {hardware['python']}"
    )


def print_report(record: dict[str, Any]) -> None:
    results = record["programs"]
    done = {name: result for name, result in results.items() if "evaluations" in result}
    columns = DRY_COLUMNS if record["job"]["dry"] else COLUMNS
    ours = done.get("ours")
    rows = [["", *columns]]
    rows += [[name, *(column(result, ours) for column in columns.values())] for name, result in done.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    _say("")
    for row in rows:
        _say(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    _say("")
    for name, result in results.items():
        _say(f"{name}: {result.get('settings') or result.get('unavailable') or result['error']}")
    if figures := target_figures(record["mode"], done):
        _say(TARGETS[record["mode"]].format(*figures))


def target_figures(mode: str, done: dict[str, Any]) -> list[float]:
    """What the mode is about, from the programs that ran; empty where something for it is missing."""
    if "ours" not in done:
        return []
    ours, others = done["ours"], {name: result for name, result in done.items() if name != "ours"}
    if mode == "compare":
        return (
            [min(o["seconds"]["total"] for o in others.values()) / ours["seconds"]["total"]] if others else []
        )
    if mode == "flops-only":
        return [_tflop(ours) / _tflop(others["refiners"])] if "refiners" in others else []
    if mode == "outside":
        return [ours["outside_share"]]
    if mode == "huge":
        return [
            (ours[held] - ours["network_bytes"]) / ours["output_bytes"]
            for held in ("peak_bytes", "bytes_before")
        ]
    if mode == "gpu":
        rate = ours.get("matmul_tflop_per_second")
        return [ours["seconds"]["total"], ours["tflop_per_second"] / rate] if rate else []
    return [ours["peak_bytes"] / 1e9]


def _tflop(result: dict[str, Any]) -> float:
    return sum(result["tflop"].values())


def _seconds(phase: str) -> Any:
    return lambda result, ours: f"{result['seconds'][phase]:.2f}"


COUNT_COLUMNS: dict[str, Any] = {
    "evaluations": lambda result, ours: str(result["evaluations"]),
    "TFLOP/MP": lambda result, ours: f"{result['tflop_per_megapixel']:.2f}",
}
DRY_COLUMNS: dict[str, Any] = COUNT_COLUMNS | {
    "TFLOP": lambda result, ours: f"{_tflop(result):.1f}",
    "ours/it": lambda result, ours: f"{_tflop(ours) / _tflop(result):.3f}" if ours else "",
}
COLUMNS: dict[str, Any] = {
    "s": _seconds("total"),
    "MP/s": lambda result, ours: f"{result['megapixels_per_second']:.4f}",
    "text": _seconds("text"),
    "encode": _seconds("encode"),
    "sample": _seconds("sample"),
    "decode": _seconds("decode"),
    "outside": _seconds("outside"),
    "outside %": lambda result, ours: f"{100 * result['outside_share']:.1f}",
    **COUNT_COLUMNS,
    "peak GiB": lambda result, ours: f"{result['peak_bytes'] / GIB:.2f}",
    "s/ours": lambda result, ours: (
        f"{result['seconds']['total'] / ours['seconds']['total']:.2f}" if ours else ""
    ),
    "memory/ours": lambda result, ours: f"{result['peak_bytes'] / ours['peak_bytes']:.2f}" if ours else "",
}


def _say(line: str) -> None:
    sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()
