"""From arrays and loaders to batches on a device, after a look at them: a fault costs no training."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from mtl_tutorial.datasets import Split, check_inputs, leaves, map_arrays
from mtl_tutorial.pytorch.distributed import world_size
from mtl_tutorial.pytorch.losses import row_weights
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task, check_targets, check_tasks, labelled, target_shape

Loader = Iterable[Any] | Callable[[], Iterable[Any]]
Sampler = Callable[[int, np.random.Generator], Iterable[np.ndarray]]


class Batch(NamedTuple):
    """Rows of the data, on the device of the model."""

    inputs: Any
    targets: dict[str, Tensor]
    weights: dict[str, Tensor | None]
    """Sample weights."""
    labelled: dict[str, np.ndarray | None]
    """By task, which rows have a label, bool of shape (N,); None where all have."""

    def __len__(self) -> int:
        return len(next(iter(self.targets.values())))

    def present(self) -> list[str]:
        """Give the names of the tasks that have a label here."""
        return [name for name, rows in self.labelled.items() if rows is None or rows.any()]

    def take(self, rows: slice) -> "Batch":
        """Give some of the rows."""
        return Batch(
            map_arrays(lambda array: array[rows], self.inputs),
            {name: target[rows] for name, target in self.targets.items()},
            {name: None if own is None else own[rows] for name, own in self.weights.items()},
            {name: None if own is None else own[rows] for name, own in self.labelled.items()},
        )

    def parts(self, count: int) -> list["Batch"]:
        """Cut the batch into as many parts, of rows that follow each other; none is empty."""
        edges = np.linspace(0, len(self), min(count, len(self)) + 1).round().astype(int).tolist()
        return [self.take(slice(a, b)) for a, b in pairwise(edges)]


def batches_of(
    model: nn.Module,
    tasks: Sequence[Task],
    data: Split | Loader,
    device: torch.device,
    *,
    sampler: Sampler | None,
    batch_size: int,
    generator: np.random.Generator,
) -> Callable[[], Iterator[Batch]]:
    """Make a function that gives the batches of an epoch.

    A split moves to the device as a whole: each batch is an index into it there. Of several processes
    each has its share of the rows.
    """
    if not isinstance(data, Split):
        return partial(loaded, model, tasks, data, device)
    rank = dist.get_rank() if world_size() > 1 else 0
    whole = _moved(_batch(model, tasks, data.inputs, data.targets, data.sample_weight), device)

    def take(rows: np.ndarray) -> Batch:
        if len(rows) < world_size():
            raise ValueError(
                f"a batch of {len(rows)} rows cannot be shared by {world_size()} processes; choose "
                "another batch_size"
            )
        rows = rows[rank :: world_size()]
        index = torch.from_numpy(rows).to(device)
        return Batch(
            map_arrays(lambda array: array.index_select(0, index), whole.inputs),
            {name: target.index_select(0, index) for name, target in whole.targets.items()},
            {
                name: None if own is None else own.index_select(0, index)
                for name, own in whole.weights.items()
            },
            {name: None if own is None else own[rows] for name, own in whole.labelled.items()},
        )

    return lambda: map(take, rows_of_batches(sampler, len(data), batch_size, generator))


def loaded(
    model: nn.Module, tasks: Sequence[Task], loader: Loader, device: torch.device
) -> Iterator[Batch]:
    """Give the batches of a loader, checked, on the device."""
    count = 0
    for count, given in enumerate(loader() if callable(loader) else loader, 1):
        if not (isinstance(given, tuple | list) and len(given) in (2, 3)) or not isinstance(
            given[1], Mapping
        ):
            kind = f"{type(given).__name__} of {len(given)}" if isinstance(given, Sequence) else ""
            raise TypeError(
                "a loader yields (inputs, targets) or (inputs, targets, sample_weight), with targets "
                f"a dict by task name; batch {count} is a {kind or type(given).__name__}"
            )
        inputs = tuple(given[0]) if isinstance(given[0], list) else given[0]
        batch = _batch(model, tasks, inputs, given[1], given[2] if len(given) == 3 else None)
        yield _moved(batch, device)
    if not count:
        raise ValueError(
            "the loader gave no batch. It is gone through once an epoch: give a DataLoader, a "
            "tf.data.Dataset, a list or a function that makes a generator, not a generator itself"
        )


def _batch(
    model: nn.Module,
    tasks: Sequence[Task],
    inputs: Any,
    targets: Mapping[str, Any],
    sample_weight: Any,
) -> Batch:
    """Make tensors and masks of arrays or tensors on the CPU, after a look at the labels."""
    tensors = map_arrays(lambda array: to_tensor(model, array), inputs)
    length = len(next(iter(leaves(tensors).values())))
    truth = {task.name: _tensor(targets[task.name]) for task in tasks if task.name in targets}
    check_targets(tasks, {name: as_array(own) for name, own in truth.items()}, length)
    weights = row_weights(tasks, sample_weight)
    there: dict[str, np.ndarray | None] = {}
    for task in tasks:
        rows = labelled_rows(task, as_array(truth[task.name]))
        own = weights[task.name]
        if own is not None:
            rows &= as_array(own) > 0
        there[task.name] = None if rows.all() else rows
    return Batch(tensors, truth, weights, there)


def _moved(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device; to a GPU from pinned memory, so that nobody waits for the copy."""
    if device.type == "cpu":
        return batch

    def move(tensor: Tensor) -> Tensor:
        pinned = tensor if device.type != "cuda" or tensor.is_cuda else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)

    inputs, targets, weights, there = batch
    return Batch(
        map_arrays(move, inputs),
        {name: move(target) for name, target in targets.items()},
        {name: None if own is None else move(own) for name, own in weights.items()},
        there,
    )


