"""Losses that skip missing labels, in PyTorch."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
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
    target_shape,
)


def batch_losses(
    tasks: Sequence[Task],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    counts: Mapping[str, float | Tensor] | None = None,
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
    targets : mapping from task name to array or torch.Tensor, shape (N,)
        Or another that the kind of task allows. Where they lie on the CPU, nothing here waits for a
        GPU.
    sample_weight : array or torch.Tensor, shape (N,), or mapping from task name to such, optional
        How much each row counts in the mean, not below 0; a row of weight 0 has no label.
    counts : mapping from task name to float, optional
        What each sum of losses is divided by, instead of :func:`label_counts` of this batch: that of
        the whole batch, where this is a part of it (micro-batches, or one of several processes).

    Returns
    -------
    dict from task name to scalar torch.Tensor or None
        In the order of the tasks.

    Raises
    ------
    KeyError
        A task has no target, or has a label but no outputs.
    ValueError
        A shape is wrong, a weight is below 0, or a label is none that the task allows: the message
        names the task, and the label's row in the batch.

    Examples
    --------
    >>> tasks = [Binary("gt5"), Regression("size")]
    >>> outputs = {"gt5": torch.zeros(2, 1), "size": torch.zeros(2, 1)}
    >>> batch_losses(tasks, outputs, {"gt5": [-1, -1], "size": [3.0, float("nan")]})
    {'gt5': None, 'size': tensor(9.)}
    >>> batch_losses(tasks[1:], outputs, {"size": [3.0, 5.0]}, sample_weight=[3.0, 1.0])
    {'size': tensor(13.)}
    """
    here: dict[str, Tensor] = {}
    truth: dict[str, Tensor] = {}
    weights = row_weights(tasks, sample_weight)
    for task in check_tasks(tasks):
        name = task.name
        if name not in targets:
            raise KeyError(f"no target named {name!r}; there are {sorted(targets)}")
        target = torch.as_tensor(targets[name])
        if name in outputs:
            target = _check_shapes(task, outputs[name], target)
        seen = (target.float() if target.dtype == torch.bfloat16 else target).numpy(force=True)
        check_targets([task], {name: seen}, len(seen))
        if _there(task, target, weights[name]).any():
            if name not in outputs:
                raise KeyError(f"task {name!r} has labels, but no outputs; {sorted(outputs)} have")
            here[name], truth[name] = outputs[name], target.to(outputs[name].device)
    return known_losses(tasks, here, truth, weights, counts)


def row_weights(tasks: Sequence[Task], sample_weight: Any) -> dict[str, Tensor | None]:
    """Sample weights by task, None for none, after a look at them."""
    given = sample_weight if isinstance(sample_weight, Mapping) else {}
    weights: dict[str, Tensor | None] = {}
    for task in tasks:
        own = given.get(task.name) if isinstance(sample_weight, Mapping) else sample_weight
        weight = None if own is None else torch.as_tensor(own)
        if weight is not None and (weight.dim() != 1 or not bool((weight >= 0).all())):
            raise ValueError(
                f"task {task.name!r}: sample_weight is one number a row, shape (N,), none below 0"
            )
        weights[task.name] = weight
    return weights


def label_counts(
    tasks: Sequence[Task], targets: Mapping[str, Tensor], sample_weight: Any = None
) -> dict[str, Tensor]:
    r"""Count the labels of each task in a batch, each with its weight: what its mean divides by.

    .. math:: \sum_j m_j\, s_j\, c_{y_j}

    with :math:`m_j` 1 where there is a label, else 0, the sample weights :math:`s` and the class
    weights :math:`c`. Give it as ``counts`` to :func:`batch_losses` for the parts of the batch.

    Parameters
    ----------
    tasks : sequence of Task
    targets : mapping from task name to torch.Tensor
    sample_weight : torch.Tensor, shape (N,), or mapping from task name to such, optional

    Returns
    -------
    dict from task name to scalar torch.Tensor

    Examples
    --------
    >>> counts = label_counts([Binary("gt5")], {"gt5": torch.tensor([0, -1, 1, 1])})
    >>> whole, parts = torch.tensor([[2.0], [9.0], [-1.0], [3.0]]), (slice(0, 2), slice(2, 4))
    >>> truth = torch.tensor([0, -1, 1, 1])
    >>> sum(batch_losses([Binary("gt5")], {"gt5": whole[part]}, {"gt5": truth[part]},
    ...                  counts=counts)["gt5"] for part in parts)
    tensor(1.1629)
    >>> task_loss(Binary("gt5"), whole, truth)
    tensor(1.1629)
    """
    weights = row_weights(tasks, sample_weight)
    counts = {}
    for task in tasks:
        target, weight = torch.as_tensor(targets[task.name]), weights[task.name]
        there = _there(task, target, weight)
        counts[task.name] = _count(task, target, there, weight)
    return counts


