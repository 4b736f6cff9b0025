"""Shared and private features: an encoder for all, one for each task, kept apart by an adversary."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mtl_tutorial.keras.models._parts import (
    Architecture,
    Builder,
    Handed,
    checked,
    joined,
    made,
    named,
)


@keras.saving.register_keras_serializable("mtl_tutorial")
class SharedPrivate(Architecture):
    """A shared encoder and a private one for each task; a head reads both (Liu et al., 2017).

    The same model as :class:`mtl_tutorial.pytorch.SharedPrivate`; see there for the equation.

    Parameters
    ----------
    encoder : callable without arguments to keras.Layer
        Builds an encoder, from inputs to features; called once more than there are heads.
    heads : mapping from task name to keras.Layer
        From the joined features, twice as many channels, to the task's outputs.
    discriminator : keras.Layer, optional
        From shared features to one number for each task, in the order of the heads, shape (N, T). It
        needs rows that have a label of one task only, as :func:`~mtl_tutorial.datasets.concatenate`
        makes them of several data sets; others say nothing of where they come from, and are left out.
    reversal, orthogonality : float
        What the adversary's gradient is multiplied by, after its sign is turned, on its way to the
        shared encoder; how much the penalty counts. With a reversal of 0 the discriminator is a
        probe: it learns what it can read, and changes nothing.
    bottom : keras.Layer, optional
        Shared layers below all encoders: word vectors, for example.
    axis : int
        That of the channels: -1, the last, as Keras has them.

    Raises
    ------
    TypeError, ValueError
        There is no head, or a discriminator with one task only; a strength is negative; ``encoder``
        builds no new layers; in training, the discriminator does not give one number a task.
    tensorflow.errors.InvalidArgumentError
        In training: all rows have labels of all tasks, so that there is nothing to discriminate.

    Notes
    -----
    The shared parameters are those of the bottom and the shared encoder. All heads read the shared
    features, so their Gramian is not diagonal; private ones add to its diagonal alone.
    ``extra_loss``, both terms, goes through unweighted. A label is missing where an integer is -1 or
    a float NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary
    >>> heads = linear_heads([Binary("books"), Binary("films")])
    >>> model = SharedPrivate(lambda: mlp(20, 8), heads, keras.layers.Dense(2))
    >>> features = model.encode(np.ones((4, 20)))
    >>> sorted(features), sorted(features["private"])
    (['private', 'shared'], ['books', 'films'])
    >>> targets = {"books": np.array([1, 0, -1, -1]), "films": np.array([-1, -1, 1, 1])}
    >>> tuple(model.extra_loss(features, targets).shape)
    ()
    """

    def __init__(
        self,
        encoder: Builder,
        heads: Mapping[str, keras.Layer],
        discriminator: keras.Layer | None = None,
        *,
        reversal: float = 0.1,
        orthogonality: float = 0.01,
        bottom: keras.Layer | None = None,
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if reversal < 0 or orthogonality < 0:
            raise ValueError(
                f"reversal and orthogonality are at least 0; got {reversal} and {orthogonality}"
            )
        if discriminator is not None and len(heads) < 2:
            raise ValueError(f"a discriminator needs two tasks to tell apart; got {list(heads)}")
        self.bottom = keras.layers.Identity() if bottom is None else bottom
        self.heads = checked(heads)
        self.shared, *private = made("encoder", encoder, 1 + len(heads))
        self.shared.name = "shared"
        self.private = named("private", private, heads)
        self.discriminator = discriminator
        self.reversal, self.orthogonality, self.axis = reversal, orthogonality, axis

    def encode(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the features: ``"shared"``, and ``"private"`` by task name."""
        z = self.bottom(inputs, training=training)
        private = {name: encoder(z, training=training) for name, encoder in self.private.items()}
        shared = self.shared(z, training=training)
        if self.discriminator is not None and not self.discriminator.built:
            self.discriminator(shared)  # creates its weights
        return {"shared": shared, "private": private}

    def decode(
        self,
        features: Mapping[str, Any],
        tasks: Sequence[str] | None = None,
        training: bool | None = None,
    ) -> dict[str, Any]:
        """Give the outputs of the tasks named, of all if none is; the other heads do not run."""
        names = self.heads if tasks is None else tasks
        outputs = {}
        for name in names:
            private = features["private"][name]
            both = {"the shared encoder": features["shared"], f"that of {name!r}": private}
            outputs[name] = self.heads[name](joined(both, self.axis), training=training)
        return outputs

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the parameters of the bottom and of the shared encoder."""
        return [*self.bottom.trainable_variables, *self.shared.trainable_variables]

    def extra_loss(self, features: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
        """Give the penalty and the adversary's loss, which go through unweighted."""
        shared, total = _flat(features["shared"]), 0.0
        rows = ops.cast(ops.shape(shared)[0], shared.dtype)
        for private in features["private"].values():
            both = ops.matmul(ops.transpose(shared), _flat(private)) / rows
            total = total + ops.sum(ops.square(both))
        total = self.orthogonality * total
        if self.discriminator is not None:
            total = total + self._adversary(features["shared"], targets)
        return total

    def _adversary(self, shared: Any, targets: Mapping[str, Any]) -> Any:
        """Give the discriminator's cross-entropy, the mean over rows with a label of one task."""
        assert self.discriminator is not None
        there = ops.stack([labelled_rows(targets[name]) for name in self.heads], axis=1)
        none = "every row has a label of every task, so the discriminator has nothing to tell apart"
        tf.debugging.Assert(ops.logical_not(ops.all(there)), [f"{none}; give discriminator=None"])
        still = ops.stop_gradient(shared)
        turned = still + self.reversal * (still - shared)  # gradient reversal
        logits = self.discriminator(turned, training=True)
        if logits.shape[1:] != there.shape[1:]:
            raise ValueError(
                f"the discriminator gives {tuple(logits.shape)}, not a number for each row and task, "
                f"{tuple(there.shape)}"
            )
        known = ops.cast(there, "int32")
        single = ops.cast(ops.sum(known, axis=1) == 1, logits.dtype)
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(ops.argmax(known, axis=1), logits)
        return ops.sum(each * single) / ops.maximum(ops.sum(single), 1)

    def arguments(self) -> dict[str, Any]:
        """Give what it is made of, for ``save``."""
        own = {"encoder": Handed([self.shared, *self.private.values()]), "heads": self.heads}
        strengths = {"reversal": self.reversal, "orthogonality": self.orthogonality}
        more = {"discriminator": self.discriminator, "bottom": self.bottom, "axis": self.axis}
        return own | strengths | more


def labelled_rows(targets: Any) -> Any:
    """Tell which rows have a label: not -1 among integers, not NaN among floats; bool of shape (N,)."""
    targets = ops.convert_to_tensor(targets)
    there = ops.logical_not(ops.isnan(targets)) if targets.dtype.is_floating else targets != -1
    return ops.any(_flat(there), axis=1)


def _flat(z: Any) -> Any:
    """Give one row of numbers for each row."""
    return ops.reshape(z, (ops.shape(z)[0], -1))
