"""The tiled sampler for any model that ComfyUI has loaded: MODEL, CONDITIONING, VAE and CONTROL_NET.

Nothing of ComfyUI is replaced: a model is cloned and given a wrapper of ComfyUI's own kind around
`calc_cond_batch`, which sees the whole canvas at every step and evaluates it in tiles, above ControlNets,
LoRA hooks and whatever else is patched in. Plan, weights, moving borders, batches and the retry when memory
runs out are the engine's (`pipelines.tiling`, `pipelines.tiled_diffusion`).

The public functions, each in the module that its name begins with:

`patching.tile_model(model, *, tile_size=0, tile_overlap=64, tile_batch=0, moving_borders=True) -> MODEL`
    A clone of a MODEL that any sampler of ComfyUI samples in tiles. Sizes in pixels; `tile_size` 0 picks a
    range that suits the model, `tile_batch` 0 follows from free memory. The model itself stays unpatched.

`patching.tiling_of(model) -> patching.Tiling | None`
    What `tile_model` added to this model; `.evaluations` counts tiles denoised (conditionings not counted
    apart) and `.calls` evaluations of batches, both since the last run began.

`noise_levels.creative_sigmas(sampling, creativity, steps, scheduler, sampler_name="") -> Tensor`
    `[n+1]` float32 sigmas of a ComfyUI scheduler for a `model_sampling`, pinned to begin at the noise level
    of `creativity` and end at 0. For a flow model the first has the same ratio of noise to signal.

`noise_levels.cut_sigmas(sampling, sigmas, creativity) -> Tensor`
    The part of a user's SIGMAS below the noise level of `creativity`, which becomes the first.

`upscaling.creative_upscale(image, parameters, *, model, positive, negative, vae, control_net=None,
upscale_model=None, sampler="dpmpp_2m", schedule="karras", runtime=None) -> upscaling.HostUpscaled`
    `image` `[B,3|4,H,W]` in 0..1, `parameters` the engine's `UpscaleParameters` (its own `sampler`,
    `scheduler`, prompts and model settings are not used). `sampler` is a ComfyUI name or SAMPLER, `schedule`
    a ComfyUI name or SIGMAS. Result: `.image` `[B,3|4,H,W]` in exactly the asked size, `.seed`,
    `.evaluations`, `.notes`.

The nodes are thin: `nodes/host_upscale.py` (CreativeUpscaler_UpscaleHostModel with `sampler_name` and
`scheduler` widgets, CreativeUpscaler_UpscaleHostModelAdvanced with `sampler` and `sigmas` sockets) and
`nodes/host_tiling.py` (CreativeUpscaler_TiledDiffusion: `model`, `tile_size`, `tile_overlap`, `tile_batch`,
`moving_borders`).
"""