def known_losses(
    tasks: Sequence[Task],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    weights: Mapping[str, Tensor | None] | None = None,
    counts: Mapping[str, float | Tensor] | None = None,
) -> dict[str, Tensor | None]:
    """As :func:`batch_losses`, of labels that were checked before; without outputs a task is absent."""
    weights, counts = weights or {}, counts or {}
    losses: dict[str, Tensor | None] = {task.name: None for task in tasks}
    for task in tasks:
        if (name := task.name) in outputs:
            own = outputs[name], targets[name], weights.get(name), counts.get(name)
            losses[name] = known_loss(task, *own)
    return losses


def task_loss(task: Task, outputs: Tensor, targets: Tensor, sample_weight: Any = None) -> Tensor:
    r"""Mean loss over the labels that are there; 0, with zero gradient, where none is.

    .. math:: L = \frac{\sum_j m_j\, s_j\, \ell(y_j, \hat y_j)}{\sum_j m_j\, s_j\, c_{y_j}}

    where :math:`m_j` is 1 if label :math:`j` is there, else 0, :math:`s_j` is the weight of its row
    (1 if none is given), :math:`c` are the class weights (1 if none are), and :math:`\ell` is
    the cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats; see
    there for their weights), the squared error for :class:`~mtl_tutorial.tasks.Regression`,
    :func:`giou_loss` for :class:`~mtl_tutorial.tasks.Boxes`, and :func:`label_losses` of your own kind.

    For the losses of a step take :func:`batch_losses`: a task without any label in the batch has no
    loss, and this function cannot say so.

    Parameters
    ----------
    task : Task
    outputs : torch.Tensor, shape (N, task.outputs), or (N, ..., task.outputs)
        The head's outputs. The loss of half precision is computed in float32.
    targets : torch.Tensor, shape (N,), (N, ...), or (N, ..., task.outputs), see the kind of task
        -1 (classification, binary) or NaN (regression, boxes) marks a missing label. For outputs with
        one row a label any other shape of N numbers, such as (N, 1), is read row by row.
    sample_weight : torch.Tensor, shape (N,), optional
        Not below 0. The mean is a weighted one: weights that are all doubled change nothing.

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
    allowed = task.allowed(targets)
    if isinstance(task, Boxes):  # the sides are check_targets' to look at
        box = (targets[:, :2] < targets[:, 2:]).all(dim=1) & targets.isfinite().all(dim=1)
        allowed = box | targets.isnan().all(dim=1)
        known = targets.where(allowed[:, None], targets.new_tensor([0, 0, 1, 1]))
    else:
        known = targets.where(allowed, 0)
    # the outputs, not the loss: a label that is not looked at passes no NaN on to its gradient
    known_outputs = outputs * torch.where(allowed.all(), 1.0, torch.nan)
    return known_loss(task, known_outputs, known, row_weights([task], sample_weight)[task.name])


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
    """Return the targets in the shape that the outputs ask for, or say what does not fit together."""
    if not outputs.is_floating_point():
        kind = str(outputs.dtype).removeprefix("torch.")
        raise ValueError(f"task {task.name!r}: outputs are {kind}, expected floats")
    targets = targets.reshape(target_shape(task, outputs.shape, targets.shape))
    if task.missing == -1 and not targets.is_floating_point():
        targets = targets.long()  # of unsigned numbers and truth values none is below 0
    return targets


def known_loss(
    task: Task,
    outputs: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    count: float | Tensor | None = None,
) -> Tensor:
    """Give :func:`task_loss` of labels that are known to be allowed, divided by ``count`` if given."""
    targets = _check_shapes(task, outputs, targets)
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()  # else counts and squares are rounded to two or three digits
    there = _there(task, targets, weights)
    if isinstance(task, Classification) and weights is None:
        total = _cross_entropies(task, outputs, targets, "sum")  # one kernel for what follows here
    else:
        each = label_losses(task, *_filled(task, outputs, targets, there))
        if each.shape != there.shape:
            raise ValueError(
                f"task {task.name!r}: label_losses gave shape {tuple(each.shape)}, expected one loss "
                f"a label, {tuple(there.shape)}"
            )
        each = each.where(there, 0)
        total = (each if weights is None else each * _by_row(weights, each)).sum()
    if count is None:
        own = _count(task, targets, there, weights)
        count = own.clamp(min=1) if own.dtype == torch.int64 else own.where(own > 0, 1)
    return total / (count.to(total) if isinstance(count, Tensor) else count)


def _there(task: Task, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Where a label is there, and counts."""
    there: Tensor = labelled(task, targets)
    return there if weights is None else there & (_by_row(weights, there) > 0)


