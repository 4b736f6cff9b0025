"""Architectures in PyTorch: a trunk that tasks share, and a head for each."""

from mtl_tutorial.pytorch.models.hard_sharing import HardSharing, linear_heads, mlp

__all__ = ["HardSharing", "linear_heads", "mlp"]
