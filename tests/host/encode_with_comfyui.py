"""Encode prompts with ComfyUI's own tokenizers and encoders; run in a process of its own in a ComfyUI folder.

usage: encode_with_comfyui.py WORK

WORK holds job.json, `{"families": {family: {"configs": {encoder: config}, "prompts": []}}, "notation": []}`,
weights in `{family}.{encoder}.safetensors` and textual inversions in the folder `{family}`.
Writes answers.npz, `{family}.{index}.hidden` and `.pooled`, and weights.json, how it reads each `notation`.
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

import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy import sd1_clip, sdxl_clip  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

FAMILIES = {
    "sd15": (sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
    "sdxl": (sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
}

job = json.loads((work / "job.json").read_text())
answers = {}
for family, task in job["families"].items():
    make_tokenizer, make_model = FAMILIES[family]
    options = {f"{name}_model_config": config for name, config in task["configs"].items()}
    model = make_model(dtype=torch.float32, model_options=options)
    for name in task["configs"]:
        transformer = getattr(model, name).transformer
        tensors = load_file(work / f"{family}.{name}.safetensors")
        missing, unexpected = transformer.load_state_dict(tensors, strict=False)
        # SD1.5's and SDXL's CLIP-L have no projection, and nothing uses it.
        assert not unexpected and set(missing) <= {"text_projection.weight"}, (missing, unexpected)
    tokenizer = make_tokenizer(embedding_directory=str(work / family))
    for index, prompt in enumerate(task["prompts"]):
        with torch.inference_mode():
            hidden, pooled = model.encode_token_weights(tokenizer.tokenize_with_weights(prompt))
        answers[f"{family}.{index}.hidden"] = hidden.numpy()
        answers[f"{family}.{index}.pooled"] = pooled.numpy()
np.savez(work / "answers.npz", **answers)

weights = [
    [
        (sd1_clip.unescape_important(text), weight)
        for text, weight in sd1_clip.token_weights(sd1_clip.escape_important(prompt), 1.0)
    ]
    for prompt in job["notation"]
]
(work / "weights.json").write_text(json.dumps(weights))
