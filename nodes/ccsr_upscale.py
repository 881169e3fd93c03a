"""The node that enlarges and restores a picture with CCSR."""

from __future__ import annotations

from torch import Tensor

from ..pipelines.ccsr.settings import CcsrSettings
from . import host
from .compare import show_compared
from .compat import io
from .sockets import CcsrSocket, HostCcsr
from .user_limits import check_local_size
from .widgets import make_widget


class CcsrUpscale(io.ComfyNode):
    """`pipelines.ccsr.upscaling.ccsr_upscale` with ComfyUI's pictures, models, memory and progress."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        settings = sorted(CcsrSettings.declared(), key=lambda parameter: parameter.advanced)
        return io.Schema(
            node_id="CreativeUpscaler_CCSRUpscale",
            display_name="CCSR Upscale",
            category="image/upscaling/creative",
            description="Enlarges a picture and restores it with CCSR, faithfully and in few steps.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of them; transparency is kept."),
                CcsrSocket.Input("ccsr", tooltip="From Load CCSR Model."),
                *[make_widget(parameter) for parameter in settings],
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="image", tooltip="The result, in exactly the asked size."
                )
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, ccsr: HostCcsr, **settings: object) -> io.NodeOutput:
        from ..pipelines.ccsr.upscaling import ccsr_upscale  # noqa: PLC0415  diffusers is slow to import
        from ..pipelines.runtime import Runtime  # noqa: PLC0415

        # CCSR works in the latents of Stable Diffusion 1.
        runtime = Runtime(ccsr.memory, host.HostProgress(ccsr.memory.device, "SD_1_5"))
        wanted = CcsrSettings.from_mapping(settings)
        check_local_size(image, wanted)
        result = ccsr_upscale(image.movedim(-1, 1), wanted, ccsr.models, runtime)
        picture = result.movedim(1, -1).to(host.picture_device())
        return io.NodeOutput(picture, ui=show_compared(image, picture))
