"""A node pack of one file, for the servers of the tests: a node that gives a family of tiny models."""

import sys
from pathlib import Path


class TinyModels:
    """`tiny_host_models.build` as a node."""

    CATEGORY = "tests"
    FUNCTION = "build"
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "VAE", "CONTROL_NET")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": ("STRING", {})}}

    def build(self, family):
        sys.path.append(str(Path(__file__).resolve().parent))
        from tiny_host_models import build  # noqa: PLC0415

        models = build(family)
        return models.model, models.positive, models.negative, models.vae, models.control


NODE_CLASS_MAPPINGS = {"TinyModels": TinyModels}
