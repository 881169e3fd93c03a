"""Run by test_memory.py inside a ComfyUI: who is on the device, and when.

Its arguments are the folders of the host, of the pack and of models, and the file for the result.

The device is a pretended one, the CPU under another name, of which `free` bytes are left.
Writes one JSON object to a file.
"""

import gc
import importlib.util
import json
import sys
from pathlib import Path

HOST, PACK, MODELS, RESULT = (Path(argument) for argument in sys.argv[1:])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(HOST))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  before another package takes the name
from comfy.model_patcher import ModelPatcher  # noqa: E402
from diffusers import AutoencoderKL  # noqa: E402
from torch import nn  # noqa: E402

DEVICE, OFFLOADED = torch.device("cpu", 0), torch.device("cpu")
PLENTY, LITTLE = 2**40, 1000
free = PLENTY


def pretend() -> None:
    management.get_torch_device = lambda: DEVICE
    management.is_device_cpu = lambda device: device == OFFLOADED
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.get_free_memory = lambda device=None, torch_free_too=False: (
        (free, free) if torch_free_too else free
    )


def load_pack():
    spec = importlib.util.spec_from_file_location(
        "pack-x", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    sys.modules["pack-x"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack-x"])
    return importlib.import_module("pack-x.nodes.host")


def network() -> AutoencoderKL:
    """Of a class whose `device` cannot be set."""
    return AutoencoderKL(block_out_channels=(32,))


def resident() -> list[str]:
    """Names of the networks that ComfyUI has on the device, whole."""
    found = []
    for loaded in management.current_loaded_models:
        inner = getattr(loaded.model.model, "network", loaded.model.model)
        if loaded.model.loaded_size() == loaded.model.model_size():
            found.append(names[id(inner)])
    return sorted(found)


pretend()
host = load_pack()
facts = {}
gc.collect()
gc.disable()

first, second, theirs = network(), network(), nn.Linear(1000, 1000)
names = {id(first): "first", id(second): "second", id(theirs): "theirs"}
memory = host.HostMemory()
memory.adopt(first, second)
other = ModelPatcher(theirs, DEVICE, OFFLOADED)

memory.load(first, second)
facts["both fit"] = resident()
free = LITTLE
management.load_models_gpu([other], force_full_load=True)
facts["the host needs the room"] = resident()
memory.load(first)
facts["ours is wanted again"] = resident()
memory.load(second)
facts["the other of ours"] = resident()
memory.load(first, second)
facts["both at once"] = resident()
free = PLENTY

moves = []
visitor = nn.Linear(2, 2)
visitor.to = lambda device: moves.append(str(device))
memory.load(visitor)
facts["a visitor is managed"] = any(m.model.model is visitor for m in management.current_loaded_models)
memory.dismiss_visitors()
facts["a visitor's moves"] = moves

facts["types"] = {role: str(memory.dtype(role)) for role in ("diffusion", "vae", "text")}
interrupt = management.InterruptProcessingException()
facts["out of memory"] = [
    memory.is_out_of_memory(error)
    for error in (torch.OutOfMemoryError(), MemoryError(), ValueError(), interrupt)
]
del memory, first, second
facts["after the last user let go"] = resident()

for kind in ("checkpoints", "controlnet"):
    folder_paths.add_model_folder_path(kind, str(MODELS / kind))
loader = importlib.import_module("pack-x.nodes.load_models")
choice = {"checkpoint": "v1-5-pruned-emaonly.safetensors", "controlnet": "none", "detail_lora": "none"}
one, two = (loader.LoadModels.execute(**choice).result[0] for _ in range(2))
other_choice = {**choice, "controlnet": "control_v11f1e_sd15_tile.pth"}
three = loader.LoadModels.execute(**other_choice).result[0]
facts["shared"] = [one is two, one is three]
del one, two, three
facts["kept by nobody"] = len(loader._loaded)
RESULT.write_text(json.dumps(facts))
