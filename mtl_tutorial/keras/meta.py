"""Learning a start from which a few gradient steps learn a new task: Reptile and MAML."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Loss = Callable[[Any, Any], Any]
Batch = tuple[Any, Any]


def reptile_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Loss,
    batches: Batch,
    *,
    lr: float,
) -> Any:
    r"""Take one step of Reptile: towards the parameters that adaptation to each task ends at.

    .. math:: \text{gradient} = \frac1T \sum_{k=1}^{T} (\theta - \tilde\theta_k)

    where :math:`\tilde\theta_k` is what n steps of gradient descent with ``lr`` make of
    :math:`\theta`, one on each of task k's n batches. With ``keras.optimizers.SGD`` and a learning
    rate of 1 the new start is the mean of the :math:`\tilde\theta_k`; any other optimiser may take
    the step. With n = 1 this is joint training. (Nichol, Achiam and Schulman, 2018.)

    Parameters
    ----------
    model : keras.Model
        Built. All trainable variables are adapted. No layers that update a state in training (batch
        norm, dropout).
    optimizer : keras.optimizers.Optimizer
        Takes the step.
    loss : callable
        From a task's targets and outputs, in this order, as Keras' losses are, to a scalar.
    batches : pair of array
        Inputs, shape (T, n, N, ...), and targets: T tasks, n batches each, of N examples.
    lr : float
        Learning rate of the adaptation.

    Returns
    -------
    tensor
        A scalar: the loss before each step of adaptation, averaged over steps and tasks.

    Raises
    ------
    ValueError
        Inputs and targets disagree in number, nothing is trainable, a layer updates a state, or the
        loss is no scalar.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> optimizer = keras.optimizers.SGD(0.5)
    >>> batches = np.ones((4, 5, 10, 3), "float32"), np.zeros((4, 5, 10, 1), "float32")
    >>> reptile_step(model, optimizer, keras.losses.MeanSquaredError(), batches, lr=0.01).shape
    TensorShape([])
    """
    _check(batches, axes=3)
    start = _trainable(model)
    gradients, values = [], []
    for inputs, targets in zip(*batches, strict=True):
        pairs = zip(inputs, targets, strict=True)
        adapted, losses = _adapt(model, loss, start, pairs, lr)
        gradients.append([a - b for a, b in zip(start, adapted, strict=True)])
        values.append(tf.reduce_mean(losses))
    return _outer_step(model, optimizer, gradients, values)


def maml_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Loss,
    support: Batch,
    query: Batch,
    *,
    lr: float,
    steps: int = 1,
    first_order: bool = True,
) -> Any:
    r"""Take one step of MAML: down the loss on new examples, as it is after adaptation.

    .. math::

        L(\theta) = \frac1T \sum_{k=1}^{T} L_k^\text{query}(\tilde\theta_k), \qquad
        \tilde\theta_k = \theta - \alpha\, \nabla L_k^\text{support}(\theta)
        \;\text{ (repeated)}

    The exact gradient goes through the adaptation, so it has second derivatives:
    :math:`(I - \alpha \nabla^2 L_k^\text{support})\, \nabla L_k^\text{query}(\tilde\theta_k)` for one
    step. The first-order one leaves them out: :math:`\nabla L_k^\text{query}(\tilde\theta_k)`.
    (Finn, Abbeel and Levine, 2017.)

    Parameters
    ----------
    model : keras.Model
        Built. All trainable variables are adapted. No layers that update a state in training (batch
        norm, dropout).
    optimizer : keras.optimizers.Optimizer
        Takes the step.
    loss : callable
        From a task's targets and outputs, in this order, as Keras' losses are, to a scalar.
    support, query : pair of array
        Inputs, shape (T, N, ...), and targets, of T tasks: the examples that adapt, and those that
        judge the result. N may differ between the two.
    lr : float
        Learning rate of the adaptation, :math:`\alpha`.
    steps : int
        Steps of adaptation, each on the whole support.
    first_order : bool
        Leave the second derivatives out.

    Returns
    -------
    tensor
        A scalar: the query loss after adaptation, averaged over tasks.

    Raises
    ------
    ValueError
        Inputs and targets disagree in number, support and query in tasks, nothing is trainable,
        ``steps`` is below 1, a layer updates a state, or the loss is no scalar.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> optimizer = keras.optimizers.Adam()
    >>> support = np.ones((4, 10, 3), "float32"), np.zeros((4, 10, 1), "float32")
    >>> loss = keras.losses.MeanSquaredError()
    >>> maml_step(model, optimizer, loss, support, support, lr=0.01).shape
    TensorShape([])
    """
    _check(support, query, axes=2)
    if steps < 1:
        raise ValueError(f"adaptation takes at least 1 step; got {steps}")
    start = _trainable(model)
    gradients, values = [], []
    for *own, inputs, targets in zip(*support, *query, strict=True):
        pairs = [tuple(own)] * steps
        theta = _adapt(model, loss, start, pairs, lr)[0] if first_order else start
        with tf.GradientTape() as tape:
            tape.watch(theta)
            adapted = theta if first_order else _adapt(model, loss, theta, pairs, lr)[0]
            value = _value(model, loss, adapted, inputs, targets)
        gradients.append(tape.gradient(value, theta))
        values.append(value)
    return _outer_step(model, optimizer, gradients, values)


def _value(model: keras.Model, loss: Loss, theta: Sequence[Any], inputs: Any, targets: Any) -> Any:
    """Loss of the model with parameters of its own."""
    state = [variable.value for variable in model.non_trainable_variables]
    outputs, new = model.stateless_call(theta, state, inputs, training=True)
    if any(a is not b for a, b in zip(state, new, strict=True)):
        raise ValueError("a layer updates a state, such as batch norm's; tasks cannot share it")
    value = loss(targets, outputs)
    if value.shape.rank != 0:
        raise ValueError(f"the loss must give one number a batch; it has shape {value.shape}")
    return value


def _adapt(
    model: keras.Model, loss: Loss, theta: list[Any], batches: Iterable[Batch], lr: float
) -> tuple[list[Any], list[Any]]:
    """Take one gradient step on each batch; also return the loss before each."""
    losses = []
    for inputs, targets in batches:
        with tf.GradientTape() as tape:
            tape.watch(theta)
            now = _value(model, loss, theta, inputs, targets)
        gradient = tape.gradient(now, theta)
        theta = [value - lr * g for value, g in zip(theta, gradient, strict=True)]
        losses.append(now)
    return theta, losses


def _outer_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Sequence[Any]],
    losses: Sequence[Any],
) -> Any:
    """Average over the tasks, and let the optimiser take the step."""
    means = [tf.reduce_mean(tf.stack(own), axis=0) for own in zip(*gradients, strict=True)]
    optimizer.apply(means, model.trainable_variables)
    return tf.reduce_mean(tf.stack(losses))


def _trainable(model: keras.Model) -> list[Any]:
    if not model.trainable_variables:
        raise ValueError("no variable is trainable: there is nothing to adapt")
    return [tf.convert_to_tensor(variable) for variable in model.trainable_variables]


def _check(*batches: Batch, axes: int) -> None:
    """Say which arrays do not fit together; `axes` counts tasks, batches and examples."""
    shapes = [(np.shape(inputs), np.shape(targets)) for inputs, targets in batches]
    for inputs, targets in shapes:
        if len(inputs) < axes or inputs[:axes] != targets[:axes]:
            raise ValueError(
                f"inputs of shape {inputs} and targets of shape {targets} need {axes} equal "
                "leading axes"
            )
    if len({inputs[0] for inputs, _ in shapes}) > 1:
        raise ValueError(f"support has {shapes[0][0][0]} tasks, query {shapes[1][0][0]}")
