"""The bottom of a model of tables: numbers of categories become vectors, beside the quantities."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("mtl_tutorial")
class TableEmbedding(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Give the rows of a table as vectors: learned ones of its categories, and its quantities.

    The same layer as :class:`mtl_tutorial.pytorch.TableEmbedding`; see there for the equation.

    Parameters
    ----------
    cardinalities : iterable of int
        How many numbers each categorical column may hold, 0 included, such as
        ``encode.cardinalities.values()`` of an :func:`~mtl_tutorial.tabular.encoder`.
    numeric : int
        How many quantities there are, such as ``len(encode.numeric)``.
    size : int
        Of a category's vector.

    Attributes
    ----------
    width : int
        Of what it gives: the inputs of the next layer.

    Raises
    ------
    ValueError
        There is no categorical column, a cardinality or ``size`` is below 1, or ``numeric`` below 0.
        When called: ``"categorical"`` or ``"numeric"`` has other columns.
    tensorflow.errors.InvalidArgumentError
        When called: a number of a category is not within its column's.

    Notes
    -----
    The vectors of 0, which stands for what was never seen, start at zero, and stay there if no
    training row holds one. With ``jit_compile=True`` TensorFlow drops the look at the numbers.

    Examples
    --------
    >>> embed = TableEmbedding([10, 3], numeric=4, size=8)
    >>> rows = {"categorical": np.ones((5, 2), int), "numeric": np.zeros((5, 4))}
    >>> embed.width, tuple(embed(rows).shape)
    (20, (5, 20))
    """

    def __init__(
        self, cardinalities: Iterable[int], numeric: int = 0, size: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        counts = list(cardinalities)
        if not counts or min(*counts, size, 1) < 1 or numeric < 0:
            raise ValueError(
                "a table needs a categorical column, cardinalities and size of at least 1, and "
                f"numeric of at least 0; got {counts}, {size} and {numeric}"
            )
        self.cardinalities, self.numeric, self.size = counts, numeric, size
        self.starts = np.cumsum([0, *counts])[:-1]
        self.width = len(counts) * size + numeric
        self.table = self.add_weight(
            shape=(sum(counts), size),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
            name="table",
        )
        known = np.ones((sum(counts), 1), "float32")
        known[self.starts] = 0
        self.table.assign(self.table * known)

    def build(self, input_shape: Any) -> None:
        """Nothing: all sizes were given."""
        self.built = True

    def call(self, rows: Mapping[str, Any]) -> Any:
        """Give one vector a row, shape (N, width)."""
        categories = rows["categorical"]
        if len(categories.shape) != 2 or categories.shape[1] != len(self.starts):
            raise ValueError(
                f"the categories have shape {tuple(categories.shape)}, expected (N, {len(self.starts)})"
            )
        numbers = ops.cast(categories, "int32")
        message = f"a category's number is not within the cardinalities {self.cardinalities}"
        tf.debugging.assert_non_negative(numbers, message)
        tf.debugging.assert_less(numbers, tf.constant(self.cardinalities), message)
        places = numbers + ops.convert_to_tensor(self.starts, "int32")
        vectors = ops.take(self.table, places, axis=0)
        parts = [ops.reshape(vectors, (-1, len(self.starts) * self.size))]
        if self.numeric:
            if rows["numeric"].shape[1:] != (self.numeric,):
                raise ValueError(
                    f"the quantities have shape {tuple(rows['numeric'].shape)}, expected "
                    f"(N, {self.numeric})"
                )
            parts.append(ops.cast(rows["numeric"], vectors.dtype))
        return ops.concatenate(parts, axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Shape of the vectors."""
        return (input_shape["categorical"][0], self.width)

    def get_config(self) -> dict[str, Any]:
        """Give the arguments, for ``save``."""
        config: dict[str, Any] = super().get_config()
        own = {
            "cardinalities": list(self.cardinalities),
            "numeric": self.numeric,
            "size": self.size,
        }
        return config | own
