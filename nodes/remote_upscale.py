"""The node that has pictures upscaled by fal, or by any server with the same app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..pipelines.remote.errors import ResultError
from . import remote_host
from .compare import show_compared
from .compat import io
from .remote_inputs import picture_inputs, read_inputs

if TYPE_CHECKING:
    from ..pipelines.remote.preparing import Upscaled
    from ..pipelines.remote.upscaling import RemoteUpscaler

CATEGORY = "image/upscaling/creative"


class RemoteUpscale(io.ComfyNode):
    """`pipelines.remote.upscaling.RemoteUpscaler` with ComfyUI's pictures, interrupts and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_Remote",
            display_name="Creative Upscale (fal)",
            category=CATEGORY,
            description="Has pictures upscaled by fal's creative-upscaler, or an app with its schema. Costs "
            "money; needs a key in FAL_KEY or in the settings, never in the workflow.",
            inputs=picture_inputs(),
            outputs=[
                io.Image.Output("upscaled", display_name="image", tooltip="The results, in order."),
                io.Int.Output("used_seed", display_name="seed", tooltip="The seed of the first result."),
                io.String.Output(
                    "request_ids", display_name="request ids", tooltip="Of the service, one per line."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, force_new: bool = False, **_: Any) -> float:
        """Never the same when a new run is forced."""
        return float("nan") if force_new else 0.0

    @classmethod
    async def execute(cls, image: Tensor | None = None, **values: Any) -> io.NodeOutput:
        asked = read_inputs(image, values)
        report = remote_host.NodeReport(len(asked.pictures))

        async def work() -> list[Upscaled]:
            async with make_upscaler(asked.options, report) as upscaler:
                return await upscaler.upscale(asked.pictures)

        results = await remote_host.run_interruptibly(work(), report)
        seed = int(results[0].seed) if results[0].seed else asked.seed
        pictures = join_pictures(results)
        requests = "\n".join(result.request_id for result in results)
        # A picture given by its address is not read here, so there is nothing to compare with.
        shown = None if image is None else show_compared(image, pictures)
        return io.NodeOutput(pictures, seed, requests, ui=shown)


def make_upscaler(options: Any, report: remote_host.NodeReport) -> RemoteUpscaler:
    """The engine with ComfyUI's private folder and environment."""
    from ..pipelines.remote.upscaling import RemoteUpscaler  # noqa: PLC0415  Pillow and the network

    return RemoteUpscaler(
        folder=remote_host.private_folder(),
        environment=remote_host.environment(),
        options=options,
        report=report,
    )


def join_pictures(results: list[Upscaled]) -> Tensor:
    """The results as ComfyUI's `[B,H,W,C]`. Raises `ResultError` if they differ in size."""
    shapes = {tuple(result.image.shape) for result in results}
    if len(shapes) > 1:
        listed = ", ".join(f"{shape[2]} x {shape[1]} px" for shape in sorted(shapes))
        raise ResultError(
            f"the results differ in size or transparency ({listed}) and make no batch; collect them one by "
            "one by their request ids, which costs nothing"
        )
    return torch.stack([result.image for result in results]).movedim(1, -1)
