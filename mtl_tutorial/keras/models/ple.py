"""Progressive layered extraction: shared experts and experts of each task, level by level."""

from collections.abc import Mapping, Sequence
from itertools import chain
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
class PLE(Architecture):
    """Levels of experts, each task's own and shared ones, mixed by gates (Tang et al., 2020).

    The same model as :class:`mtl_tutorial.pytorch.PLE`; see there for the equations.

    Parameters
    ----------
    experts : sequence of callables without arguments to keras.Layer
        For each level, builds one of its experts.
    gates : sequence of callables from a number of experts to keras.Layer
        For each level, builds one of its gates, from what the level reads to one number for each
        expert, shape (N, E), such as ``keras.layers.Dense``.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs.
    own, shared : int
        How many experts each task has, and how many are shared, at each level.
    bottom : keras.Layer, optional
        Shared layers below experts and gates: embeddings, for example.

    Raises
    ------
    TypeError, ValueError
        There is no head or no level, or not one gate a level; ``own`` or ``shared`` is below 1; a
        builder builds no new layers. When called: two experts give different shapes, or a gate gives
        other than one number for each row and expert.

    Notes
    -----
    Shared is what more than one task reads: the bottom, the shared experts, and below the last level
    each task's own ones, too, which the shared stream takes up. Each task has features of its own:
    the Gramian of the features (``gramian="features"``) is diagonal by construction, and says
    nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Regression
    >>> heads, dense = linear_heads([Regression("y1"), Regression("y2")]), keras.layers.Dense
    >>> model = PLE([lambda: mlp(100, 16), lambda: mlp(16, 8)], [dense, dense], heads, shared=2)
    >>> [{name: tuple(pi.shape) for name, pi in level.items()}
    ...  for level in model.gate_weights(np.zeros((3, 100)))]
    [{'y1': (3, 3), 'y2': (3, 3)}, {'y1': (3, 3), 'y2': (3, 3)}]
    """

    def __init__(
        self,
        experts: Sequence[Builder],
        gates: Sequence[Builder],
        heads: Mapping[str, keras.Layer],
        *,
        own: int = 1,
        shared: int = 1,
        bottom: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not experts or len(gates) != len(experts):
            raise ValueError(
                f"PLE needs one gate a level; got {len(gates)} for {len(experts)} levels of experts"
            )
        if own < 1 or shared < 1:
            raise ValueError(f"own and shared are at least 1 expert each; got {own} and {shared}")
        self.bottom = keras.layers.Identity() if bottom is None else bottom
        self.heads, self.counts = checked(heads), {"own": own, "shared": shared}
        self.levels: list[dict[str, Any]] = []
        for number, (expert, gate) in enumerate(zip(experts, gates, strict=True), 1):
            every = iter(made(f"expert_{number}", expert, len(heads) * own + shared))
            level = {
                "own": {name: [next(every) for _ in range(own)] for name in heads},
                "shared": list(every),
            }
            own_gates = made("gate", gate, len(heads), own + shared)
            level["gates"] = named(f"gate_{number}", own_gates, heads)
            if number < len(experts):
                shared_gate = made(f"shared_gate_{number}", gate, 1, len(heads) * own + shared)
                level["shared_gate"] = shared_gate[0]
            self.levels.append(level)

    def _run(self, inputs: Any, training: bool | None) -> tuple[dict[str, Any], list[Any]]:
        """Give the streams at the end, and the weights of the experts at each level, by task."""

        def outputs(what: str, experts: Sequence[keras.Layer], z: Any) -> dict[str, Any]:
            return {what.format(i): e(z, training=training) for i, e in enumerate(experts, 1)}

        common = self.bottom(inputs, training=training)
        streams, weights = dict.fromkeys(self.heads, common), []
        for level in self.levels:
            joint = outputs("shared expert {}", level["shared"], common)
            own = {
                name: outputs(f"expert {{}} of {name!r}", each, streams[name])
                for name, each in level["own"].items()
            }
            mixed = {
                name: gated(
                    repr(name),
                    gate(streams[name], training=training),
                    stacked(own[name] | joint, axis=1),
                )
                for name, gate in level["gates"].items()
            }
            if "shared_gate" in level:
                every = {key: value for each in own.values() for key, value in each.items()} | joint
                gate = level["shared_gate"](common, training=training)
                common = gated("the shared stream", gate, stacked(every, axis=1))[1]
            streams = {name: mixture for name, (_, mixture) in mixed.items()}
            weights.append({name: own_weights for name, (own_weights, _) in mixed.items()})
        return streams, weights

    def gate_weights(self, inputs: Any, training: bool | None = None) -> list[dict[str, Any]]:
        """Give how much each expert counts at each level, its own first, (N, own + shared), by task."""
        return self._run(inputs, training)[1]

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        return self._run(inputs, training)[0]

    def shared_parameters(self) -> list[keras.Variable]:
        """Give what more than one task reads; see the notes."""
        layers = [self.bottom]
        for above, level in zip(reversed(range(len(self.levels))), self.levels, strict=True):
            layers += level["shared"]
            if above > 0:
                layers += [*chain.from_iterable(level["own"].values()), level["shared_gate"]]
            if above > 1:
                layers += level["gates"].values()
        return [variable for layer in layers for variable in layer.trainable_variables]

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        experts = [chain(*level["own"].values(), level["shared"]) for level in self.levels]
        gates = [[*level["gates"].values(), level.get("shared_gate")] for level in self.levels]
        gates[-1].pop()  # the last level has no shared gate
        built = {"experts": list(map(Handed, experts)), "gates": list(map(Handed, gates))}
        return built | {"heads": self.heads, "bottom": self.bottom, **self.counts}
