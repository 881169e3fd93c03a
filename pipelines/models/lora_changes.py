"""The algebra of LoRA files: from small factors to the change of one module's weight.

LoRA: Hu et al. 2021, arXiv:2106.09685, eq. 3. LoCon, LoHa and LoKr, each also in Tucker form: Yeh et al.
2023, arXiv:2309.14859, as in the LyCORIS project. DoRA: Liu et al. 2024, arXiv:2402.09353, eq. 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Change:
    """What a file does to one module.

    `factors` make the difference to the weight, times `scale` (alpha/rank); they are empty when only a
    `bias` difference is given. `magnitude` (DoRA), `[out, 1]` or `[1, in]`, is the norm that each row or
    column of the changed weight is brought to.
    """

    factors: dict[str, Tensor]
    scale: float
    bias: Tensor | None
    magnitude: Tensor | None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """What is changed, "weight" or "bias", and the shape of the difference (see `difference`)."""
        shapes = {"weight": shape_of(self.factors)} if self.factors else {}
        return shapes if self.bias is None else {**shapes, "bias": self.bias.shape}

    def merge(self, weight: Tensor, strength: float) -> Tensor:
        """`weight` `[out, in, ...]` in float32 with this change, `strength` times (any sign)."""
        factors = {name: factor.to(weight.device, weight.dtype) for name, factor in self.factors.items()}
        change = difference(factors).reshape(weight.shape)
        if self.magnitude is None:
            return weight.add(change, alpha=strength * self.scale)
        changed = weight.add(change, alpha=self.scale)
        axis = 0 if self.magnitude.shape == (weight.shape[0], 1) else 1
        others = [other for other in range(weight.ndim) if other != axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True) + torch.finfo(weight.dtype).eps
        changed *= self.magnitude.to(norm).reshape(norm.shape) / norm
        return torch.lerp(weight, changed, strength)

    def merge_bias(self, bias: Tensor, strength: float) -> Tensor:
        """`bias` `[out]` in float32 with this change, `strength` times: it has no rank and no magnitude."""
        assert self.bias is not None
        return bias.add(self.bias.to(bias), alpha=strength)


def make_change(parts: Mapping[str, Tensor], default_scale: float | None = None) -> Change:
    """Put one module's tensors together; `default_scale` is for files that have no alpha of their own.

    Raises ValueError, saying why, if they do not make a whole.
    """
    factors = {name: part for name, part in parts.items() if name not in _BESIDES_FACTORS}
    rank = next((len(parts[name]) for name in _RANK_IS_LENGTH_OF if name in parts), None)
    if factors:
        if frozenset(factors) not in _FORMS:
            raise ValueError(f"has only {', '.join(factors)}, which make no whole LoRA, LoHa or LoKr")
        if rank == 0:
            raise ValueError("has rank 0")
        shape_of(factors)
    elif "diff_b" not in parts:
        raise ValueError(f"has only {', '.join(parts)}, without what they scale")
    scale = 1.0
    if rank is not None:
        if "alpha" not in parts:
            scale = 1.0 if default_scale is None else default_scale
        elif parts["alpha"].numel() != 1:
            raise ValueError("has an alpha that is not one number")
        else:
            scale = parts["alpha"].item() / rank
    return Change(factors, scale, parts.get("diff_b"), _magnitude(parts))


def difference(factors: Mapping[str, Tensor]) -> Tensor:
    """The unscaled difference to a weight: `[out, in, ...]`, or `[out, in * h * w]` for a convolution."""
    if "diff" in factors:
        return factors["diff"]
    if "up" in factors:
        up, down = factors["up"].flatten(1), factors["down"].flatten(1)
        if "mid" not in factors:
            return up @ down
        return _factored(up.T, down, factors["mid"])
    if "hada_w1_a" in factors:
        return _side(factors, "hada", 1) * _side(factors, "hada", 2)
    first, second = _side(factors, "lokr", 1), _side(factors, "lokr", 2)
    # kron wants contiguous tensors, which einsum does not give.
    return torch.kron(first.reshape(first.shape + (1,) * (second.ndim - 2)), second.contiguous())


def shape_of(factors: Mapping[str, Tensor]) -> torch.Size:
    """The shape of `difference`, not computing it. Raises ValueError if the factors do not fit together."""
    try:
        return difference({name: factor.to("meta", torch.float32) for name, factor in factors.items()}).shape
    except (RuntimeError, IndexError):
        shapes = ", ".join(f"{name} {list(factor.shape)}" for name, factor in factors.items())
        raise ValueError(f"has parts that do not fit each other: {shapes}") from None


def _side(factors: Mapping[str, Tensor], kind: str, number: int) -> Tensor:
    """One of the two matrices (or kernels) that LoHa multiplies and LoKr nests, given whole or factored."""
    whole = factors.get(f"{kind}_w{number}")
    if whole is not None:
        return whole
    a, b = factors[f"{kind}_w{number}_a"], factors[f"{kind}_w{number}_b"]
    return _factored(a, b, factors.get(f"{kind}_t{number}"))


def _factored(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """`a @ b`, or with a Tucker core `[i, j, h, w]`: a `[i, out]`, b `[j, in]` -> `[out, in, h, w]`."""
    return a @ b if core is None else torch.einsum("ijhw,io,jn->onhw", core, a, b)


def _magnitude(parts: Mapping[str, Tensor]) -> Tensor | None:
    if "magnitude" in parts:  # peft: one number per output, `[out]` or for convolutions `[1, out, 1, 1]`
        return parts["magnitude"].reshape(-1, 1)
    if "dora_scale" not in parts:
        return None
    scale = parts["dora_scale"]  # LyCORIS, kohya: `[out, 1, ...]` or `[1, in, ...]`
    if scale.ndim < 2 or min(scale.shape[:2]) != 1 or scale.numel() != max(scale.shape[:2]):
        raise ValueError(f"has a dora_scale of shape {list(scale.shape)}; it should be [out, 1] or [1, in]")
    return scale.reshape(scale.shape[:2])


_BESIDES_FACTORS = {"alpha", "dora_scale", "magnitude", "diff_b"}
# Where both sides of LoKr are factored, the second decides. Whole LoKr sides and full differences have no
# rank; an alpha means nothing there.
_RANK_IS_LENGTH_OF = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
_HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_FORMS = {
    frozenset(form)
    for form in (
        {"up", "down"},
        {"up", "down", "mid"},
        _HADA,
        _HADA | {"hada_t1", "hada_t2"},
        {"diff"},
        *(
            first | second
            for first, second in product(
                ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}),
                ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
            )
        ),
    )
}
