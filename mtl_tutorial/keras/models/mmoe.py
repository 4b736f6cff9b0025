"""Multi-gate mixture of experts: shared experts, and for each task a gate that mixes them."""

from collections.abc import Mapping
from typing import Any

import keras

from mtl_tutorial.keras.models._parts import (
    Architecture,
    Builder,
    Handed,
    checked,
    gated,
    made,
    named,
    stacked,
)


@keras.saving.register_keras_serializable("mtl_tutorial")
class MMoE(Architecture):
    """Experts that all tasks share, mixed for each task by a gate of its own (Ma et al., 2018).

    The same model as :class:`mtl_tutorial.pytorch.MMoE`; see there for the equation.

    Parameters
    ----------
    expert : callable without arguments to keras.Layer
        Builds an expert, from inputs to features.
    gate : callable from a number of experts to keras.Layer
        Builds a gate, from inputs to one number for each expert, shape (N, E); called once for each
        head. For inputs of shape (N, F): ``keras.layers.Dense``.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    experts : int
        How many, E.
    bottom : keras.Layer, optional
        Shared layers below experts and gates: embeddings, for example.

    Raises
    ------
    TypeError, ValueError
        There is no head, no expert, or only one, which a gate could but give the weight 1; a builder
        builds no new layers. When called: two experts give different shapes, or a gate gives other
        than one number for each row and expert.

    Notes
    -----
    The shared parameters are those of the bottom and the experts; a gate belongs to its task. Each
    task has features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Regression
    >>> heads = linear_heads([Regression("y1"), Regression("y2")])
    >>> model = MMoE(lambda: mlp(100, 16), keras.layers.Dense, heads, experts=8)
    >>> {name: tuple(pi.shape) for name, pi in model.gate_weights(np.zeros((3, 100))).items()}
    {'y1': (3, 8), 'y2': (3, 8)}
    """

    def __init__(
        self,
        expert: Builder,
        gate: Builder,
        heads: Mapping[str, keras.Layer],
        experts: int = 4,
        *,
        bottom: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if experts < 2:
            raise ValueError(
                f"a mixture needs two experts or more; got {experts}. One expert is HardSharing"
            )
        self.bottom = keras.layers.Identity() if bottom is None else bottom
        self.heads = checked(heads)
        self.experts = made("expert", expert, experts)
        self.gates = named("gate", made("gate", gate, len(heads), experts), heads)

    def _mixtures(self, inputs: Any, training: bool | None) -> dict[str, tuple[Any, Any]]:
        """Give the weights of the experts, and their mixture, by task."""
        z = self.bottom(inputs, training=training)
        outputs = {
            f"expert {number}": expert(z, training=training)
            for number, expert in enumerate(self.experts, 1)
        }
        together = stacked(outputs, axis=1)
        return {
            name: gated(repr(name), gate(z, training=training), together)
            for name, gate in self.gates.items()
        }

    def gate_weights(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give how much each expert counts for each task, shape (N, E), by task name."""
        found = self._mixtures(inputs, training)
        return {name: weights for name, (weights, _) in found.items()}

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, its mixture of experts, by its name."""
        found = self._mixtures(inputs, training)
        return {name: mixture for name, (_, mixture) in found.items()}

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the parameters of the bottom and of all experts."""
        return [v for layer in (self.bottom, *self.experts) for v in layer.trainable_variables]

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        built = {"expert": Handed(self.experts), "gate": Handed(self.gates.values())}
        return built | {"heads": self.heads, "experts": len(self.experts), "bottom": self.bottom}
