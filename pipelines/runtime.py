"""The two small protocols through which the engine reports, is stopped and asks for memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import psutil
import torch
from torch import Tensor, nn

Role = Literal["diffusion", "vae", "text"]


class Progress(Protocol):
    """Told how far the work is; stops it by raising (`Cancelled`, or the host's own exception).

    Called at least once for each network evaluation, so that an interrupt takes effect within one.
    """

    def __call__(self, stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        """Report `done` of `total` units of `stage`.

        `preview`, when given, is the current clean estimate of the canvas: latents `[B,C,h,w]` in the
        scale the denoising network works in, on any device.
        """


class Memory(Protocol):
    """Where networks run and how room is made for them."""

    device: torch.device

    def dtype(self, role: Role) -> torch.dtype:
        """The floating point type that networks of this role are to be loaded in."""

    def load(self, *modules: nn.Module, activation_bytes: int = 0) -> None:
        """Make these modules, whole, resident on `device`, with `activation_bytes` to spare.

        To be called immediately before every use: others may have claimed the room since.
        """

    def free_bytes(self) -> int:
        """Bytes that can still be allocated on `device`."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether this exception means that an allocation on `device` failed."""

    def release(self) -> None:
        """Give cached but unused memory back, before a smaller attempt."""


def silent(stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
    """A `Progress` that shows nothing and never stops."""


@dataclass
class LocalMemory:
    """`Memory` of a plain Python process: one device, least recently used networks leave first."""

    device: torch.device = field(default_factory=lambda: _best_device())
    diffusion_dtype: torch.dtype | None = None
    _resident: list[nn.Module] = field(default_factory=list, repr=False)

    def dtype(self, role: Role) -> torch.dtype:
        """float32 on CPUs; on GPUs bfloat16 where it is native, else float16, with the VAE in float32.

        SDXL's published VAE overflows in float16 (diffusers' `force_upcast`), so it never gets that.
        """
        if role == "diffusion" and self.diffusion_dtype is not None:
            return self.diffusion_dtype
        if self.device.type == "cuda":
            if torch.cuda.get_device_capability(self.device)[0] >= 8:
                return torch.bfloat16
            return torch.float32 if role == "vae" else torch.float16
        if self.device.type == "mps" and role != "vae":
            return torch.float16
        return torch.float32

    def load(self, *modules: nn.Module, activation_bytes: int = 0) -> None:
        if self.device.type == "cpu":
            for module in modules:
                module.to(self.device)
            return
        self._resident = [other for other in self._resident if other not in modules]
        needed = activation_bytes + sum(_bytes_elsewhere(module, self.device) for module in modules)
        while self._resident and self.free_bytes() < needed:
            self._resident.pop(0).to("cpu")
            self.release()
        for module in modules:
            module.to(self.device)
            self._resident.append(module)

    def free_bytes(self) -> int:
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            reserved = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return free + reserved
        return psutil.virtual_memory().available

    def is_out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        # torch's CPU allocator raises a plain RuntimeError.
        return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

    def release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _bytes_elsewhere(module: nn.Module, device: torch.device) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors if t.device.type != device.type)


@dataclass(frozen=True)
class Runtime:
    """What a stage of the engine is handed: where to compute and whom to tell."""

    memory: Memory = field(default_factory=LocalMemory)
    progress: Progress = silent
