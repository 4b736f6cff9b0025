"""Losses that skip missing labels, in PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor

from mtl_tutorial.tasks import (
    Binary,
    Boxes,
    Classification,
    Regression,
    Task,
    check_targets,
    check_tasks,
    labelled,
)


def batch_losses(
    tasks: Sequence[Task], outputs: Mapping[str, Tensor], targets: Mapping[str, Any]
) -> dict[str, Tensor | None]:
    """Losses of all tasks on a batch, as ``mtl_backward`` takes them: None for an absent task.

    A task without a label in the batch is absent. Its :func:`task_loss` would be 0 with a gradient
    of zeros, which is no loss: MGDA and CAGrad would keep the trunk where it is, and UW would think
    that nothing is left to learn.

    Parameters
    ----------
    tasks : sequence of Task
    outputs : mapping from task name to torch.Tensor, shape (N, task.outputs)
        The heads' outputs. A head whose task has no label here need not have run.
    targets : mapping from task name to array or torch.Tensor, shape (N,); (N, 4) for boxes
        Where they lie on the CPU, nothing here waits for a GPU.

    Returns
    -------
    dict from task name to scalar torch.Tensor or None
        In the order of the tasks.

    Raises
    ------
    KeyError
        A task has no target, or has a label but no outputs.
    ValueError
        A shape is wrong, or a label is none that the task allows: the message names the task, and
        the label's row in the batch.

    Examples
    --------
    >>> tasks = [Binary("gt5"), Regression("size")]
    >>> outputs = {"gt5": torch.zeros(2, 1), "size": torch.zeros(2, 1)}
    >>> batch_losses(tasks, outputs, {"gt5": [-1, -1], "size": [3.0, float("nan")]})
    {'gt5': None, 'size': tensor(9.)}
    """
    here: dict[str, Tensor] = {}
    truth: dict[str, Tensor] = {}
    for task in check_tasks(tasks):
        name = task.name
        if name not in targets:
            raise KeyError(f"no target named {name!r}; there are {sorted(targets)}")
        target = torch.as_tensor(targets[name])
        if name in outputs:
            target = _check_shapes(task, outputs[name], target)
        seen = (target.float() if target.dtype == torch.bfloat16 else target).numpy(force=True)
        check_targets([task], {name: seen}, len(seen))
        if labelled(task, seen).any():
            if name not in outputs:
                raise KeyError(f"task {name!r} has labels, but no outputs; {sorted(outputs)} have")
            here[name], truth[name] = outputs[name], target.to(outputs[name].device)
    return known_losses(tasks, here, truth)


def known_losses(
    tasks: Sequence[Task], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    """As :func:`batch_losses`, of labels that were checked before; without outputs a task is absent."""
    return {
        task.name: known_loss(task, outputs[task.name], targets[task.name])
        if task.name in outputs
        else None
        for task in tasks
    }


def task_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Mean loss over the rows that have a label; 0, with zero gradient, where none has.

    .. math:: L = \frac{1}{\max(1, \sum_j m_j)} \sum_j m_j\, \ell(y_j, \hat y_j)

    where :math:`m_j` is 1 if row :math:`j` has a label, else 0, and :math:`\ell` is the
    cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats),
    the squared error for :class:`~mtl_tutorial.tasks.Regression` and :func:`giou_loss` for
    :class:`~mtl_tutorial.tasks.Boxes`.

    For the losses of a step take :func:`batch_losses`: a task without any label in the batch has no
    loss, and this function cannot say so.

    Parameters
    ----------
    task : Task
    outputs : torch.Tensor, shape (N, task.outputs)
        The head's outputs. The loss of half precision is computed in float32.
    targets : torch.Tensor, shape (N,); (N, 4) for boxes
        -1 (classification, binary) or NaN (regression, boxes) marks a missing label. Any other
        shape of N numbers, such as (N, 1), is read row by row.

    Returns
    -------
    torch.Tensor, a scalar
        NaN, as is its gradient, if a label is none that the task allows, such as -100, a class that
        there is not, or a box without area: no label is looked at here, which on a GPU would cost a
        synchronisation. :func:`mtl_tutorial.tasks.check_targets` names the row.

    Raises
    ------
    ValueError
        Outputs and targets do not fit together.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.0], [100.0]], requires_grad=True)
    >>> task_loss(Binary("gt5"), logits, torch.tensor([1, -1]))  # log 2; the second row is missing
    tensor(0.6931, grad_fn=<DivBackward0>)
    """
    targets = _check_shapes(task, outputs, targets)
    allowed = _allowed(task, targets)
    if isinstance(task, Boxes):
        known = targets.where(allowed[:, None], targets.new_tensor([0, 0, 1, 1]))
    else:
        known = targets.where(allowed, 0)
    # the outputs, not the loss: a label that is not looked at passes no NaN on to its gradient
    return known_loss(task, outputs * torch.where(allowed.all(), 1.0, torch.nan), known)


