"""LoRA files merged into networks that keep their identity, and taken out again without a trace."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelFileError
from .files import read_metadata, read_tensors
from .lora_changes import Change, make_change
from .lora_layouts import ModuleName, kind_of_model, module_names, split_key


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA file of any supported kind: its changes by module, as the file spells it."""

    path: Path
    changes: dict[str, Change]


def read_lora(path: Path) -> Lora:
    """Read LoRA, LoCon, LoHa, LoKr, DoRA or full differences, kohya's, LyCORIS', peft's or diffusers' layout.

    A peft folder's `adapter_model.safetensors` takes its alpha from the `adapter_config.json` beside it.
    Raises ModelFileError for every key that has no known meaning and for parts that do not make a whole.
    """
    return lora_from_tensors(path, read_tensors(path), _peft_configs(path))


def lora_from_tensors(
    path: Path, tensors: Mapping[str, Tensor], peft_configs: Mapping[str, Mapping[str, Any]] | None = None
) -> Lora:
    """As `read_lora`, from the file's tensors and the settings of peft, if any, by network ("" for all)."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            raise ModelFileError(path, f"has a key that is not known from any kind of LoRA: {key}")
        module, part = split
        if part in modules.setdefault(module, {}):
            raise ModelFileError(path, f"has {part} of {module} twice")
        modules[module][part] = tensor
    if not modules:
        raise ModelFileError(path, "has no tensors")
    changes = {}
    for module, parts in modules.items():
        try:
            changes[module] = make_change(parts, _peft_scale(peft_configs or {}, module, parts))
        except (ValueError, TypeError, AttributeError, re.error) as error:
            raise ModelFileError(path, f"{module} {error}") from error
    return Lora(path, changes)


Slot = tuple[str, str, str]
"""A tensor that a LoRA changes: role and name of the module, "weight" or "bias"."""


class LoraStack:
    """Merges LoRAs into networks in place and owns what their weights were before.

    `modules` by role: "unet", "text_encoder" and, for SDXL, "text_encoder_2". They stay the same objects and
    may move between devices at any time: tensors are looked up by name whenever they are needed.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._networks = dict(modules)
        self._names = module_names(modules)
        self._originals: dict[Slot, Tensor] = {}  # on the CPU, of what is changed now
        self._applied: tuple[tuple[Lora, float], ...] | None = ()  # None: unknown, a change was broken off

    # Works on tensors made inside and outside of inference mode, as a host may run us in it or not.
    @torch.inference_mode()
    def apply(self, loras: Sequence[tuple[Lora, float]]) -> None:
        """Make the weights the original ones with these LoRAs at their strengths (any sign), no others.

        Sums are made in float32 where the weights are, one module at a time, and rounded once. Order matters
        to DoRA only: it renormalises the weight that the LoRAs before it left, changed by itself in full (as
        in the paper and in peft; ComfyUI takes the norm of rows before that change), and its strength blends
        between that weight and the result. Strength 0 changes nothing. The set that is applied already costs
        nothing; `()` restores every bit.
        Raises ModelFileError before any weight is touched if a change has no module of its name and shape.
        """
        wanted = tuple(loras)
        if wanted == self._applied:
            return
        plan: dict[Slot, list[tuple[Change, float]]] = {}
        for lora, strength in wanted:
            for slot, change in self._locate(lora):
                if strength != 0:
                    plan.setdefault(slot, []).append((change, strength))
        self._applied = None
        for slot in self._originals.keys() - plan.keys():
            self._tensor(slot).copy_(self._originals[slot])
            del self._originals[slot]
        for slot, changes in plan.items():
            self._write(slot, changes)
        self._applied = wanted

    def _write(self, slot: Slot, changes: Sequence[tuple[Change, float]]) -> None:
        tensor = self._tensor(slot)
        if slot not in self._originals:
            self._originals[slot] = tensor.to("cpu", copy=True)
        merged = self._originals[slot].to(tensor.device, torch.float32)
        for change, strength in changes:
            merge = change.merge if slot[2] == "weight" else change.merge_bias
            merged = merge(merged, strength)
        tensor.copy_(merged)

    def _tensor(self, slot: Slot) -> Tensor:
        role, module, name = slot
        return getattr(self._networks[role].get_submodule(module), name)

    def _locate(self, lora: Lora) -> list[tuple[Slot, Change]]:
        """Where each change goes. Raises ModelFileError for the first that goes nowhere."""
        slots: dict[Slot, Change] = {}
        for spelling, change in lora.changes.items():
            if spelling not in self._names:
                raise self._misfit(lora, f"{spelling} is no module of the loaded model")
            found = self._names[spelling]
            for slot in self._slots(lora, spelling, change, found):
                if slot in slots:
                    raise ModelFileError(lora.path, f"changes {'.'.join(found)} twice, under two names")
                slots[slot] = change
        return list(slots.items())

    def _slots(self, lora: Lora, spelling: str, change: Change, found: ModuleName) -> list[Slot]:
        module: Any = self._networks[found[0]].get_submodule(found[1])
        for name, shape in change.shapes.items():
            tensor = getattr(module, name, None)
            if not isinstance(tensor, Tensor):
                raise self._misfit(lora, f"{spelling} has no {name} in the loaded model")
            # Convolutions may be given flattened, and 1x1 convolutions as linear layers and the reverse.
            if shape[:1] != tensor.shape[:1] or shape.numel() != tensor.numel():
                sizes = f"{list(shape)}, the loaded model's is {list(tensor.shape)}"
                raise self._misfit(lora, f"the {name} of {spelling} is {sizes}")
        if change.magnitude is not None:
            rows, columns = module.weight.shape[:2]
            if change.magnitude.shape not in ((rows, 1), (1, columns)):
                sizes = f"{list(change.magnitude.shape)}, not [{rows}, 1] or [1, {columns}]"
                raise self._misfit(lora, f"the DoRA scale of {spelling} is {sizes}")
        return [(*found, name) for name in change.shapes]

    def _misfit(self, lora: Lora, reason: str) -> ModelFileError:
        """The error for a LoRA that does not fit, which says what model it is for if that shows."""
        theirs = kind_of_model(
            (name, change.shapes["weight"]) for name, change in lora.changes.items() if change.factors
        )
        ours = kind_of_model(
            (name, module.weight.shape)
            for name, module in self._networks["unet"].named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        )
        if theirs and not (ours or "").startswith(theirs):
            reason = f"is a LoRA for {theirs}, the loaded model is {ours or 'another'}: {reason}"
        return ModelFileError(lora.path, reason)


