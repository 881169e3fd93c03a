"""The engine: torch, diffusers, transformers; nothing of the host."""
