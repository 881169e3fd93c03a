"""Models from files: what a creative upscale needs, checked before it is used, and never from a network."""

from .base import CreativeModels, TextEncoder, load_models

__all__ = ["CreativeModels", "TextEncoder", "load_models"]
