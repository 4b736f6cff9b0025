"""What a step for one task does to the loss of another: TAG's look-ahead affinity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_tutorial.pytorch._data import at_rest, to_tensor
from mtl_tutorial.pytorch.losses import batch_losses
from mtl_tutorial.tasks import Task


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
    model : torch.nn.Module
        With ``encode``, ``decode`` and ``shared_parameters``, as
        :class:`~mtl_tutorial.pytorch.HardSharing` has them.
    tasks : sequence of Task, length T
    inputs : array or torch.Tensor, shape (N, ...)
    targets : mapping from task name to array or torch.Tensor, shape (N,)
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
    >>> from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(4, 8), linear_heads(tasks, features=8))
    >>> targets = {"digit": [1, 7], "gt5": [0, 1]}
    >>> lookahead_affinity(model, tasks, torch.ones(2, 4), targets, lr=0.1).shape
    (2, 2)
    """
    if not lr > 0:
        raise ValueError(f"lr must be above 0; got {lr}")
    theta = [parameter for parameter in model.shared_parameters() if parameter.requires_grad]
    if not theta:
        raise ValueError("no shared parameter is trained, so no step of one task reaches another")
    x = to_tensor(model, inputs)

    def losses() -> list[Tensor | None]:
        return [*batch_losses(tasks, model.decode(model.encode(x)), targets).values()]

    affinity = np.full((len(tasks), len(tasks)), np.nan)
    with at_rest(model):
        now = losses()
        gradients = {
            i: torch.autograd.grad(loss, theta, retain_graph=True, materialize_grads=True)
            for i, loss in enumerate(now)
            if loss is not None
        }
        start = [parameter.detach().clone() for parameter in theta]
        with torch.no_grad():
            try:
                for i, own in gradients.items():
                    for parameter, before, gradient in zip(theta, start, own, strict=True):
                        parameter.copy_(before - lr * gradient)
                    affinity[i] = 1 - _numbers(losses()) / _numbers(now)
            finally:
                for parameter, before in zip(theta, start, strict=True):
                    parameter.copy_(before)
    return affinity


def _numbers(losses: Sequence[Tensor | None]) -> np.ndarray:
    """Losses as numbers; NaN where none is, or where it is 0 and no share of it can be told."""
    values = np.array([np.nan if loss is None else loss.item() for loss in losses])
    return np.where(values == 0, np.nan, values)