def to_tensor(model: nn.Module, inputs: Any) -> Tensor:
    """Make a tensor of inputs, floats in the precision of the model's parameters."""
    tensor = _tensor(inputs)
    precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), tensor.dtype)
    return tensor.to(precision) if tensor.is_floating_point() else tensor


def _tensor(array: Any) -> Tensor:
    """Make a tensor of anything that NumPy can read; what may not be written to is copied."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.require(array, requirements="W"))


def as_array(tensor: Tensor) -> np.ndarray:
    """Make an array of a tensor; float32 of one in bfloat16, which NumPy lacks."""
    kind = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.to(kind).numpy(force=True)


def tensors_of(features: Any) -> list[Tensor]:
    """Give the tensors in features: one, or several in lists, tuples and dicts."""
    if isinstance(features, Tensor):
        return [features]
    if not isinstance(features, Mapping | list | tuple):
        raise TypeError(
            "encode gives a tensor, or several in a list, tuple or dict; "
            f"it gave a {type(features).__name__}"
        )
    each = features.values() if isinstance(features, Mapping) else features
    return [tensor for own in each for tensor in tensors_of(own)]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Dropout and batch norm at rest; after it each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_model(model: object) -> None:
    """Raise if it is no module with the methods that training needs."""
    wanted = ("encode", "decode", "shared_parameters")
    lacking = [name for name in wanted if not callable(getattr(model, name, None))]
    if lacking or not isinstance(model, nn.Module):
        raise TypeError(
            "a model is a torch.nn.Module with encode(inputs), decode(features, tasks=None) and "
            f"shared_parameters(), as HardSharing has them; {type(model).__name__} lacks "
            f"{lacking or 'nn.Module'}"
        )


def check_data(model: nn.Module, tasks: Sequence[Task], data: Split) -> None:
    """Raise if inputs or targets are none to learn from, or the model's outputs do not fit them."""
    check_model(model)
    tasks = check_tasks(tasks)
    check_inputs(data.inputs)
    check_targets(tasks, data.targets, len(data))
    row_weights(tasks, data.sample_weight)
    part = data.take(slice(2))
    outputs = _trial(model, part)
    for task in tasks:
        if task.name not in outputs:
            raise KeyError(f"the model has no head {task.name!r}; it has {list(outputs)}")
        target_shape(task, outputs[task.name].shape, part.targets[task.name].shape)


