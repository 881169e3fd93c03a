"""The figures of `host_models` as text."""

from __future__ import annotations

import sys
from typing import Any

GIB = 2**30
OURS = ("ours", "our patch")
REFERENCES = ("untiled", "other noise")

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
    for mine in OURS:
        if mine in done and peers:
            fastest = min(peers, key=lambda name: peers[name]["seconds"]["total"])
            speed = peers[fastest]["seconds"]["total"] / done[mine]["seconds"]["total"]
            fewest = min(peer["evaluations"] for peer in peers.values())
            say(
                f"{mine}: {speed:.2f} times the speed of the fastest other, {fastest} (target: 1.3); "
                f"{done[mine]['evaluations']} evaluations, the fewest of the others {fewest}"
            )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
