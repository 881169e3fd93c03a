"""CCSR: restoration under a diffusion prior, in few steps and with little that is made up.

Improving the Stability of Diffusion Models for Content Consistent Super-Resolution (Sun et al. 2023,
arXiv:2401.00877), versions 1 and 2. `upscaling.ccsr_upscale` is the whole of it; `settings` says what can be
asked for, `loading` reads the published files, `sampling` is the truncated chain, `tiles` how a large picture
is cut, `denoising` what evaluates its tiles. Nothing is imported here, so that the settings stay cheap.
"""
