"""Architectures in Keras: what tasks share, what each has of its own, and a head for each."""

from mtl_tutorial.keras.models.box_head import BoxHead
from mtl_tutorial.keras.models.cross_stitch import CrossStitch
from mtl_tutorial.keras.models.hard_sharing import HardSharing, linear_heads, mlp
from mtl_tutorial.keras.models.mmoe import MMoE
from mtl_tutorial.keras.models.modulated import Modulated
from mtl_tutorial.keras.models.mtan import MTAN
from mtl_tutorial.keras.models.ple import PLE
from mtl_tutorial.keras.models.resnet import load_resnet18, resnet18
from mtl_tutorial.keras.models.scene_cnn import SceneBoxHead, SceneCNN, scene_heads
from mtl_tutorial.keras.models.shared_private import SharedPrivate
from mtl_tutorial.keras.models.soft_sharing import SoftSharing
from mtl_tutorial.keras.models.table_embedding import TableEmbedding
from mtl_tutorial.keras.models.text_lstm import TextHead, TextLSTM, TextTransformer

__all__ = [
    "MTAN",
    "PLE",
    "BoxHead",
    "CrossStitch",
    "HardSharing",
    "MMoE",
    "Modulated",
    "SceneBoxHead",
    "SceneCNN",
    "SharedPrivate",
    "SoftSharing",
    "TableEmbedding",
    "TextHead",
    "TextLSTM",
    "TextTransformer",
    "linear_heads",
    "load_resnet18",
    "mlp",
    "resnet18",
    "scene_heads",
]
