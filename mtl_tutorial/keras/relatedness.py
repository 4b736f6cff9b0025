"""What a step for one task does to the loss of another: TAG's look-ahead affinity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtl_tutorial.keras.losses import task_loss
from mtl_tutorial.tasks import Task, check_targets, check_tasks, labelled


def lookahead_affinity(
    model: Any,
    tasks: Sequence[Task],
    inputs: Any,
    targets: Mapping[str, Any],
    *,
    lr: float,
) -> np.ndarray:
    r"""Take a step on the shared parameters for each task in turn, and see which losses it lowers.

    .. math::

        Z_{ij} = 1 - \frac{L_j(\theta - \alpha\, g_i)}{L_j(\theta)}
        \approx \alpha\, \frac{g_i \cdot g_j}{L_j}

    where :math:`g_i` is the gradient of task i on the shared parameters :math:`\theta`, and heads stay
    as they are. Above 0, a step for i helps j on the same batch. (Fifty et al., 2021, who average it
    over the batches of a training.) The approximation, for small steps, costs nothing beyond the
    Gramian. The model is run as in inference, without dropout, and left as it was.

    Parameters
    ----------
    model : keras.Model
        With ``encode``, ``decode`` and ``shared_parameters``, as
        :class:`~mtl_tutorial.keras.HardSharing` has them.
    tasks : sequence of Task, length T
    inputs : array or tensor, shape (N, ...)
    targets : mapping from task name to array or tensor, shape (N,)
    lr : float
        The size :math:`\alpha` of the step of gradient descent, above 0.

    Returns
    -------
    numpy.ndarray, shape (T, T)
        Entry ``[i, j]``: by which share a step for task i lowers the loss of task j. NaN beside a
        task without a label in the batch, or with a loss of 0.

    Raises
    ------
    KeyError
        A task has no target.
    ValueError
        ``lr`` is not above 0, no shared parameter is trained, or a label is none that a task allows.

    Examples
    --------
    >>> from mtl_tutorial.keras import HardSharing, linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(4, 8), linear_heads(tasks))
    >>> targets = {"digit": [1, 7], "gt5": [0, 1]}
    >>> lookahead_affinity(model, tasks, np.ones((2, 4)), targets, lr=0.1).shape
    (2, 2)
    """
    if not lr > 0:
        raise ValueError(f"lr must be above 0; got {lr}")
    tasks = check_tasks(tasks)
    truth = {t.name: np.asarray(targets[t.name]) for t in tasks if t.name in targets}
    check_targets(tasks, truth, max((len(labels) for labels in truth.values()), default=0))
    here = [bool(np.any(labelled(task, truth[task.name]))) for task in tasks]

    def losses() -> list[Any]:
        outputs = model.decode(model.encode(inputs, training=False), training=False)
        return [
            task_loss(task, truth[task.name], outputs[task.name]) if there else None
            for task, there in zip(tasks, here, strict=True)
        ]

    with tf.GradientTape(persistent=True) as tape:
        now = losses()
    theta = [variable for variable in model.shared_parameters() if variable.trainable]
    if not theta:
        raise ValueError("no shared parameter is trained, so no step of one task reaches another")
    gradients = {
        i: tape.gradient(now[i], theta, unconnected_gradients="zero")
        for i, there in enumerate(here)
        if there
    }
    start = [variable.numpy() for variable in theta]
    affinity = np.full((len(tasks), len(tasks)), np.nan)
    try:
        for i, own in gradients.items():
            for variable, before, gradient in zip(theta, start, own, strict=True):
                variable.assign(before - lr * gradient)
            affinity[i] = 1 - _numbers(losses()) / _numbers(now)
    finally:
        for variable, before in zip(theta, start, strict=True):
            variable.assign(before)
    return affinity


def _numbers(losses: Sequence[Any]) -> np.ndarray:
    """Losses as numbers; NaN where none is, or where it is 0 and no share of it can be told."""
    values = np.array([np.nan if loss is None else float(loss) for loss in losses])
    return np.where(values == 0, np.nan, values)
