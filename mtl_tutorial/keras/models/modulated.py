"""One trunk that a task's embedding modulates: feature-wise scales and shifts."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl_tutorial.keras.models._parts import Architecture, along, checked


@keras.saving.register_keras_serializable("mtl_tutorial")
class Modulated(Architecture):
    """One trunk for all tasks, its channels scaled and shifted for each (FiLM, Perez et al., 2018).

    The same model as :class:`mtl_tutorial.pytorch.Modulated`; see there for the equation.

    Parameters
    ----------
    stages : sequence of keras.Layer
        The trunk, from inputs to features, stage by stage.
    widths : sequence of int
        How many channels each stage gives.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    embedding : int
        The length of an embedding.
    axis : int
        That of the channels: -1, the last, as Keras has them.

    Raises
    ------
    ValueError
        There is no head or no stage, not one width a stage, an embedding without a number. When
        called: a stage gives another width than was said.

    Notes
    -----
    After the first stage the trunk runs once for each task. Stages and matrices are the shared
    parameters. Each task has features of its own: the Gramian of the features
    (``gramian="features"``) is diagonal by construction, and says nothing of conflicts; use the exact
    one.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = Modulated([mlp(784, 32), mlp(32, 16)], [32, 16], linear_heads(tasks), embedding=2)
    >>> features = model.encode(np.ones((3, 28, 28)))
    >>> np.array_equal(features["digit"], features["gt5"])  # to begin with
    True
    """

    def __init__(
        self,
        stages: Sequence[keras.Layer],
        widths: Sequence[int],
        heads: Mapping[str, keras.Layer],
        embedding: int = 8,
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not stages or len(widths) != len(stages):
            raise ValueError(
                f"each stage needs its width; got {len(widths)} widths for {len(stages)} stages"
            )
        if embedding < 1:
            raise ValueError(f"an embedding has at least one number; got {embedding}")
        self.stages, self.heads, self.axis = list(stages), checked(heads), axis
        self.widths = list(widths)
        normal = keras.initializers.RandomNormal  # one object would give all tasks the same numbers
        self.embeddings = {
            name: self.add_weight((embedding,), normal(stddev=1.0), name=f"embedding_{name}")
            for name in heads
        }
        self.modulations = [
            self.add_weight((embedding, 2 * width), "zeros", name=f"modulation_{number}")
            for number, width in enumerate(widths, 1)
        ]

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        first, *others = self.stages
        features = dict.fromkeys(self.heads, first(inputs, training=training))
        for name, embedding in self.embeddings.items():
            features[name] = self._modulated(0, features[name], embedding)
            for number, stage in enumerate(others, 1):
                z = stage(features[name], training=training)
                features[name] = self._modulated(number, z, embedding)
        return features

    def _modulated(self, number: int, z: Any, embedding: Any) -> Any:
        """Scale and shift what a stage gives, for one task."""
        width, axis, dimensions = self.widths[number], self.axis, len(z.shape)
        if z.shape[axis] != width:
            raise ValueError(
                f"stage {number + 1} gives {z.shape[axis]} channels, but widths says {width}"
            )
        both = ops.matmul(embedding, self.modulations[number])
        scale, shift = (along(part, axis, dimensions) for part in (both[:width], both[width:]))
        return (1 + scale) * z + shift

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the parameters of the stages, and the matrices."""
        stages = [variable for stage in self.stages for variable in stage.trainable_variables]
        return [*stages, *self.modulations]

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        length = int(self.modulations[0].shape[0])
        own = {"widths": self.widths, "embedding": length, "axis": self.axis}
        return {"stages": self.stages, "heads": self.heads} | own