def _trial(model: Any, part: Split) -> dict[str, Tensor]:
    """Give the outputs for some rows, and leave no trace."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = map_arrays(lambda array: to_tensor(model, array).to(device), part.inputs)
    with at_rest(model), torch.no_grad(), torch.random.fork_rng():
        try:
            outputs: dict[str, Tensor] = model.decode(model.encode(inputs))
        except RuntimeError as error:
            where = _failing(model, inputs)
            if not where:
                raise
            raise ValueError(f"{where}: {error}") from error
    return outputs


def _failing(model: Any, inputs: Any) -> str:
    """Say in words which layer does not take what it is given; nothing if that is not seen."""
    names = {module: name for name, module in model.named_modules()}
    inside: list[str] = []

    def enter(module: nn.Module, given: Any) -> None:
        shapes = [tuple(each.shape) for each in given if isinstance(each, Tensor)]
        kind, what = type(module).__name__, " and ".join(map(str, shapes))
        inside.append(f"layer {names[module]!r}, a {kind}, does not take what has shape {what}")

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        inside.pop()

    handles = [
        handle
        for module in names
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        model.decode(model.encode(inputs))
    except RuntimeError:
        return inside[-1] if inside else ""
    finally:
        for handle in handles:
            handle.remove()
    return ""


def labelled_rows(task: Task, targets: np.ndarray) -> np.ndarray:
    """Which rows have a label, of tokens or pixels at least one; bool of shape (N,)."""
    there: np.ndarray = labelled(task, targets)
    return np.asarray(there.reshape(len(there), -1).any(axis=1))


def unlabelled(tasks: Sequence[Task], data: Split) -> list[str]:
    """Names of the tasks that have no label at all."""
    return [t.name for t in tasks if not labelled(t, np.asarray(data.targets[t.name])).any()]


def warn_unlabelled(tasks: Sequence[Task], valid: object) -> None:
    """Say which tasks cannot be validated; none in the training data is a stage, and no fault."""
    for name in unlabelled(tasks, valid) if isinstance(valid, Split) else ():
        warnings.warn(
            f"task {name!r} has no label in the validation data: its loss and metrics there are NaN, "
            "and so is the sum of the losses",
            stacklevel=3,
        )


def check_monitor(monitor: str, tasks: Sequence[Task], train: Any, valid: Any) -> None:
    """Raise if the history will have no such key, or NaN there, so that no epoch is the best."""
    keys = {f"{task.name}_loss": [task] for task in tasks}
    if valid is not None:
        keys["val_loss"] = list(tasks)
        for task in tasks:
            names = [m if isinstance(m, str) else m.__name__ for m in task.metrics]
            keys |= {f"val_{task.name}_{name}": [task] for name in ("loss", *names)}
    if monitor not in keys:
        raise KeyError(f"the history will have no {monitor!r} to monitor, only {list(keys)}")
    where = valid if monitor.startswith("val_") else train
    for name in unlabelled(keys[monitor], where) if isinstance(where, Split) else ():
        raise ValueError(
            f"{monitor!r} will be NaN, since task {name!r} has no label there, and no epoch the best: "
            "monitor another key, or train without patience"
        )


def check_single_row(model: Any, train: Split, batch_size: int) -> None:
    """Raise if batch norm cannot be trained on the single row that would be the last batch."""
    norms = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    if not any(isinstance(module, norms) and module.training for module in model.modules()):
        return
    trial = copy.deepcopy(model)  # a single image may have places enough
    device = next(trial.parameters()).device
    inputs = map_arrays(lambda array: to_tensor(trial, array[:1]).to(device), train.inputs)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            trial.decode(trial.encode(inputs))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{len(train)} rows in batches of {batch_size} leave a single row for the last one, in "
            "which batch norm finds no variance; choose another batch_size"
        ) from error


def rows_of_batches(
    sampler: Sampler | None, length: int, batch_size: int, generator: np.random.Generator
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
