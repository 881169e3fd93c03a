"""The ComfyUI nodes: sockets and widgets in, one call of the engine, sockets out."""

from __future__ import annotations

from .add_lora import AddLora
from .auto_caption import AutoCaption, LoadCaptioner
from .ccsr_upscale import CcsrUpscale
from .compat import ComfyExtension, io
from .creative_upscale import CreativeUpscale
from .host_tiling import TiledDiffusion
from .host_upscale import UpscaleHostModel, UpscaleHostModelAdvanced
from .load_ccsr import LoadCcsr
from .load_models import LoadModels
from .plan_routes import register_plan_routes
from .remote_collect import RemoteCollect, RemoteSubmit
from .remote_routes import register_routes
from .remote_upscale import RemoteUpscale
from .safety_check import LoadSafetyChecker, SafetyCheck
from .settings_page import register_settings_routes


class CreativeUpscalerExtension(ComfyExtension):
    """What this pack adds to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_routes()
        register_settings_routes()
        register_plan_routes()
        return [
            LoadModels,
            AddLora,
            CreativeUpscale,
            LoadCcsr,
            CcsrUpscale,
            LoadCaptioner,
            AutoCaption,
            LoadSafetyChecker,
            SafetyCheck,
            UpscaleHostModel,
            UpscaleHostModelAdvanced,
            TiledDiffusion,
            RemoteUpscale,
            RemoteSubmit,
            RemoteCollect,
        ]