def giou_loss(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Mean generalised-IoU loss of boxes over the rows that have one; 0 where none has.

    .. math:: L = 1 - \frac{|A \cap B|}{|A \cup B|} + \frac{|H| - |A \cup B|}{|H|}
       + \frac{\max(0, x_1 - x_2)}{H_x} + \frac{\max(0, y_1 - y_2)}{H_y}

    with the areas of the predicted box :math:`A`, the true box :math:`B` and the smallest box
    :math:`H`, of sides :math:`H_x` and :math:`H_y`, that holds :math:`B` and both corners
    :math:`(x_1, y_1)` and :math:`(x_2, y_2)` of :math:`A`. Unlike 1 - IoU it has a gradient where the
    boxes do not meet: the third term draws them together. (Rezatofighi et al., 2019.)

    The last two terms are ours, and 0 for every box. Corners in the wrong order enclose nothing: the
    area of :math:`A` is 0, and without these terms its gradient is, too, wherever both corners lie
    inside :math:`B`, so that a network could never leave that state. Between 0 and 2 for a box, at
    least 1 and below 4 for crossed corners.

    Parameters
    ----------
    prediction, target : torch.Tensor, shape (N, 4)
        Corners (x1, y1, x2, y2), in any one unit. A row of ``target`` of four NaN is a missing
        label; one with a single NaN, or without an area, makes the loss and its gradient NaN.

    Returns
    -------
    torch.Tensor, a scalar

    Examples
    --------
    >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> giou_loss(box, box), giou_loss(box, box + 1)  # the same box, and one that touches a corner
    (tensor(0.), tensor(1.5000))
    """
    return task_loss(Boxes("box"), prediction, target)


def _check_shapes(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets of shape (N,), (N, 4) for boxes, or say what does not fit together."""
    shape, found = tuple(outputs.shape), tuple(targets.shape)
    if len(shape) != 2 or shape[1] != task.outputs or not outputs.is_floating_point():
        kind = str(outputs.dtype).removeprefix("torch.")
        raise ValueError(
            f"task {task.name!r}: outputs are {kind} of shape {shape}, expected floats of shape "
            f"(N, {task.outputs})"
        )
    boxes = isinstance(task, Boxes)
    if (found != shape) if boxes else (targets.numel() != shape[0]):
        expected = shape if boxes else (shape[0],)
        raise ValueError(
            f"task {task.name!r}: targets have shape {found}, expected {expected}, since the "
            f"outputs have {shape}"
        )
    if not boxes:
        targets = targets.reshape(-1)
        if isinstance(task, Classification | Binary) and not targets.is_floating_point():
            targets = targets.long()  # of unsigned numbers and truth values none is below 0
    return targets


def _allowed(task: Task, targets: Tensor) -> Tensor:
    """Which rows hold a label or the mark of a missing one, bool of shape (N,)."""
    if isinstance(task, Classification | Binary):
        top = task.classes - 1 if isinstance(task, Classification) else 1
        inside = (targets >= -1) & (targets <= top)
        return inside & (targets == targets.round()) if targets.is_floating_point() else inside
    if isinstance(task, Boxes):
        box = (targets[:, :2] < targets[:, 2:]).all(dim=1) & targets.isfinite().all(dim=1)
        return box | targets.isnan().all(dim=1)
    return ~targets.isinf()


def known_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Give :func:`task_loss` of labels that are known to be allowed."""
    targets = _check_shapes(task, outputs, targets)
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()  # else counts and squares are rounded to two or three digits
    if isinstance(task, Classification):
        total = F.cross_entropy(outputs, targets.long(), ignore_index=-1, reduction="sum")
        return total / (targets >= 0).sum().clamp(min=1)
    truth = targets.to(outputs.dtype)
    if isinstance(task, Binary):
        there = (truth >= 0).to(outputs.dtype)
        total = F.binary_cross_entropy_with_logits(
            outputs.squeeze(1), truth.clamp(min=0), weight=there, reduction="sum"
        )
        return total / there.sum().clamp(min=1)
    if isinstance(task, Regression):
        there = ~truth.isnan()
        error = (outputs.squeeze(1) - truth.nan_to_num()).where(there, 0)
        return error.square().sum() / there.sum().clamp(min=1)
    if isinstance(task, Boxes):
        there = ~truth.isnan().any(dim=1)
        mask, same = there[:, None], truth.new_tensor([0.0, 0.0, 1.0, 1.0])  # of loss 0
        each = _giou(outputs.where(mask, same), truth.where(mask, same))
        return each.sum() / there.sum().clamp(min=1)
    raise TypeError(f"task {task.name!r} is a {type(task).__name__}, for which there is no loss")


def _giou(box: Tensor, truth: Tensor) -> Tensor:
    """Give each row's loss, shape (N,); see :func:`giou_loss`. Areas are shares of that of H."""
    low, high, true_low, true_high = box[:, :2], box[:, 2:], truth[:, :2], truth[:, 2:]
    most = torch.maximum(torch.maximum(low, high), true_high)
    sides = most - torch.minimum(torch.minimum(low, high), true_low)

    def area(low: Tensor, high: Tensor) -> Tensor:
        width, height = ((high - low).relu() / sides).unbind(1)
        return width * height

    common = area(torch.maximum(low, true_low), torch.minimum(high, true_high))
    union = area(low, high) + area(true_low, true_high) - common
    crossed = ((low - high) / sides).where(low >= high, 0).sum(dim=1)  # pulls where both are equal
    return 2 - common / union.clamp(min=_TINY) - union + crossed


_TINY = 1e-30  # a share to divide by where two boxes are too far apart for their shares of H
