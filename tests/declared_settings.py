"""Every class whose settings become widgets; help pages take units and choices from them."""

from __future__ import annotations

from creative_upscaler.pipelines.caption_settings import CaptionSettings
from creative_upscaler.pipelines.ccsr.settings import CcsrSettings
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.remote.options import RemoteOptions

SETTINGS = (UpscaleParameters, CcsrSettings, CaptionSettings, RemoteOptions)
