"""What a tile of the canvas is denoised by where the engine has loaded the models: diffusers' networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import TileControl
from .models import CreativeModels
from .prompting import TextConditioning
from .schedules import timestep_of_sigma
from .tiling import Job

GUIDANCE_INTERVAL = (0.28, 5.42)
"""Noise levels at which guidance helps most (Kynkäänniemi et al. 2024, for latent diffusion)."""


@dataclass(frozen=True, kw_only=True)
class DiffusersDenoiser:
    """A diffusers UNet under classifier-free guidance, with an optional tile ControlNet.

    `positive` and `negative` hold one conditioning per picture, all of the same number of tokens;
    `guidance` 1 leaves out the negative branch. With `guidance_interval` that also happens outside
    of `GUIDANCE_INTERVAL`.
    """

    models: CreativeModels
    unet: torch.nn.Module
    """The models' UNet, or a compiled form of it."""
    positive: Sequence[TextConditioning]
    negative: Sequence[TextConditioning]
    guidance: float
    guidance_interval: bool = False
    control: TileControl | None = None

    def denoise(self, x: Tensor, sigma: float, jobs: Sequence[Job], progress: float) -> Tensor:
        low, high = GUIDANCE_INTERVAL
        guided = self.guidance != 1 and (not self.guidance_interval or low < sigma <= high)
        conditioning = [self.positive[job.image] for job in jobs]
        if guided:
            conditioning += [self.negative[job.image] for job in jobs]
            jobs = [*jobs, *jobs]
        samples = torch.cat([x, x]) if guided else x
        clean = self._predict(samples, sigma, jobs, conditioning, progress)
        if not guided:
            return clean
        positive, negative = clean.chunk(2)
        return negative + self.guidance * (positive - negative)

    def _predict(
        self, x: Tensor, sigma: float, jobs: Sequence[Job], texts: Sequence[TextConditioning], progress: float
    ) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        variance = sigma**2 + 1
        scaled = (x / variance**0.5).to(dtype)
        timestep = torch.tensor(float(timestep_of_sigma(self.models.alphas_cumprod, sigma)), device=x.device)
        hidden = torch.cat([text.hidden for text in texts]).to(x.device, dtype)
        added = self._size_conditioning(texts, jobs, x.device)
        residuals = {}
        if self.control is not None:
            residuals = self.control.residuals(scaled, timestep, hidden, added, jobs, progress)
        output = self.unet(
            scaled,
            timestep,
            encoder_hidden_states=hidden,
            added_cond_kwargs=added,
            return_dict=False,
            **residuals,
        )[0].float()
        if self.models.prediction_type == "v_prediction":
            # Salimans & Ho 2022, eq. 10, with alpha = 1/sqrt(variance) and sigma/sqrt(variance).
            return x / variance - output * (sigma / variance**0.5)
        return x - sigma * output

    def _size_conditioning(
        self, texts: Sequence[TextConditioning], jobs: Sequence[Job], device: torch.device
    ) -> dict[str, Tensor] | None:
        """SDXL's extra inputs: every tile is presented as a whole picture of its own size.

        Real positions within a large canvas would be crop offsets that the network never saw in training.
        """
        if self.models.model_type != "SDXL":
            return None
        factor = self.models.scale_factor
        size = [(factor * job.tile.height, factor * job.tile.width) for job in jobs]
        # In float32, since bfloat16 cannot hold most sizes; the network casts what it makes of them.
        time_ids = torch.tensor([[h, w, 0, 0, h, w] for h, w in size], device=device, dtype=torch.float32)
        pooled = torch.cat([text.pooled for text in texts if text.pooled is not None]).to(device)
        return {"text_embeds": pooled, "time_ids": time_ids}
