"""The figures of `host_models` as text."""

from __future__ import annotations

import sys
from typing import Any

GIB = 2**30
OURS = ("ours", "our patch")
REFERENCES = ("untiled", "other noise")
CHANCE = 1.1
"""A seam figure up to this many times that of other noise is no seam."""

COLUMNS = {
    "steps": lambda r: str(r["steps"]),
    "s": lambda r: f"{r['seconds']['total']:.1f}",
    "evaluations": lambda r: str(r["evaluations"]),
    "of": lambda r: " ".join(sorted({f"{h}x{w}" for _, _, h, w in r["shapes"]})),
    "TFLOP": lambda r: f"{r['tflop']:.2f}",
    "sample": lambda r: f"{r['seconds']['sample']:.1f}",
    "else": lambda r: f"{r['seconds']['total'] - r['seconds']['sample']:.1f}",
    "seam": lambda r: f"{r['seam']:.3f}" if "seam" in r else "-",
    "peak GiB": lambda r: f"{r['peak_bytes'] / GIB:.2f}",
}


def print_case(case: str, results: dict[str, Any]) -> None:
    done = {name: result for name, result in results.items() if "evaluations" in result}
    rows = [[case, *COLUMNS]]
    rows += [[name, *(column(result) for column in COLUMNS.values())] for name, result in done.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    say("")
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join([first.strip().ljust(widths[0]), *others]))
    say("")
    for name, result in results.items():
        say(f"{name}: {result.get('settings') or result.get('unavailable') or result['error']}")
    peers = {name: result for name, result in done.items() if name not in (*OURS, *REFERENCES)}
    seamless = {name: result for name, result in peers.items() if is_seamless(result, done)}
    for mine in OURS:
        for others, kind in ((peers, "other"), (seamless, "other without seams")):
            if mine in done and others:
                compare(mine, done[mine], others, kind)


def is_seamless(result: dict[str, Any], done: dict[str, Any]) -> bool:
    """Whether its steepest line is one that other noise can make without any tiles."""
    control = done.get("other noise", {})
    return "seam" in result and "seam" in control and result["seam"] <= CHANCE * control["seam"]


def compare(mine: str, result: dict[str, Any], others: dict[str, Any], kind: str) -> None:
    fastest = min(others, key=lambda name: others[name]["seconds"]["total"])
    speed = others[fastest]["seconds"]["total"] / result["seconds"]["total"]
    fewest = min(other["evaluations"] for other in others.values())
    say(
        f"{mine}: {speed:.2f} times the speed of the fastest {kind}, {fastest} (target: 1.3); "
        f"{result['evaluations']} evaluations, the fewest of these {fewest}"
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
