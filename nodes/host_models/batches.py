"""A batch of tiles as one of ComfyUI's own evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...pipelines.tiling import Job
from .conditioning import CanvasEntry

if TYPE_CHECKING:
    from .canvas import Canvas

Groups = list[list[CanvasEntry] | None]
"""Entries by conditioning; None for one that is not evaluated."""


@dataclass(frozen=True)
class TileBatches:
    """A `Denoiser` of tiles for one evaluation of a canvas; estimates are stacked as channels.

    `execute` is ComfyUI's evaluation of `conds`, to which their order says what guides and what guides away.
    """

    canvas: Canvas
    execute: Any
    conds: Sequence[Sequence[dict[str, Any]] | None]
    x: Tensor
    sigma: Tensor
    options: dict[str, Any]

    def denoise(self, x: Tensor, sigma: float, jobs: Sequence[Job], progress: float) -> Tensor:
        """`[N,C,...,h,w]` of tiles to `[N,K*C,...,h,w]` for K conditionings that are not None."""
        entries = [
            None if group is None else [self.canvas.entry(entry, self.x, self.sigma) for entry in group]
            for group in self.conds
        ]
        alike = defaultdict(list)
        for row, job in enumerate(jobs):
            alike[tuple(entry.counts_in(job) for group in entries for entry in group or ())].append(row)
        result: Tensor | None = None
        for counting, rows in alike.items():
            groups = _only(entries, counting)
            estimates = torch.cat(self._denoise_alike(x[rows], [jobs[row] for row in rows], groups), dim=1)
            if len(rows) == len(jobs):
                return estimates
            if result is None:
                result = estimates.new_empty(len(jobs), *estimates.shape[1:])
            result[rows] = estimates
        assert result is not None
        return result

    def _denoise_alike(self, x: Tensor, jobs: Sequence[Job], groups: Groups) -> list[Tensor]:
        """Estimates by conditioning of tiles in which the same entries count."""
        controls: dict[int, Any] = {}
        conds: list[Any] = []
        for index, group in enumerate(groups):
            kind = "negative" if index else "positive"
            conds.append(None if group is None else [self._entry(e, jobs, kind, controls) for e in group])
        options = self.canvas.patched(self.options, jobs)
        present = [index for index, cond in enumerate(conds) if cond is not None]
        if not self.canvas.apart:
            try:
                estimates = self._execute(conds, x, options)
                return [estimates[index] for index in present]
            except Exception as error:
                if len(x) > 1 or len(present) == 1:
                    raise
                if not self.canvas.runtime.memory.is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback would keep the failed attempt's tensors alive.
            self.canvas.apart = True
            self.canvas.runtime.memory.release()
        return [
            self._execute([cond if i == index else None for i, cond in enumerate(conds)], x, options)[index]
            for index in present
        ]

    def _execute(self, conds: list[Any], x: Tensor, options: dict[str, Any]) -> list[Tensor]:
        self.canvas.calls += 1
        return self.execute(self.canvas.model, conds, x, self.sigma[:1].expand(len(x)), options)

    def _entry(
        self, entry: CanvasEntry, jobs: Sequence[Job], kind: str, controls: dict[int, Any]
    ) -> dict[str, Any]:
        given = entry.for_tiles(jobs, self.canvas.model, self.x.device, kind)
        if entry.control is not None:
            # Conditionings are evaluated together only if they share one control.
            key = id(entry.control)
            if key not in controls:
                controls[key] = self.canvas.control(entry.control, jobs, self.x, self.sigma)
            given["control"] = controls[key]
        return given


def _only(entries: Groups, counting: Sequence[bool]) -> Groups:
    """Those entries that count."""
    flags = iter(counting)
    return [None if group is None else [entry for entry in group if next(flags)] for group in entries]
