"""Soft parameter sharing: a network for each task, all tied to each other by a penalty."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mtl_tutorial.keras.models._parts import Architecture, Builder, Handed, checked, made, named


@keras.saving.register_keras_serializable("mtl_tutorial")
class SoftSharing(Architecture):
    """A tower for each task, drawn towards the mean of all towers (Evgeniou & Pontil, 2004).

    The same model as :class:`mtl_tutorial.pytorch.SoftSharing`; see there for the equation.

    Parameters
    ----------
    tower : callable without arguments to keras.Layer
        Builds a tower, from inputs to features; called once for each head.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    strength : float
        From 0, where the tasks are separate. Gradient descent of a rate r needs r * strength < 2;
        for what is stiffer, share the trunk.

    Raises
    ------
    TypeError, ValueError
        There is no head; ``tower`` builds no new layers, or others each time; ``strength`` is
        negative or not finite.

    Notes
    -----
    All towers start from the parameters of the first: two networks drawn apart hold alike features
    in another order, and the mean of the two is neither.

    No parameter is shared, so weightings that need a Gramian refuse the model. The penalty is
    ``extra_loss``, which no weighting weights. Running statistics of batch norm are not tied.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = SoftSharing(lambda: mlp(784, 32), linear_heads(tasks), strength=0.1)
    >>> outputs = model(np.zeros((3, 28, 28)))
    >>> float(model.penalty())
    0.0
    """

    def __init__(
        self, tower: Builder, heads: Mapping[str, keras.Layer], strength: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= strength < float("inf"):
            raise ValueError(
                f"strength is a number from 0; got {strength}. For the limit use HardSharing"
            )
        self.heads = checked(heads)
        self.towers = named("tower", made("tower", tower, len(heads)), heads)
        self.strength = strength

    def build(self, input_shape: Any) -> None:
        """Create the weights, those of all towers equal."""
        super().build(input_shape)
        first, *others = self.towers.values()
        with tf.init_scope():  # also where a graph is being drawn
            for each in others:
                if [w.shape for w in each.weights] != [w.shape for w in first.weights]:
                    raise ValueError("tower builds other layers at each call: they cannot be tied")
                each.set_weights(first.get_weights())

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        return {name: tower(inputs, training=training) for name, tower in self.towers.items()}

    def shared_parameters(self) -> list[keras.Variable]:
        """Give nothing: no two tasks share a parameter."""
        return []

    def penalty(self) -> Any:
        """Give the squared distances of the towers from their mean, times half the strength."""
        towers = zip(*(tower.trainable_variables for tower in self.towers.values()), strict=True)
        each = [ops.stack([variable.value for variable in own]) for own in towers]
        apart = [ops.sum(ops.square(own - ops.mean(own, axis=0))) for own in each]
        return sum(apart) * (self.strength / 2)

    def extra_loss(self, features: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
        """Give the penalty, which goes through unweighted."""
        return self.penalty()

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        towers = Handed(self.towers.values())
        return {"tower": towers, "heads": self.heads, "strength": self.strength}
