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

from mtl_tutorial.keras.losses import giou_loss, task_loss, task_losses, task_metrics
from mtl_tutorial.keras.models import HardSharing, linear_heads, mlp
from mtl_tutorial.keras.training import MultiTaskModel

__all__ = [
    "HardSharing",
    "MultiTaskModel",
    "giou_loss",
    "linear_heads",
    "mlp",
    "task_loss",
    "task_losses",
    "task_metrics",
]
