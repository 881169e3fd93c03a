"""Where the time and the operations of a program go, measured by hooks on its networks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

PHASES = ("text", "encode", "sample", "decode")
"""Kinds of networks: text encoders, VAE encoder, denoising network with ControlNet, VAE decoder."""


class Meter:
    """Watches networks and adds up, by phase, seconds inside of them, operations, and samples evaluated
    by the first network of the phase.

    A network called by another watched one counts as part of that one. Operations are counted on the first
    call with given shapes and remembered, so that counting does not disturb later calls.

    With `dry`, networks other than text encoders are not computed: they run on shapes alone and return zeros.
    The rest of the program runs as it is, so that it asks for exactly the evaluations it would ask for.
    """

    def __init__(
        self, networks: Mapping[str, Sequence[nn.Module]], device: torch.device, *, dry: bool
    ) -> None:
        self.device = device
        self._flop_of: dict[Any, int] = {}
        self._depth = 0
        self._counter: _FlopCounter | None = None
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._outputs: dict[Any, Any] = {}
        self.reset()
        for phase, modules in networks.items():
            for module in modules:
                self._watch(phase, module, counted=module is modules[0])
                if dry and phase != "text":
                    self._simulate(module)

    def reset(self) -> None:
        """Forget what was added up; the operations of known shapes stay known."""
        self.flop: dict[str, int] = defaultdict(int)
        self.samples: dict[str, int] = defaultdict(int)
        self.shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        self._marks: list[tuple[str, Any, Any]] = []

    def seconds(self) -> dict[str, float]:
        """Time inside the networks of each phase."""
        totals: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        for phase, start, end in self._marks:
            totals[phase] += start.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - start
        return totals

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _watch(self, phase: str, module: nn.Module, *, counted: bool) -> None:
        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._depth += 1
            if self._depth > 1:
                return
            key, first = _signature(module, args, kwargs)
            if counted and first:
                self.samples[phase] += first[0]
                self.shapes[phase].add(first)
            if key not in self._flop_of:
                self._counter = _FlopCounter()
                self._counter.__enter__()
            self._marks.append((phase, self._mark(), key))

        def leave(*_: Any) -> None:
            self._depth -= 1
            if self._depth > 0:
                return
            phase, start, key = self._marks.pop()
            self._marks.append((phase, start, self._mark()))
            if self._counter is not None:
                self._counter.__exit__(None, None, None)
                self._flop_of[key] = self._counter.flop
                self._counter = None
            self.flop[phase] += self._flop_of[key]

        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave)

    def _simulate(self, module: nn.Module) -> None:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            key, _ = _signature(module, args, kwargs)
            if key not in self._outputs:
                with self._fake:
                    fakes = tree_map_only(Tensor, self._to_fake, (args, kwargs))
                    self._outputs[key] = original(*fakes[0], **fakes[1])
            if self._depth > 1:  # inside another network, which is simulated too
                return self._outputs[key]
            return tree_map_only(Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype), self._outputs[key])

        module.forward = forward

    def _to_fake(self, tensor: Tensor) -> Tensor:
        return tensor if getattr(tensor, "fake_mode", None) else self._fake.from_tensor(tensor)


def _signature(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, tuple[int, ...]]:
    shapes = [tuple(leaf.shape) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return (id(module), *shapes), shapes[0] if shapes else ()


class _FlopCounter(TorchDispatchMode):
    """Adds up the multiplications and additions of matrix products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            query, key, value = args[:3]
            self.flop += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        elif packet not in flop_registry and func is not torch.ops.prim.device.default:
            # In inference mode composite operators come here whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def timed_run(run: Callable[[], Tensor], device: torch.device, side: int) -> tuple[Tensor, float]:
    """The picture `[1,3,side,side]` and the seconds of a run; on CUDA `peak_bytes` is then of it alone."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    image = run()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    assert image.shape == (1, 3, side, side), f"made {tuple(image.shape)}"
    assert image.isfinite().all(), "the result is not finite"
    return image, seconds


def peak_bytes(device: torch.device) -> int:
    """Most memory this process has held so far: on CUDA of the device, else resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """RAM this process holds now."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    # Not getrusage's ru_maxrss, which a child inherits from its parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def matmul_rate(dtype: torch.dtype, device: torch.device, side: int = 8192, repeats: int = 20) -> float:
    """FLOP per second of a square matrix product, the practical ceiling of a device."""
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (start.elapsed_time(end) / 1000)
