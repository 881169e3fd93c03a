"""Train the starter models: `python -m starter.train STAGE --photographs FOLDER --run FOLDER`.

Stages, in their order: sr, vae, diffusion, export. Those that train go on from their last checkpoint in the
run folder; the same seed gives the same models on the same machine. `--help` after a stage lists its
settings.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from . import diffusion, export, latents, super_resolution
from .loop import Plan
from .photographs import Photographs
from .tags import make_tokenizer


@dataclass(frozen=True)
class Stage:
    """A stage's defaults: what fits some hours on two fast CPU cores. A GPU takes larger batches."""

    steps: int
    batch: int
    crop: int
    learning_rate: float


STAGES = {
    "sr": Stage(steps=6000, batch=32, crop=96, learning_rate=1e-3),
    "diffusion": Stage(steps=14500, batch=8, crop=128, learning_rate=8e-4),
}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.stage == "export":
        export.export(options.run, options.destination)
        return 0
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    photographs = Photographs(options.photographs, options.run / "photographs", device)
    folder = options.run / options.stage
    if options.stage == "vae":
        generator = torch.Generator().manual_seed(options.seed)
        crops = photographs.crops(latents.FITTED, latents.FITTED_CROP, generator, per_picture=1)
        latents.fit_vae(crops.cpu()).save_pretrained(folder)
        return 0
    plan = Plan(
        steps=options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        compiled=options.compile,
    )
    size = {"batch": options.batch, "crop": options.crop}
    if options.stage == "sr":
        network = super_resolution.make_network()
        super_resolution.train_super_resolution(photographs, network, plan, folder, **size)
        super_resolution.save(network, folder / "averaged.safetensors")
    else:
        networks = diffusion.Networks(make_tokenizer())
        vae = AutoencoderKL.from_pretrained(options.run / "vae")
        enlarger = super_resolution.load(options.run / "sr" / "averaged.safetensors")
        diffusion.train_diffusion(photographs, networks, vae, enlarger, plan, folder, **size)
        diffusion.save(networks, folder / "averaged")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m starter.train", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name in ("sr", "vae", "diffusion"):
        command = stages.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--photographs", type=Path, required=True, help="folder of pictures to train on")
        command.add_argument("--run", type=Path, required=True, help="folder for checkpoints and logs")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if name not in STAGES:
            continue
        stage = STAGES[name]
        command.add_argument("--steps", type=int, default=stage.steps, help="may be raised until 65 %% of it")
        command.add_argument("--batch", type=int, default=stage.batch, help="crops per step")
        command.add_argument("--crop", type=int, default=stage.crop, help="pixels per side of a crop")
        command.add_argument("--learning-rate", type=float, default=stage.learning_rate)
        command.add_argument("--compile", action="store_true", help="through torch.compile, for a GPU")
    command = stages.add_parser("export", help="write what ships, in fp16")
    command.add_argument("--run", type=Path, required=True, help="folder of the finished stages")
    command.add_argument("--destination", type=Path, default=Path(__file__).parents[1])
    return parser


if __name__ == "__main__":
    sys.exit(main())