def _filled(task: Task, outputs: Tensor, targets: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Put something harmless where there is no label: the gradient of a NaN is NaN, masked or not."""
    if isinstance(task, Boxes):
        same = outputs.new_tensor([0.0, 0.0, 1.0, 1.0])  # of loss 0
        truth = targets.to(outputs.dtype)
        return outputs.where(there[..., None], same), truth.where(there[..., None], same)
    return outputs, targets.where(there, 0)


def _count(task: Task, targets: Tensor, there: Tensor, weights: Tensor | None) -> Tensor:
    """Give the sum of the labels' weights; an integer where each counts 1."""
    counted = there
    if isinstance(task, Classification) and task.class_weights is not None:
        classes = torch.tensor(task.class_weights, dtype=torch.float64, device=targets.device)
        counted = counted * classes[targets.where(there, 0).long()]
    if weights is not None:
        counted = counted * _by_row(weights.double(), there)
    return counted.sum()


def _by_row(weights: Tensor, labels: Tensor) -> Tensor:
    """Weights of rows, against labels of shape (N, ...)."""
    if len(weights) != len(labels):
        raise ValueError(
            f"there are {len(weights)} sample weights for {len(labels)} rows; give one a row"
        )
    dtype = labels.dtype if labels.is_floating_point() else weights.dtype
    return weights.reshape(-1, *[1] * (labels.dim() - 1)).to(labels.device, dtype)


@singledispatch
def label_losses(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the loss of every label; for a kind of task of your own, register a function.

    Parameters
    ----------
    task : Task
    outputs : torch.Tensor, shape (N, ..., task.outputs)
    targets : torch.Tensor, shape (N, ...), or (N, ..., task.outputs)
        0 where there is no label: nothing here needs to think of missing ones.

    Returns
    -------
    torch.Tensor, the shape of the labels

    Raises
    ------
    TypeError
        Nothing is registered for this kind.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Count(Task):
    ...     outputs = 1
    >>> @label_losses.register
    ... def _(task: Count, outputs: Tensor, targets: Tensor) -> Tensor:
    ...     return F.poisson_nll_loss(outputs[..., 0], targets, reduction="none")
    >>> task_loss(Count("visits"), torch.zeros(3, 1), torch.tensor([2, 0, -1]))
    tensor(1.)
    """
    raise TypeError(
        f"task {task.name!r} is a {type(task).__name__}, for which there is no loss; register a "
        "function with mtl_tutorial.pytorch.label_losses"
    )


@label_losses.register
def _(task: Classification, outputs: Tensor, targets: Tensor) -> Tensor:
    return _cross_entropies(task, outputs, targets, "none").reshape(targets.shape)


def _cross_entropies(
    task: Classification, outputs: Tensor, targets: Tensor, reduction: str
) -> Tensor:
    """Cross-entropy of each label, or their sum; 0 where there is none."""
    weights = None if task.class_weights is None else outputs.new_tensor(task.class_weights)
    return F.cross_entropy(
        outputs.flatten(0, -2),
        targets.flatten().long(),
        weights,
        ignore_index=-1,
        reduction=reduction,
        label_smoothing=task.label_smoothing,
    )


@label_losses.register
def _(task: Binary, outputs: Tensor, targets: Tensor) -> Tensor:
    logits = outputs if task.numbers > 1 else outputs[..., 0]
    weights = None if task.pos_weight == 1 else logits.new_tensor(task.pos_weight)
    return F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), pos_weight=weights, reduction="none"
    )


@label_losses.register
def _(task: Regression, outputs: Tensor, targets: Tensor) -> Tensor:
    values = outputs if task.numbers > 1 else outputs[..., 0]
    return (values - targets.to(values.dtype)).square()


@label_losses.register
def _(task: Boxes, outputs: Tensor, targets: Tensor) -> Tensor:
    return _giou(outputs, targets)


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
