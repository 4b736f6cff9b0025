"""From arrays to tensors and batches, after a look at them: a fault costs no training, no model."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mtl_tutorial.datasets import Split, check_inputs
from mtl_tutorial.metrics import scores
from mtl_tutorial.pytorch.models import HardSharing
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task, check_targets, check_tasks, labelled


def to_tensor(model: nn.Module, inputs: np.ndarray) -> Tensor:
    """Make a tensor of inputs, floats in the precision of the model's parameters."""
    tensor = torch.from_numpy(np.asarray(inputs))
    precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), tensor.dtype)
    return tensor.to(precision) if tensor.is_floating_point() else tensor


def check_fit(
    model: HardSharing,
    tasks: Sequence[Task],
    train: Split,
    valid: Split,
    *,
    epochs: int,
    batch_size: int,
    sampled: bool,
    patience: int | None,
    monitor: str,
) -> None:
    """Raise, or warn, before the first step of ``fit``."""
    if epochs < 1 or batch_size < 1 or (patience is not None and patience < 1):
        raise ValueError(
            "epochs, batch_size and patience must be at least 1; got "
            f"{epochs}, {batch_size} and {patience}"
        )
    check_data(model, tasks, train)
    check_data(model, tasks, valid)
    if patience is not None:
        _check_monitor(monitor, tasks, train, valid)
    if not sampled and len(train) % batch_size == 1:
        _check_single_row(model, train, batch_size)
    for name in unlabelled(tasks, valid):  # none in train is a stage of a training, and no fault
        warnings.warn(
            f"task {name!r} has no label in the validation data: its loss and metrics there are NaN, "
            "and so is the sum of the losses",
            stacklevel=3,
        )


def check_data(model: HardSharing, tasks: Sequence[Task], data: Split) -> None:
    """Raise if a head is absent, or inputs or targets are none to learn from."""
    for task in check_tasks(tasks):
        if task.name not in model.heads:
            raise KeyError(f"the model has no head {task.name!r}; it has {list(model.heads)}")
    check_inputs(data.inputs)
    check_targets(tasks, data.targets, len(data))


def unlabelled(tasks: Sequence[Task], data: Split) -> list[str]:
    """Names of the tasks that have no label at all."""
    return [t.name for t in tasks if not labelled(t, data.targets[t.name]).any()]


def _check_monitor(monitor: str, tasks: Sequence[Task], train: Split, valid: Split) -> None:
    """Raise if the history will have no such key, or NaN there, so that no epoch is the best."""
    keys = {f"{task.name}_loss": [task] for task in tasks} | {"val_loss": list(tasks)}
    for task in tasks:
        row = {task.name: np.zeros((1, task.outputs))}
        metrics = scores([task], row, valid.take(slice(1)).targets)
        keys |= {f"val_{key}": [task] for key in (f"{task.name}_loss", *metrics)}
    if monitor not in keys:
        raise KeyError(f"the history will have no {monitor!r} to monitor, only {list(keys)}")
    for name in unlabelled(keys[monitor], valid if monitor.startswith("val_") else train):
        raise ValueError(
            f"{monitor!r} will be NaN, since task {name!r} has no label there, and no epoch the best: "
            "monitor another key, or train without patience"
        )


def _check_single_row(model: HardSharing, train: Split, batch_size: int) -> None:
    """Raise if batch norm cannot be trained on the single row that would be the last batch."""
    norms = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    if not any(isinstance(module, norms) for module in model.modules()):
        return
    trial = copy.deepcopy(model).train()  # a single image may have places enough
    row = to_tensor(trial, train.inputs[:1]).to(next(trial.parameters()).device)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            trial(row)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{len(train)} rows in batches of {batch_size} leave a single row for the last one, in "
            "which batch norm finds no variance; choose another batch_size"
        ) from error


def rows_of_batches(
    sampler: Callable[[int, np.random.Generator], Iterable[np.ndarray]] | None,
    length: int,
    batch_size: int,
    generator: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Give the rows of each batch of an epoch, those of a sampler after a look at them."""
    if sampler is None:
        yield from batches(length, batch_size, generator)
        return
    count = 0
    for count, given in enumerate(sampler(batch_size, generator), 1):
        rows = np.asarray(given)
        if not len(rows) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= length:
            raise ValueError(
                f"the sampler gave {rows!r} for batch {count}; a batch is an array of row numbers, "
                f"from 0 to {length - 1}, at least one"
            )
        yield rows
    if not count:
        raise ValueError("the sampler gave no batch; it is called anew for each epoch")
