"""A head whose outputs are boxes, for any trunk."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mtl_tutorial")
class BoxHead(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Boxes from any features; see :class:`mtl_tutorial.pytorch.BoxHead` for the equation.

    Parameters
    ----------
    width, height : float
        The image's sides, in the unit of the boxes, as in :class:`~mtl_tutorial.tasks.Boxes`.

    Examples
    --------
    >>> import numpy as np
    >>> BoxHead(width=640, height=480)(np.zeros((1, 8))).numpy().round()
    array([[220., 165., 420., 315.]], dtype=float32)
    """

    centre = 0.5

    def __init__(self, width: float = 1, height: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.height = width, height
        start = keras.initializers.Constant([self.centre, self.centre, -1.0, -1.0])
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.linear = keras.layers.Dense(4, kernel_initializer=small, bias_initializer=start)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights."""
        self.linear.build(input_shape)
        self.built = True

    def call(self, features: Any) -> Any:
        """Give corners (x1, y1, x2, y2), shape (N, 4)."""
        numbers = self.linear(features)
        return self._boxes(numbers[:, :2], numbers[:, 2:])

    def _boxes(self, centre: Any, raw: Any) -> Any:
        half = ops.softplus(raw) / 2
        sides = ops.cast([self.width, self.height] * 2, half.dtype)
        return sides * ops.concatenate([centre - half, centre + half], axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Shape of the boxes."""
        return (input_shape[0], 4)

    def get_config(self) -> dict[str, Any]:
        """Sides, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"width": self.width, "height": self.height}
