"""The node that adds a LoRA to loaded models; chain as many as wanted."""

from __future__ import annotations

from dataclasses import replace

from . import host
from .compat import io
from .sockets import HostModels, Models


class AddLora(io.ComfyNode):
    """Another branch of the workflow that uses the same models is not affected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreativeUpscaler_AddLora",
            display_name="Add Creative Upscale LoRA",
            category="image/upscaling/creative",
            description="Adds a LoRA to the models of a creative upscale. Chain several to use several.",
            inputs=[
                Models.Input(
                    "models", tooltip="From Load Creative Upscale Models, or from another of these."
                ),
                io.Combo.Input(
                    "lora",
                    options=host.file_names("loras"),
                    tooltip="A LoRA for the family of the base model.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Its weight: 1 is as trained, 0 is none, below 0 is the opposite.",
                ),
            ],
            outputs=[
                Models.Output("models_with_lora", display_name="models", tooltip="For Creative Upscale.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str | None = None, **others: object) -> str:
        """Changes when the file does."""
        return host.file_version("loras", lora or host.NONE)

    @classmethod
    def execute(cls, models: HostModels, lora: str, weight: float) -> io.NodeOutput:
        from ..pipelines.models.loras import read_lora  # noqa: PLC0415  diffusers takes seconds to import

        added = (read_lora(host.find_file("loras", lora)), weight)
        branch = replace(models.models, applied=(*models.models.applied, added))
        return io.NodeOutput(replace(models, models=branch))
