"""The Keras side: models, losses and metrics that skip missing labels, a training step."""

try:
    import keras
except ModuleNotFoundError as error:
    raise ImportError(
        'mtl_tutorial.keras needs Keras and TensorFlow: pip install "mtl_tutorial[keras]"'
    ) from error
if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"mtl_tutorial.keras runs on Keras' TensorFlow backend, not {keras.backend.backend()!r}: "
        "set the environment variable KERAS_BACKEND=tensorflow before Keras is imported"
    )

from mtl_tutorial.keras.losses import giou_loss, label_losses, task_loss, task_losses
from mtl_tutorial.keras.meta import maml_step, reptile_step
from mtl_tutorial.keras.metrics import Scores, evaluate, task_metrics
from mtl_tutorial.keras.models import (
    MTAN,
    PLE,
    BoxHead,
    CrossStitch,
    HardSharing,
    MMoE,
    Modulated,
    SceneBoxHead,
    SceneCNN,
    SharedPrivate,
    SoftSharing,
    TableEmbedding,
    TextHead,
    TextLSTM,
    TextTransformer,
    linear_heads,
    load_resnet18,
    mlp,
    resnet18,
    scene_heads,
)
from mtl_tutorial.keras.sharing import task_blocks
from mtl_tutorial.keras.training import MultiTaskModel

__all__ = [
    "MTAN",
    "PLE",
    "BoxHead",
    "CrossStitch",
    "HardSharing",
    "MMoE",
    "Modulated",
    "MultiTaskModel",
    "SceneBoxHead",
    "SceneCNN",
    "Scores",
    "SharedPrivate",
    "SoftSharing",
    "TableEmbedding",
    "TextHead",
    "TextLSTM",
    "TextTransformer",
    "evaluate",
    "giou_loss",
    "label_losses",
    "linear_heads",
    "load_resnet18",
    "maml_step",
    "mlp",
    "reptile_step",
    "resnet18",
    "scene_heads",
    "task_blocks",
    "task_loss",
    "task_losses",
    "task_metrics",
]
