"""The PyTorch side: models, losses, one training step, a training loop."""

try:
    import torch  # noqa: F401  # only to see whether it is there
except ModuleNotFoundError as error:
    raise ImportError(
        'mtl_tutorial.pytorch needs PyTorch: pip install "mtl_tutorial[pytorch]"'
    ) from error

from mtl_tutorial.pytorch.backward import accumulated_backward, mtl_backward
from mtl_tutorial.pytorch.losses import (
    batch_losses,
    giou_loss,
    label_counts,
    label_losses,
    task_loss,
)
from mtl_tutorial.pytorch.meta import maml_step, reptile_step
from mtl_tutorial.pytorch.models import (
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
from mtl_tutorial.pytorch.sharing import task_blocks
from mtl_tutorial.pytorch.stacked import fit_stacked
from mtl_tutorial.pytorch.training import evaluate, fit, predict

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
    "accumulated_backward",
    "batch_losses",
    "evaluate",
    "fit",
    "fit_stacked",
    "giou_loss",
    "label_counts",
    "label_losses",
    "linear_heads",
    "load_resnet18",
    "maml_step",
    "mlp",
    "mtl_backward",
    "predict",
    "reptile_step",
    "resnet18",
    "scene_heads",
    "task_blocks",
    "task_loss",
]
