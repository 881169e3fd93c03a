"""Where the stored tensors of a network are; they can be asked for their shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ModelFileError
from .architectures import Config, Tensors
from .files import read_header, read_tensors
from .layouts import read_json


@dataclass(frozen=True)
class Part:
    """Where the tensors of one network are: in `files`, several for some folders, under `prefix`."""

    path: Path
    files: tuple[Path, ...]
    prefix: str = ""
    config: Config | None = None
    """The network's own configuration, where the file or folder has one."""

    @classmethod
    def of_file(cls, path: Path, prefix: str = "") -> Part:
        return cls(path, (path,), prefix)

    @classmethod
    def of_folder(cls, folder: Path) -> Part:
        """The weights of a folder that diffusers or transformers saved; safetensors and full names first."""
        config = read_json(folder / "config.json")
        for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
            for ending in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
                if (file := folder / f"{stem}.{ending}").is_file():
                    return cls(folder, (file,), config=config)
                if (index := folder / f"{stem}.{ending}.index.json").is_file():
                    # Only the names of files beside it: an index must not lead elsewhere.
                    shards = {
                        Path(str(name)).name for name in read_json(index).get("weight_map", {}).values()
                    }
                    return cls(folder, tuple(folder / name for name in sorted(shards)), config=config)
        raise ModelFileError(folder, "has no weights (diffusion_pytorch_model.safetensors or the like)")

    def shapes(self) -> Tensors:
        """The tensors without their values, on the meta device."""
        return {
            key.removeprefix(self.prefix): torch.empty(shape, dtype=dtype, device="meta")
            for file in self.files
            for key, (dtype, shape) in read_header(file).items()
            if key.startswith(self.prefix)
        }

    def tensors(self) -> Tensors:
        return {key: value for file in self.files for key, value in read_tensors(file, self.prefix).items()}
