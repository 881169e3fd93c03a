"""A tiny random set of models in the layout of `starter/`, for tests.

Schedule, kind of words and files are those of the real ones; latents are 4 pixels wide, with 16 channels.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from transformers import CLIPTextConfig, CLIPTextModel

from tiny_checkpoints import _fill_zero_convolutions, _perturb_vectors, seeded

WORDS = ("sharp", "blurry", "detailed")


def write_starter_diffusion(
    folder: Path, *, limits: dict | None = None, hint: tuple[int, ...] = (16, 32, 48)
) -> None:
    """A diffusers folder with ControlNet and tokenizer inside; `limits` go into `limits.json`."""
    with seeded(0):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=256,
            scaling_factor=1.0,
        )
        unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=16,
            out_channels=16,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32, 32),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=16,
            only_cross_attention=True,
        )
        words = write_tokenizer(folder / "tokenizer")
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=words - 2,
                eos_token_id=words - 1,
                pad_token_id=words - 1,
            )
        )
        for network in (vae, unet, text_encoder):
            _perturb_vectors(network)
        with torch.no_grad():
            vae.quant_conv.weight *= 8
            unet.conv_out.weight *= 3
            text_encoder.get_input_embeddings().weight.mul_(25)
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint)
        _fill_zero_convolutions(controlnet)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    parts = {"vae": vae, "unet": unet, "controlnet": controlnet, "scheduler": scheduler}
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    parts["text_encoder"] = text_encoder
    index |= {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "StableDiffusionControlNetImg2ImgPipeline",
        "requires_safety_checker": False,
        **index,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    if limits is not None:
        (folder / "limits.json").write_text(json.dumps(limits))


def write_tokenizer(folder: Path) -> int:
    """Bytes, `WORDS` and what makes them, begin and end, in transformers 4's files; returns their number."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        merges += [f"{''.join(parts[:i])} {parts[i]}" for i in range(1, len(parts))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>"
    )
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def write_starter_sr(path: Path) -> None:
    """A 2x network of spandrel's "Compact" architecture."""
    with seeded(0):
        network = Compact(num_feat=8, num_conv=2, upscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() for key, value in network.state_dict().items()}, path)
