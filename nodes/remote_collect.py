"""The nodes that submit pictures now and fetch the results later, in another run or another graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..pipelines.remote.errors import RemoteError
from . import remote_host
from .compat import io, ui
from .remote_inputs import option_inputs, picture_inputs, read_inputs, read_options
from .remote_upscale import CATEGORY, make_upscaler

if TYPE_CHECKING:
    from ..pipelines.remote.journal import Entry
    from ..pipelines.remote.preparing import Upscaled


class RemoteSubmit(io.ComfyNode):
    """Submits and does not wait."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_RemoteSubmit",
            display_name="Submit to fal",
            category=CATEGORY,
            description="Submits pictures and does not wait: collect the results with Collect from fal, here "
            "or in another workflow, now or later.",
            inputs=picture_inputs(),
            outputs=[
                io.String.Output("request_ids", display_name="request ids", tooltip="For Collect from fal."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, force_new: bool = False, **_: Any) -> float:
        """Never the same when a new run is forced."""
        return float("nan") if force_new else 0.0

    @classmethod
    async def execute(cls, image: Tensor | None = None, **values: Any) -> io.NodeOutput:
        asked = read_inputs(image, values)
        report = remote_host.NodeReport(len(asked.pictures))

        async def work() -> list[Entry]:
            async with make_upscaler(asked.options, report) as upscaler:
                return await upscaler.submit(asked.pictures)

        entries = await remote_host.run_interruptibly(work(), report)
        text = "\n".join(entry.request_id for entry in entries)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


class RemoteCollect(io.ComfyNode):
    """Waits for requests and fetches their results."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = ("endpoint", "credential", "concurrency", "queue_timeout", "run_timeout", "transfer_timeout")
        return io.Schema(
            node_id="CreativeUpscaler_RemoteCollect",
            display_name="Collect from fal",
            category=CATEGORY,
            description="Fetches the results of submitted requests, waiting for those that still run.",
            inputs=[
                io.String.Input(
                    "request_ids",
                    default="",
                    multiline=True,
                    tooltip="One per line, from Submit to fal. Empty: all that was submitted with that node "
                    "and not collected yet.",
                ),
                *option_inputs(*names),
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="images", tooltip="One for each request.", is_output_list=True
                ),
                io.Int.Output(
                    "used_seeds", display_name="seeds", tooltip="Their seeds.", is_output_list=True
                ),
                io.String.Output("collected_ids", display_name="request ids", tooltip="One per line."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, request_ids: str = "", **_: Any) -> float:
        """What is left to be collected changes."""
        return 0.0 if request_ids is None or request_ids.strip() else float("nan")

    @classmethod
    async def execute(cls, request_ids: str = "", **values: Any) -> io.NodeOutput:
        options = read_options(values)
        listed = list(dict.fromkeys(request_ids.split()))
        if not listed:
            from ..pipelines.remote.journal import Journal  # noqa: PLC0415  the other nodes do without

            journal = Journal(remote_host.private_folder())
            listed = [entry.request_id for entry in journal.entries(to_collect=True)]
        if not listed:
            raise RemoteError("there is nothing to collect: no request ids are given, and none are waiting")
        report = remote_host.NodeReport(len(listed))

        async def work() -> list[Upscaled]:
            async with make_upscaler(options, report) as upscaler:
                return await upscaler.collect(listed)

        results = await remote_host.run_interruptibly(work(), report)
        images = [result.image.movedim(0, -1)[None] for result in results]
        seeds = [int(result.seed or 0) for result in results]
        return io.NodeOutput(images, seeds, "\n".join(listed))
