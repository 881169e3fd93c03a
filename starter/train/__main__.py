"""Train the starter models: `python -m starter.train STAGE --photographs FOLDER --run FOLDER`.

Stages, in their order: sr, vae, diffusion, export. Each goes on from its last checkpoint in the run folder;
the same seed gives the same models on the same machine. `--help` after a stage lists its settings.
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
    """A stage's defaults: what fits half an hour on two fast CPU cores. A GPU takes larger batches."""

    steps: int
    batch: int
    crop: int
    learning_rate: float


STAGES = {
    "sr": Stage(steps=6000, batch=32, crop=96, learning_rate=1e-3),
    "vae": Stage(steps=1500, batch=12, crop=96, learning_rate=3e-4),
    "diffusion": Stage(steps=2500, batch=16, crop=128, learning_rate=8e-4),
}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.stage == "export":
        export.export(options.run, options.destination)
        return 0
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    photographs = Photographs(options.photographs, options.run / "photographs", device)
    plan = Plan(
        steps=options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        compiled=options.compile,
    )
    size = {"batch": options.batch, "crop": options.crop}
    folder = options.run / options.stage
    if options.stage == "sr":
        network = super_resolution.make_network()
        super_resolution.train_super_resolution(photographs, network, plan, folder, **size)
        super_resolution.save(network, folder / "averaged.safetensors")
    elif options.stage == "vae":
        vae = latents.make_vae()
        generator = torch.Generator().manual_seed(options.seed)
        blocks = latents.sample_blocks(photographs, 400_000, generator)
        transform = latents.fit_transform(blocks)
        latents.write_encoder(vae, *transform)
        latents.write_decoder(vae, *transform, photographs.crops(48, 96, generator).cpu())
        latents.train_decoder(photographs, vae, plan, folder, **size)
        vae.cpu().save_pretrained(folder / "averaged")
    else:
        networks = diffusion.Networks(make_tokenizer())
        vae = AutoencoderKL.from_pretrained(options.run / "vae" / "averaged")
        enlarger = super_resolution.load(options.run / "sr" / "averaged.safetensors")
        diffusion.train_diffusion(photographs, networks, vae, enlarger, plan, folder, **size)
        diffusion.save(networks, folder / "averaged")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m starter.train", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, stage in STAGES.items():
        command = stages.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--photographs", type=Path, required=True, help="folder of pictures to train on")
        command.add_argument("--run", type=Path, required=True, help="folder for checkpoints and logs")
        command.add_argument("--steps", type=int, default=stage.steps, help="may be raised until 65 %% of it")
        command.add_argument("--batch", type=int, default=stage.batch, help="crops per step")
        command.add_argument("--crop", type=int, default=stage.crop, help="pixels per side of a crop")
        command.add_argument("--learning-rate", type=float, default=stage.learning_rate)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--compile", action="store_true", help="through torch.compile; twice as fast")
    command = stages.add_parser("export", help="write what ships, in fp16")
    command.add_argument("--run", type=Path, required=True, help="folder of the finished stages")
    command.add_argument("--destination", type=Path, default=Path(__file__).parents[1])
    return parser


if __name__ == "__main__":
    sys.exit(main())
