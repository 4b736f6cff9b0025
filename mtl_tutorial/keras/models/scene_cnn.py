"""A small convolutional network that looks for an object, then at it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl_tutorial.keras.models.box_head import BoxHead
from mtl_tutorial.tasks import Boxes, Task, check_tasks

GRID = 8  # cells along each side of the attention map


@keras.saving.register_keras_serializable("mtl_tutorial")
class SceneCNN(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Convolutions, then attention: features of the place where the object is.

    The same network as :class:`mtl_tutorial.pytorch.SceneCNN`; see there for the features. The order
    of the weights is that of PyTorch's parameters and buffers, layer by layer.

    Parameters
    ----------
    size : int
        Side of the images in pixels: 8, 16, 32, 64, ...
    channels : sequence of int
        Of each convolution; as many as halve the side to 8 must be there, further ones keep it.

    Raises
    ------
    ValueError
        ``size`` cannot be halved to 8, or not by so few convolutions; when called, the images have
        another shape than (N, size, size).

    Examples
    --------
    >>> trunk = SceneCNN(64)
    >>> trunk.features, tuple(trunk(np.zeros((5, 64, 64), "float32")).shape)
    (67, (5, 67))
    """

    def __init__(
        self, size: int = 64, channels: Sequence[int] = (8, 16, 32, 32, 64), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        halvings = check_size(size, channels)
        self.size, self.channels, self.features = size, tuple(channels), channels[-1] + 3
        layers = keras.layers
        self.convolutions: list[Any] = []
        for i, width in enumerate(channels):
            halve = i < halvings
            # Padded by hand: "same" would pad a halving convolution on the other side only.
            self.convolutions += [
                layers.ZeroPadding2D(1),
                layers.Conv2D(width, 3, 2 if halve else 1, use_bias=False),
                layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
                layers.ReLU(),
            ]
        self.score = layers.Conv2D(1, 1)
        middle = (np.arange(GRID) + 0.5) / GRID
        self.cells = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2).astype("float32")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights."""
        self._check(input_shape)
        shape = (*input_shape, 1)
        for layer in self.convolutions:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.score.build(shape)
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Give the features, shape (N, C + 3)."""
        self._check(images.shape)
        z = images[..., None]
        for layer in self.convolutions:
            batch_norm = isinstance(layer, keras.layers.BatchNormalization)
            z = layer(z, training=training) if batch_norm else layer(z)
        scores = ops.reshape(self.score(z), (-1, GRID**2))
        weights = ops.softmax(scores, axis=1)
        cells = ops.reshape(z, (-1, GRID**2, self.channels[-1]))
        seen = ops.sum(weights[:, :, None] * cells, axis=1)
        centre = ops.matmul(weights, ops.cast(self.cells, weights.dtype))
        return ops.concatenate([seen, centre, ops.max(scores, axis=1, keepdims=True)], axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Shape of the features."""
        return (input_shape[0], self.features)

    def _check(self, shape: Sequence[int | None]) -> None:
        if tuple(shape[1:]) != (self.size, self.size):
            raise ValueError(
                f"images have shape {tuple(shape)}, expected (N, {self.size}, {self.size})"
            )

    def get_config(self) -> dict[str, Any]:
        """Size and channels, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"size": self.size, "channels": self.channels}


@keras.saving.register_keras_serializable("mtl_tutorial")
class SceneBoxHead(BoxHead):
    """Boxes from the features of :class:`SceneCNN`; see :class:`mtl_tutorial.pytorch.SceneBoxHead`.

    Parameters
    ----------
    width, height : float
        The image's sides, in the unit of the boxes.

    Examples
    --------
    >>> tuple(SceneBoxHead(width=64, height=64)(np.zeros((5, 67), "float32")).shape)
    (5, 4)
    """

    centre = 0.0

    def call(self, features: Any) -> Any:
        """Give corners (x1, y1, x2, y2), shape (N, 4)."""
        numbers = self.linear(features)
        return self._boxes(features[:, -3:-1] + numbers[:, :2], numbers[:, 2:])


def scene_heads(tasks: Sequence[Task], trunk: SceneCNN) -> dict[str, keras.layers.Layer]:
    """Build a :class:`SceneBoxHead` for each task of boxes, one linear layer for each other.

    Parameters
    ----------
    tasks : sequence of Task
    trunk : SceneCNN

    Examples
    --------
    >>> from mtl_tutorial.tasks import Binary
    >>> heads = scene_heads([Boxes("box"), Binary("presence")], SceneCNN(32))
    >>> [type(head).__name__ for head in heads.values()]
    ['SceneBoxHead', 'Dense']
    """
    return {
        task.name: SceneBoxHead(task.width, task.height, name=task.name)
        if isinstance(task, Boxes)
        else keras.layers.Dense(task.outputs, name=task.name)
        for task in check_tasks(tasks)
    }


def check_size(size: int, channels: Sequence[int]) -> int:
    """Return how many times the side is halved to 8, or say why it cannot be."""
    halvings = (size // GRID).bit_length() - 1
    if size != GRID << max(0, halvings) or len(channels) < max(1, halvings):
        raise ValueError(
            f"size is {GRID} times a power of 2, halved by at most one convolution each; "
            f"got {size} and {len(channels)} convolutions"
        )
    return halvings
