"""Architectures in Keras: a trunk that tasks share, and a head for each."""

from mtl_tutorial.keras.models.box_head import BoxHead
from mtl_tutorial.keras.models.hard_sharing import HardSharing, linear_heads, mlp
from mtl_tutorial.keras.models.resnet import load_resnet18, resnet18
from mtl_tutorial.keras.models.scene_cnn import SceneBoxHead, SceneCNN, scene_heads
from mtl_tutorial.keras.models.text_lstm import TextHead, TextLSTM, TextTransformer

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