def _peft_configs(path: Path) -> dict[str, dict[str, Any]]:
    """Settings that peft and diffusers keep beside the tensors, by network; "" where they are for all."""
    try:
        beside = path.with_name("adapter_config.json")
        if path.name.startswith("adapter_model.") and beside.is_file():
            return {"": _checked(json.loads(beside.read_text(encoding="utf-8")))}
        packed = json.loads(read_metadata(path).get("lora_adapter_metadata", "{}"))
        configs: dict[str, dict[str, Any]] = {}
        for key, value in packed.items():  # "unet.lora_alpha": 8
            network, _, name = key.partition(".")
            configs.setdefault(network, {})[name] = value
        return {network: _checked(config) for network, config in configs.items()}
    except (ValueError, AttributeError) as error:
        raise ModelFileError(path, f"has unreadable adapter settings: {error}") from error


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    # peft writes LoHa and LoKr with LyCORIS' keys and another scale.
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"the peft type is {config['peft_type']}, only LORA is supported")
    return config


def _peft_scale(
    configs: Mapping[str, Mapping[str, Any]], module: str, parts: Mapping[str, Tensor]
) -> float | None:
    """alpha/rank as peft's settings say it (`alpha_pattern`, `use_rslora`), None where there are none."""
    network, _, name = module.partition(".")
    config = configs.get(network, configs.get("", {}))
    if "lora_alpha" not in config or not parts.get("down", torch.empty(0)).numel():
        return None
    name = name if network in configs else module
    alphas = [
        alpha
        for pattern, alpha in (config.get("alpha_pattern") or {}).items()
        if re.match(rf"(.*\.)?({pattern})$", name)
    ]
    rank = len(parts["down"])
    return float((alphas or [config["lora_alpha"]])[0]) / (rank**0.5 if config.get("use_rslora") else rank)
