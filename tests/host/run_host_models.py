"""Run by test_host_models.py inside a ComfyUI: what becomes of its own models in tiles.

Its arguments are the folders of the host and of the pack, and the file for the result: one JSON object with
the findings of every check, or `{"error": ...}` of one that failed.
"""

import importlib
import importlib.util
import inspect
import json
import sys
import time
import traceback
from pathlib import Path

HOST, PACK, RESULT = (Path(argument) for argument in sys.argv[1:4])
ONLY = sys.argv[4:]
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
sys.path.insert(0, str(HOST))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  before another package takes the name
from host_conditioning_checks import ConditioningChecks  # noqa: E402
from host_sampling_checks import SamplingChecks  # noqa: E402
from host_tiling_checks import TilingChecks  # noqa: E402
from host_upscaling_checks import UpscalingChecks  # noqa: E402
from tiny_host_models import build, families  # noqa: E402


def load_pack(module: str):
    """A module of the pack by its path within, imported as ComfyUI does."""
    if "pack-x" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "pack-x", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        sys.modules["pack-x"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["pack-x"])
    return importlib.import_module(f"pack-x.{module}")


def run_checks() -> dict[str, object]:
    tiny = {name: build(name) for name in families()}
    found: dict[str, object] = {"families": list(tiny)}
    kinds = {
        TilingChecks: lambda: (load_pack("nodes.host_models.patching"), tiny),
        ConditioningChecks: lambda: (load_pack("nodes.host_models.patching"), tiny),
        UpscalingChecks: lambda: (load_pack, tiny),
        SamplingChecks: lambda: (load_pack, tiny),
    }
    for kind, arguments in kinds.items():
        names = [name for name, check in vars(kind).items() if name[0] != "_" and is_check(check)]
        for name in names:
            # The last kind has a test file of its own.
            if name not in ONLY if ONLY else kind is SamplingChecks:
                continue
            start = time.perf_counter()
            try:
                found[name] = getattr(kind(*arguments()), name)()
            except Exception:
                found[name] = {"error": traceback.format_exc()}
            found.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 2)
    return found


def is_check(member: object) -> bool:
    """Checks take nothing but themselves."""
    return inspect.isfunction(member) and list(inspect.signature(member).parameters) == ["self"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        RESULT.write_text(json.dumps(run_checks(), indent=1))
