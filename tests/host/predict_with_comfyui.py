"""Run checkpoints in ComfyUI's own classes; run in a process of its own in a ComfyUI folder.

usage: predict_with_comfyui.py WORK

WORK holds job.json, `{name: class of comfy.supported_models}`, and for each name `{name}.safetensors` (a
whole checkpoint), `{name}.controlnet.safetensors` and `{name}.inputs.safetensors`. Writes
`{name}.outputs.safetensors`: noise levels, the clean prediction without and with the ControlNet, its
residuals, the latents of a picture and the picture of latents.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

work = Path(sys.argv[1])
sys.path.insert(0, os.getcwd())
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()  # before anything of ComfyUI looks for a GPU

import comfy.cldm.cldm  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy import model_detection, supported_models  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

UNET, VAE, CONTROL = "model.diffusion_model.", "first_stage_model.", "control_model."


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


@torch.inference_mode()
def predict(name: str, kind: str) -> dict[str, torch.Tensor]:
    tensors, inputs = load_file(work / f"{name}.safetensors"), load_file(work / f"{name}.inputs.safetensors")
    # Not the automatic choice of a model: that knows the published channel counts only.
    config = getattr(supported_models, kind)(model_detection.detect_unet_config(tensors, UNET))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(tensors, UNET)
    missing, unexpected = model.diffusion_model.load_state_dict(part(tensors, UNET), strict=False)
    assert not missing and not unexpected, (missing, unexpected)

    network = comfy.cldm.cldm.ControlNet(**{**config.unet_config, "hint_channels": 3, "dtype": torch.float32})
    network.load_state_dict(part(load_file(work / f"{name}.controlnet.safetensors"), CONTROL), strict=True)

    x, sigma, context = inputs["x"], inputs["sigma"], inputs["context"]
    conditions = {"c_crossattn": context}
    if "pooled" in inputs:
        height, width = (8 * side for side in x.shape[-2:])
        y = model.encode_adm(pooled_output=inputs["pooled"], width=width, height=height, device="cpu")
        conditions["y"] = y
    scaled = model.model_sampling.calculate_input(sigma, x)
    timestep = model.model_sampling.timestep(sigma).float()
    control = network(scaled, inputs["hint"], timestep, context, y=conditions.get("y"))
    residuals = [*control["output"], *control["middle"]]
    outputs = {f"residual.{number:02}": tensor.clone() for number, tensor in enumerate(residuals)}

    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    ddconfig |= {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    vae = comfy.sd.VAE(part(tensors, VAE), config={"params": {"ddconfig": ddconfig, "embed_dim": 4}})
    latents = vae.encode(inputs["image"].movedim(1, -1))
    return {
        **outputs,
        "sigmas": model.model_sampling.sigmas,
        "clean": model.apply_model(x, sigma, **conditions),
        "controlled": model.apply_model(x, sigma, control=control, **conditions),
        "latents": model.process_latent_in(latents),
        "decoded": vae.decode(model.process_latent_out(inputs["latents"])).movedim(-1, 1),
    }


for name, kind in json.loads((work / "job.json").read_text()).items():
    results = {key: tensor.float().contiguous() for key, tensor in predict(name, kind).items()}
    save_file(results, work / f"{name}.outputs.safetensors")
