"""Which tasks share which parts of a model."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from mtl_tutorial._sharing import Blocks, Parameter, blocks


def task_blocks(model: keras.Model, inputs: Any) -> Blocks:
    """Find which tasks share which blocks of a model, from a tape over its outputs.

    A block is the largest layer whose parameters all serve the same tasks: a task's output depends
    on them. Frozen parameters count, running statistics do not; a parameter that several layers use
    counts once, where it stands first. :func:`mtl_tutorial.plotting.sharing_diagram` draws what is
    found, :func:`~mtl_tutorial.plotting.sharing_text` says it in words.

    Parameters
    ----------
    model : keras.Model
        With ``encode`` and ``decode``, or else one that gives a dict of outputs by task. It is run
        in inference mode, and left as it was.
    inputs : tensor, or whatever the model takes
        A batch, of one row or more.

    Returns
    -------
    dict of str to (int, tuple of str)
        By name of the layer, in its order: how many parameters, and the tasks. A block that serves
        no task, such as an adversary's, has an empty tuple.

    Raises
    ------
    TypeError
        The outputs are not a dict from task name to tensor.
    ValueError
        An output depends on no parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.keras import HardSharing, linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(784, 32), linear_heads(tasks))
    >>> task_blocks(model, np.zeros((1, 28, 28)))
    {'trunk': (25120, ('digit', 'gt5')), 'digit': (330, ('digit',)), 'gt5': (33, ('gt5',))}
    """
    if not model.built:
        _outputs(model, inputs)
    with _all_trainable(model):
        found = list(_parameters(model).values())
        variables = [variable.value for variable, _ in found]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = _outputs(model, inputs)
    reached = {task: tape.gradient(output, variables) for task, output in outputs.items()}
    for task, gradients in reached.items():
        if all(gradient is None for gradient in gradients):
            raise ValueError(f"the output of task {task!r} depends on no parameter of the model")
    return blocks(
        [
            Parameter(
                path,
                math.prod(variable.shape),
                tuple(task for task, gradients in reached.items() if gradients[i] is not None),
            )
            for i, (variable, path) in enumerate(found)
        ]
    )


def _outputs(model: keras.Model, inputs: Any) -> Mapping[str, Any]:
    """Give the outputs by task name, in inference mode."""
    if hasattr(model, "decode"):
        outputs = model.decode(model.encode(inputs))
    else:
        outputs = model(inputs, training=False)
    if not isinstance(outputs, Mapping):
        raise TypeError(
            "the model's outputs must be a dict from task name to tensor, as decode gives them; "
            f"got {type(outputs).__name__}"
        )
    return outputs


def _parameters(
    layer: keras.Layer, path: tuple[str, ...] = ()
) -> dict[int, tuple[keras.Variable, tuple[str, ...]]]:
    """Give each parameter of a layer once, by its identity, with its path."""
    found: dict[int, tuple[keras.Variable, tuple[str, ...]]] = {}
    parts = list(dict.fromkeys(layer._flatten_layers(include_self=False, recursive=False)))
    for part in parts:
        same = [other for other in parts if other.name == part.name]
        name = part.name if len(same) == 1 else f"{part.name} ({1 + same.index(part)})"
        inner = _parameters(part, (*path, name))
        found |= {key: value for key, value in inner.items() if key not in found}
    own = {id(each): (each, (*path, each.name)) for each in layer.trainable_variables}
    return found | {key: value for key, value in own.items() if key not in found}


@contextmanager
def _all_trainable(model: keras.Model) -> Iterator[None]:
    """Let frozen parameters be found too; all is put back afterwards."""
    layers = {layer: layer.trainable for layer in model._flatten_layers()}
    variables = [(variable, variable.trainable) for variable in model.variables]
    try:
        for value in (False, True):  # setting what is already so would change nothing below
            for layer in layers:
                layer.trainable = value
        yield
    finally:
        for layer, trainable in layers.items():  # what holds others comes before them
            layer.trainable = trainable
        for variable, trainable in variables:
            variable.trainable = trainable
