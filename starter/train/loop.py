"""The training loop of all stages: schedule, averaging of weights, checkpoints that resume exactly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP = 100
"""Steps over which the learning rate rises."""
DECAY_SHARE = 0.35
"""The last part of training, over which the rate falls to zero: a run may be made longer until then."""


@dataclass(frozen=True)
class Plan:
    """What a run of one stage is."""

    steps: int
    learning_rate: float
    seed: int = 0
    weight_decay: float = 0.0
    averaging: float = 0.999
    """Decay of the moving average of the weights, which is what is exported (shorter at the start)."""
    checkpoint_every: int = 250
    compiled: bool = False


def learning_rate(step: int, plan: Plan) -> float:
    """Warm-up, constant, then linearly to zero (the trapezoid of Zhai et al. 2022)."""
    remaining = (plan.steps - step) / max(1.0, DECAY_SHARE * plan.steps)
    return plan.learning_rate * min(1.0, (step + 1) / WARM_UP, remaining)


def train(
    network: nn.Module, loss: Callable[[int, torch.Generator], dict[str, Tensor]], plan: Plan, folder: Path
) -> nn.Module:
    """Train `network` in place to `plan.steps`, from the checkpoint in `folder` if there is one.

    `loss(step, generator)` gives named scalars; their sum is minimised. Its generator is a CPU one that
    depends on the seed and the step alone, so that a run which was interrupted ends as one that was not.
    Returns the network with its averaged weights. `folder/log.jsonl` gets a line every 25 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(network.parameters()).device
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
    )
    average = [parameter.detach().clone() for parameter in trained]
    first = _resume(folder / "checkpoint.pt", network, optimizer, average)
    began = time.monotonic()
    for step in range(first, plan.steps):
        generator = torch.Generator().manual_seed((plan.seed << 32) + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        parts = loss(step, generator)
        total = torch.stack(list(parts.values())).sum()
        total.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is {float(norm)}; lower the learning rate")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(plan.averaging, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [parameter.detach() for parameter in trained], 1 - decay)
        if (step + 1) % 25 == 0 or step + 1 == plan.steps:
            names = {name: round(float(value.detach()), 5) for name, value in parts.items()}
            line = {"step": step + 1, "seconds": round(time.monotonic() - began, 1), **names}
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            _save({**state, "average": average}, folder / "checkpoint.pt")
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    return network.to(device).eval()


def _resume(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: list[Tensor]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=average[0].device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    for mean, saved in zip(average, state["average"], strict=True):
        mean.copy_(saved)
    return int(state["step"])


def _save(state: dict, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
