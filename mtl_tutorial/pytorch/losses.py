"""Losses that skip missing labels, in PyTorch."""

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor

from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task


def task_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Mean loss over the rows that have a label; 0, with zero gradient, where none has.

    .. math:: L = \frac{1}{\max(1, \sum_j m_j)} \sum_j m_j\, \ell(y_j, \hat y_j)

    where :math:`m_j` is 1 if row :math:`j` has a label, else 0, and :math:`\ell` is the
    cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats),
    the squared error for :class:`~mtl_tutorial.tasks.Regression` and :func:`giou_loss` for
    :class:`~mtl_tutorial.tasks.Boxes`.

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
    if isinstance(task, Boxes):
        return giou_loss(outputs, targets)
    raise TypeError(f"task {task.name!r} is a {type(task).__name__}, for which there is no loss")


def giou_loss(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Mean generalised-IoU loss of boxes over the rows that have one; 0 where none has.

    .. math:: L = 1 - \frac{|A \cap B|}{|A \cup B|} + \frac{|H| - |A \cup B|}{|H|}

    with the areas of the predicted box :math:`A`, the true box :math:`B` and the smallest box
    :math:`H` that holds both. Between 0 and 2. Unlike 1 - IoU it has a gradient where the boxes do
    not meet: the third term draws them together. (Rezatofighi et al., 2019.) A predicted box whose
    corners are in the wrong order has area 0.

    Parameters
    ----------
    prediction, target : torch.Tensor, shape (N, 4)
        Corners (x1, y1, x2, y2), in any one unit. A row of ``target`` with a NaN is a missing label.

    Returns
    -------
    torch.Tensor, a scalar

    Examples
    --------
    >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> giou_loss(box, box), giou_loss(box, box + 1)  # the same box, and one that touches a corner
    (tensor(0.), tensor(1.5000))
    """
    there = ~target.isnan().any(dim=1)
    target = target.to(prediction.dtype).where(there[:, None], 0)
    common, union, hull = _areas(prediction, target)
    each = 1 - common / union.clamp(min=_TINY) + (hull - union) / hull.clamp(min=_TINY)
    return each.where(there, 0).sum() / there.sum().clamp(min=1)


_TINY = 1e-12  # an area to divide by where two boxes are empty


def _areas(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of what two boxes have in common, of their union, and of the box that holds both."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=1)

    low, high, other_low, other_high = one[:, :2], one[:, 2:], other[:, :2], other[:, 2:]
    common = area(torch.maximum(low, other_low), torch.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - common
    return common, union, area(torch.minimum(low, other_low), torch.maximum(high, other_high))
