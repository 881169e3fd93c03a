"""Merge LoRA files with ComfyUI's own code; run in a process of its own in a ComfyUI folder.

usage: merge_with_comfyui.py WORK

WORK holds job.json, `{"families": {family: class of comfy.supported_models}, "merges": {name: {"family":
family, "loras": [[file, strength]]}}}`, a UNet in ComfyUI's layout in `{family}.safetensors`, and the files.
Writes all weights of the UNet after each merge to `{name}.merged.safetensors`.
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

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy import model_detection, model_patcher, supported_models  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

CPU = torch.device("cpu")

job = json.loads((work / "job.json").read_text())
patchers = {}
for family, kind in job["families"].items():
    tensors = load_file(work / f"{family}.safetensors")
    config = getattr(supported_models, kind)(model_detection.detect_unet_config(tensors, ""))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    missing, unexpected = model.diffusion_model.load_state_dict(tensors, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    patchers[family] = model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)

for name, merge in job["merges"].items():
    patcher = patchers[merge["family"]]
    for file, strength in merge["loras"]:
        patcher, _ = comfy.sd.load_lora_for_models(patcher, None, load_file(work / file), strength, 0)
    with torch.inference_mode():
        patcher.patch_model(CPU)
        weights = patcher.model.diffusion_model.state_dict()
        save_file(
            {key: tensor.clone() for key, tensor in weights.items()}, work / f"{name}.merged.safetensors"
        )
        patcher.unpatch_model(CPU)
