"""Cross-stitch networks: a tower for each task, and learned numbers that say how much they share."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mtl_tutorial.keras.models._parts import (
    Architecture,
    Builder,
    checked,
    for_each,
    handed,
    stacked,
)


@keras.saving.register_keras_serializable("mtl_tutorial")
class CrossStitch(Architecture):
    """A tower for each task; after each stage all tasks' activations are mixed (Misra et al., 2016).

    The same model as :class:`mtl_tutorial.pytorch.CrossStitch`; see there for the equation.

    Parameters
    ----------
    stages : sequence of callables without arguments to keras.Layer
        Each builds one stage of a tower, and is called once for each head. The first reads the
        inputs, the last gives what the heads read.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    own : float
        What a task reads of its own tower to begin with, the diagonal of each matrix; the other
        tasks have the rest in equal parts.

    Raises
    ------
    TypeError, ValueError
        There is no head or no stage; a builder builds no new layers. When called: the towers of two
        tasks give activations of different shapes.

    Notes
    -----
    All tasks read all towers, so towers and matrices are the shared parameters. Each task has
    features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    Examples
    --------
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = CrossStitch([lambda: mlp(784, 32), lambda: mlp(32, 16)], linear_heads(tasks))
    >>> {name: tuple(z.shape) for name, z in model.encode(np.zeros((3, 28, 28))).items()}
    {'digit': (3, 16), 'gt5': (3, 16)}
    >>> model.units[0].numpy().round(3)
    array([[0.9, 0.1],
           [0.1, 0.9]], dtype=float32)
    """

    def __init__(
        self,
        stages: Sequence[Builder],
        heads: Mapping[str, keras.Layer],
        own: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not stages:
            raise ValueError("a tower needs at least one stage")
        self.heads = checked(heads)
        self.towers = for_each("tower", stages, heads)
        count, self.own = len(heads), own
        start = np.full((count, count), (1 - own) / max(1, count - 1))
        np.fill_diagonal(start, own)
        self.units = [
            self.add_weight(
                (count, count), keras.initializers.Constant(start), name=f"unit_{number + 1}"
            )
            for number in range(len(stages))
        ]

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        mixed = dict.fromkeys(self.towers, inputs)
        for number, unit in enumerate(self.units):
            given = {
                f"stage {number + 1} of {name!r}": tower[number](mixed[name], training=training)
                for name, tower in self.towers.items()
            }
            found = ops.tensordot(unit, stacked(given, axis=0), 1)
            mixed = {name: found[k] for k, name in enumerate(self.towers)}
        return mixed

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the parameters of all towers, and the matrices."""
        towers = [v for tower in self.towers.values() for s in tower for v in s.trainable_variables]
        return [*towers, *self.units]

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        return {"stages": handed(self.towers), "heads": self.heads, "own": self.own}
