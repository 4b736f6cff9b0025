"""Losses that skip missing labels, in PyTorch."""

import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor

from mtl_tutorial.tasks import Binary, Classification, Regression, Task


def task_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Mean loss over the rows that have a label; 0, with zero gradient, where none has.

    .. math:: L = \frac{1}{\max(1, \sum_j m_j)} \sum_j m_j\, \ell(y_j, \hat y_j)

    where :math:`m_j` is 1 if row :math:`j` has a label, else 0, and :math:`\ell` is the
    cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats)
    and the squared error for :class:`~mtl_tutorial.tasks.Regression`.

    Parameters
    ----------
    task : Task
    outputs : torch.Tensor, shape (N, task.outputs)
        The head's outputs.
    targets : torch.Tensor, shape (N,)
        -1 (classification, binary) or NaN (regression) marks a missing label. Labels are not
        checked here; :func:`mtl_tutorial.tasks.check_targets` does that once, before training.

    Returns
    -------
    torch.Tensor, a scalar

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.0], [100.0]], requires_grad=True)
    >>> task_loss(Binary("gt5"), logits, torch.tensor([1, -1]))  # log 2; the second row is missing
    tensor(0.6931, grad_fn=<DivBackward0>)
    """
    if isinstance(task, Classification):
        total = F.cross_entropy(outputs, targets.long(), ignore_index=-1, reduction="sum")
        return total / (targets >= 0).sum().clamp(min=1)
    if isinstance(task, Binary):
        truth = targets.to(outputs.dtype)
        there = (truth >= 0).to(outputs.dtype)
        total = F.binary_cross_entropy_with_logits(
            outputs.squeeze(1), truth.clamp(min=0), weight=there, reduction="sum"
        )
        return total / there.sum().clamp(min=1)
    if isinstance(task, Regression):
        truth = targets.to(outputs.dtype)
        there = ~truth.isnan()
        error = (outputs.squeeze(1) - truth.nan_to_num()).where(there, 0)
        return error.square().sum() / there.sum().clamp(min=1)
    raise TypeError(f"no loss for task {task.name!r}, a {type(task).__name__}, yet")
