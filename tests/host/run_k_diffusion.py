"""Run inside a ComfyUI checkout: its own samplers on the toy problem in a .npz file, results to another.

    python run_k_diffusion.py COMFYUI PROBLEM.npz RESULTS.npz

The problem holds `x`, `sigmas` `[n+1]`, the fresh `noises` `[n,...]` and the `variance` of the toy data.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

host, problem_file, result_file = sys.argv[1:]
sys.path.insert(0, host)
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

from comfy.k_diffusion import sampling  # noqa: E402

NAMES = ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "lcm")

problem = {name: torch.from_numpy(values) for name, values in np.load(problem_file).items()}


class Model:
    """Two normal distributions around -1 and 1, behind what the samplers ask of a model."""

    def __init__(self) -> None:
        noise_scaling = lambda sigma, noise, x: x + sigma * noise  # noqa: E731
        model_sampling = SimpleNamespace(noise_scaling=noise_scaling)
        self.inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=model_sampling),
            model_patcher=SimpleNamespace(get_model_object=lambda name: model_sampling),
        )

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance, sigma = problem["variance"], sigma[0]
        total = variance + sigma**2
        return (variance * x + sigma**2 * torch.tanh(x / total)) / total


results = {}
for name in NAMES:
    fresh = iter(problem["noises"])
    options = {"noise_sampler": lambda sigma, sigma_next, fresh=fresh: next(fresh)}
    if name in ("euler", "dpmpp_2m"):
        options = {}
    results[name] = getattr(sampling, f"sample_{name}")(
        Model(), problem["x"], problem["sigmas"], disable=True, **options
    ).numpy()
np.savez(Path(result_file), **results)
