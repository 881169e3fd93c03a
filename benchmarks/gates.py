"""What the starter models must reach on pictures they were not trained on before they are used by default."""

from __future__ import annotations

from typing import Any

Means = dict[str, float]

PSNR_GAINS = {"upscaler": {"clean": 1.0, "degraded": 0.5}, "one-step": {"clean": 0.8, "degraded": 0.5}}
"""dB above Lanczos; clean also above Lanczos with back-projections."""

DETAIL_AMPLITUDE = (0.7, 1.1)
LEAST_CORRELATION = 0.35
LEAST_PSNR_TO_INPUT = 35.0
MOST_GRAIN = 1.0


def judge(summary: dict[str, Any], variant: str, upscalers: list[str]) -> dict[str, dict[str, bool]]:
    """For each method that has gates, which it passes; `summary` as a variant's part of the record."""
    means: dict[str, Means] = {name: entry["mean"] for name, entry in summary.items()}
    verdicts = {}
    for name, figures in means.items():
        if name in upscalers or name == "one-step":
            kind = "upscaler" if name in upscalers else name
            verdicts[name] = _judge_fidelity(figures, means, variant, PSNR_GAINS[kind][variant])
        elif not name.startswith("lanczos"):
            verdicts[name] = _judge_creation(figures, means)
    return verdicts


def _judge_fidelity(figures: Means, means: dict[str, Means], variant: str, gain: float) -> dict[str, bool]:
    gates = {f"PSNR of Lanczos + {gain:g} dB": figures["psnr"] >= means["lanczos"]["psnr"] + gain}
    if variant == "clean":
        gates["PSNR above back-projection"] = figures["psnr"] > means["lanczos-bp"]["psnr"]
    return gates


def _judge_creation(figures: Means, means: dict[str, Means]) -> dict[str, bool]:
    """PSNR is no gate: a drawn texture that differs from the true one costs more of it than none."""
    low, high = DETAIL_AMPLITUDE
    return {
        f"hf amplitude {low:g} to {high:g}": low <= figures["detail_amplitude"] <= high,
        f"hf correlation {LEAST_CORRELATION:g}": figures["detail_correlation"] >= LEAST_CORRELATION,
        "GMSD below Lanczos": figures["gmsd"] < means["lanczos"]["gmsd"],
        f"{LEAST_PSNR_TO_INPUT:g} dB to input": figures["input_psnr"] >= LEAST_PSNR_TO_INPUT,
        f"grain at most {MOST_GRAIN:g}": not figures["grain"] > MOST_GRAIN,
    }
