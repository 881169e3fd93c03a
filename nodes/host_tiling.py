"""The node that lets any sampler of ComfyUI work in tiles."""

from __future__ import annotations

from typing import Any

from ..pipelines.parameters import UpscaleParameters
from .compat import io
from .widgets import make_widget

OVERLAP = 64
"""Default least overlap in pixels; moving borders need no more where nothing else holds tiles together."""


SETTINGS = ("tile_size", "tile_overlap", "tile_batch")


class TiledDiffusion(io.ComfyNode):
    """`host_models.patching.tile_model` as a node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        widgets = [make_widget(p) for p in UpscaleParameters.declared() if p.name in SETTINGS]
        for widget in widgets:
            widget.optional = False
            widget.extra_dict = {}
            if widget.id == "tile_overlap":
                widget.default = OVERLAP
        return io.Schema(
            node_id="CreativeUpscaler_TiledDiffusion",
            display_name="Tiled Diffusion (moving borders)",
            category="image/upscaling/creative",
            description="Lets any sampler draw pictures of any size with this model: in tiles, without "
            "seams. ControlNets, areas and masks stay where they belong.",
            inputs=[
                io.Model.Input("model", tooltip="Any model that draws pictures, with its patches."),
                *widgets,
                io.Boolean.Input(
                    "moving_borders",
                    default=True,
                    tooltip="Tiles lie elsewhere at every step, so that no border is left in one place.",
                ),
            ],
            outputs=[io.Model.Output("tiled", display_name="model", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(
        cls, model: Any, tile_size: int, tile_overlap: int, tile_batch: int, moving_borders: bool
    ) -> io.NodeOutput:
        from .host_models.patching import tile_model  # noqa: PLC0415  only where it is used

        return io.NodeOutput(
            tile_model(
                model,
                tile_size=tile_size,
                tile_overlap=tile_overlap,
                tile_batch=tile_batch,
                moving_borders=moving_borders,
            )
        )
