"""Multi-task attention: one trunk, of which each task's masks let through what it needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtl_tutorial.keras.models._parts import (
    Architecture,
    Builder,
    checked,
    for_each,
    handed,
    joined,
)


@keras.saving.register_keras_serializable("mtl_tutorial")
class MTAN(Architecture):
    """One trunk, and for each task a mask on what each of its stages gives (Liu et al., 2019).

    The same model as :class:`mtl_tutorial.pytorch.MTAN`; see there for the equation.

    Parameters
    ----------
    stages : sequence of keras.Layer
        The trunk, from inputs to features, stage by stage.
    masks : sequence of callables without arguments to keras.Layer
        For each stage, builds the layers from the channels of the stage, joined from the second on
        with what a carry brings, to one number for each of the stage's features; their sigmoid is
        the mask. Called once for each head.
    carries : sequence of callables without arguments to keras.Layer
        For each stage but the last, builds the layers from its masked features to something of the
        next one's places. Called once for each head.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    axis : int
        That of the channels: -1, the last, as Keras has them.

    Raises
    ------
    TypeError, ValueError
        There is no head or no stage, not one mask a stage or not one carry less; a builder builds no
        new layers. When called: a mask has another shape than what it masks.

    Notes
    -----
    The shared parameters are those of the stages; masks and carries belong to one task each. Each
    task has features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> stages, carries = [mlp(784, 32), mlp(32, 16)], [lambda: mlp(32, 16)]
    >>> masks = [lambda: keras.layers.Dense(32), lambda: keras.layers.Dense(16)]
    >>> model = MTAN(stages, masks, carries, linear_heads(tasks))
    >>> {name: tuple(z.shape) for name, z in model.encode(np.zeros((3, 28, 28))).items()}
    {'digit': (3, 16), 'gt5': (3, 16)}
    """

    def __init__(
        self,
        stages: Sequence[keras.Layer],
        masks: Sequence[Builder],
        carries: Sequence[Builder],
        heads: Mapping[str, keras.Layer],
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not stages or len(masks) != len(stages) or len(carries) != len(stages) - 1:
            raise ValueError(
                "MTAN needs a mask for each stage, and a carry for each but the last; got "
                f"{len(stages)} stages, {len(masks)} masks, {len(carries)} carries"
            )
        self.stages, self.heads, self.axis = list(stages), checked(heads), axis
        self.masks = for_each("mask", masks, heads)
        self.carries = for_each("carry", carries, heads)

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        shared, seen = inputs, dict[str, Any]()
        for number, stage in enumerate(self.stages):
            shared = stage(shared, training=training)
            for name in self.heads:
                known = shared
                if number:
                    before = self.carries[name][number - 1](seen[name], training=training)
                    both = {f"stage {number + 1}": shared, f"carry {number} of {name!r}": before}
                    known = joined(both, self.axis)
                mask = self.masks[name][number](known, training=training)
                if tuple(mask.shape) != tuple(shared.shape):
                    raise ValueError(
                        f"mask {number + 1} of {name!r} has the shape {tuple(mask.shape)}, but stage "
                        f"{number + 1} gives {tuple(shared.shape)}"
                    )
                seen[name] = ops.sigmoid(mask) * shared
        return seen

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the parameters of the trunk."""
        return [variable for stage in self.stages for variable in stage.trainable_variables]

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        own = {"masks": handed(self.masks), "carries": handed(self.carries), "axis": self.axis}
        return {"stages": self.stages, "heads": self.heads} | own
