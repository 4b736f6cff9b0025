"""Architectures in PyTorch: a trunk that tasks share, and a head for each."""

from mtl_tutorial.pytorch.models.box_head import BoxHead
from mtl_tutorial.pytorch.models.hard_sharing import HardSharing, linear_heads, mlp
from mtl_tutorial.pytorch.models.resnet import load_resnet18, resnet18
from mtl_tutorial.pytorch.models.scene_cnn import SceneBoxHead, SceneCNN, scene_heads
from mtl_tutorial.pytorch.models.text_lstm import TextHead, TextLSTM, TextTransformer

__all__ = [
    "BoxHead",
    "HardSharing",
    "SceneBoxHead",
    "SceneCNN",
    "TextHead",
    "TextLSTM",
    "TextTransformer",
    "linear_heads",
    "load_resnet18",
    "mlp",
    "resnet18",
    "scene_heads",
]
