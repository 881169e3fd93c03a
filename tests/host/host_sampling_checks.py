"""What else meets the tiled sampler in ComfyUI: guiders, model patches, scarce memory, VAEs; as numbers."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import torch
from comfy_extras import nodes_model_patch, nodes_pag, nodes_perpneg
from host_model_sampling import (
    HEIGHT,
    WIDTH,
    crop,
    distance,
    locate,
    network_of,
    predict,
    sample,
    watching,
)
from host_tiling_checks import SMALL, scarce_memory
from tiny_host_models import Models, picture
from tiny_host_networks import CPU, fill
from torch import Tensor


class SamplingChecks:
    def __init__(self, pack: Any, families: dict[str, Models]) -> None:
        self.pack = pack
        self.tile = pack("nodes.host_models.patching").tile_model
        self.families = families

    def patched_control(self) -> dict[str, Any]:
        """Qwen-Image's control that is patched into a MODEL: what it saw for tiles, and its effect."""
        models, image = self.families["qwen"], picture(8 * HEIGHT, 8 * WIDTH, seed=3)
        network = fill(
            nodes_model_patch.QwenImageBlockWiseControlNet(
                num_layers=2, in_dim=64, dim=64, operations=comfy.ops.disable_weight_init
            )
        )
        control = comfy.model_patcher.ModelPatcher(network, CPU, CPU)
        node = nodes_model_patch.QwenImageDiffsynthControlnet()
        (patched,) = node.diffsynth_controlnet(models.model, control, models.vae, image, 1.0)
        seen: list[Tensor] = []
        hook = network.img_in.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].clone()))
        with watching(network_of(models)) as calls:
            with_it = predict(models, self.tile(patched, **SMALL), cfg=1.0)
        hook.remove()
        whole = comfy.latent_formats.Wan21().process_in(models.vae.encode(image))[0]
        worst = 0.0
        for x, tokens in zip(calls.inputs, seen, strict=True):
            part = crop(whole, *locate(x[0], with_it.canvas[0]), x[0])[:, 0]
            patches = part.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).permute(1, 3, 0, 2, 4)
            worst = max(worst, distance(tokens, patches.reshape(tokens.shape)))
        without = predict(models, self.tile(models.model, **SMALL), cfg=1.0)
        return {"hint": worst, "effect": distance(with_it.clean, without.clean)}

    def one_sample_at_a_time(self) -> float:
        """Distance of what is made with memory for one sample only to what is made with enough."""
        models = self.families["sd15"]
        expected = sample(models, self.tile(models.model, tile_batch=1, **SMALL))
        with scarce_memory(network_of(models), 1):
            return distance(sample(models, self.tile(models.model, **SMALL)), expected)

    def other_guidance(self) -> dict[str, list[Any]]:
        """Shapes that the network saw under guidance that evaluates once more, and three conditionings."""
        models = self.families["sd15"]
        pag = nodes_pag.PerturbedAttentionGuidance
        run = getattr(pag, "execute", None) or pag().patch
        perturbed = run(models.model, 3.0)
        perturbed = getattr(perturbed, "args", perturbed)[0]
        with watching(network_of(models)) as perturbed_calls:
            sample(models, self.tile(perturbed, **SMALL))
        guider = nodes_perpneg.Guider_PerpNeg(self.tile(models.model, **SMALL))
        guider.set_conds(models.positive, models.negative, models.negative)
        guider.set_cfg(3.0, 1.0)
        latents = models.latents(HEIGHT, WIDTH)
        sampling = models.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)
        with watching(network_of(models)) as three_calls:
            euler = comfy.samplers.sampler_object("euler")
            guider.sample(torch.ones_like(latents), latents, euler, sigmas, disable_pbar=True, seed=1)
        return {
            name: sorted({tuple(x.shape[-2:]) for x in calls.inputs})
            for name, calls in (("perturbed", perturbed_calls), ("three", three_calls))
        }

    def exact_codec(self) -> dict[str, list[float]]:
        """Distances of the engine's codec to ComfyUI's VAE; and whether a film VAE has one."""
        codec, runtime = self.pack("nodes.host_models.codec"), self._runtime()
        image, found = picture(96, 160).movedim(-1, 1), {}
        for name in ("sd15", "flux"):
            vae = self.families[name].vae
            exact = codec.exact_codec(vae, runtime)
            latents = vae.encode(image.movedim(1, -1))
            decoded = vae.decode(latents).movedim(-1, 1)
            found[name] = [
                distance(exact.encode(image), latents),
                distance(exact.decode(latents), decoded.clamp(0, 1)),
            ]
        found["qwen"] = [float(codec.exact_codec(self.families["qwen"].vae, runtime) is not None)]
        return found

    def detail_like_the_engine(self) -> dict[str, float]:
        """Distance of what `detail` makes of a canvas to the engine's, for sigmas of Stable Diffusion."""
        guiding, engine = self.pack("nodes.host_models.guiding"), self.pack("pipelines.detail")
        generator = torch.Generator().manual_seed(0)
        x, clean, last = torch.randn(3, 1, 4, 8, 8, generator=generator).unbind()
        mask = torch.rand(1, 1, 8, 8, generator=generator)
        sigmas = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0])
        amounts = engine.lie_amounts(2.0, 4)
        seen: list[Tensor] = []

        def denoise(canvas: Tensor, sigma: float, index: int) -> Tensor:
            seen.append(canvas)
            return last

        theirs = engine.with_detail(denoise, amounts, mask, clean)
        mine = guiding.Detail(amounts, sigmas, mask, clean)
        worst, change = 0.0, 0.0
        model = self.families["sd15"].model.model
        for index, sigma in enumerate(sigmas[:-1]):
            theirs(x, float(sigma), index)
            changed = mine.change(x, sigma[None], model)
            mine.remember({"denoised": last})
            worst = max(worst, distance(changed, seen[-1]))
            change = max(change, distance(changed, x))
        return {"to the engine's": worst, "to none": change}

    def prompts_of_pictures(self) -> list[float]:
        """Which of two prompts the pictures of a batch are given."""
        of_picture = self.pack("nodes.host_models.guiding").of_picture
        text = torch.arange(2.0)[:, None, None].expand(2, 3, 4)
        both = [[text, {"pooled_output": text[:, 0], "strength": 1.0}]]
        picked = [of_picture(both, index)[0] for index in range(3)]
        assert all(more["pooled_output"].shape == (1, 4) for _, more in picked)
        return [float(words.mean()) for words, _ in picked]

    def _runtime(self) -> Any:
        return self.pack("pipelines.runtime").Runtime(self.pack("nodes.host").HostMemory())
