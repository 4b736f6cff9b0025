"""Many small networks trained as one stack: many seeds and settings for little more than one.

A small network leaves a processor idle: most of a step is the overhead of starting kernels. Stacked
networks share it. Each keeps its own parameters, data, order of batches and task weights, so the
result is that of training them one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch._data import check_data, to_tensor, unlabelled
from mtl_tutorial.pytorch.losses import known_loss
from mtl_tutorial.pytorch.models import HardSharing
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task


def fit_stacked(
    models: Sequence[HardSharing],
    tasks: Sequence[Task],
    trains: Sequence[Split],
    valid: Split,
    *,
    weights: Sequence[Sequence[float]] | np.ndarray,
    seeds: Sequence[int],
    epochs: int,
    batch_size: int = 64,
    lr: float = 1e-3,
) -> list[dict[str, list[float]]]:
    r"""Train S networks of one architecture at once, each on its own data with its own weights.

    One Adam step goes down :math:`\sum_s \sum_k w_{sk} L_{sk}`. No parameter appears in two
    networks, so each gets its own gradient, and Adam works entry by entry: network :math:`s` takes
    the steps that ``fit(models[s], ..., weighting=Static(weights[s]), seed=seeds[s],
    patience=epochs)`` takes, up to rounding. One difference: where a batch holds no label of a task,
    ``fit`` leaves out that head's step, while here its Adam momentum goes on.

    Parameters
    ----------
    models : sequence of HardSharing, length S
        Equal in architecture. Each ends with the parameters of its best validation epoch.
    tasks : sequence of Task, length T
    trains : sequence of Split, length S
        Of equal length; the same arrays may appear several times. Missing labels are allowed.
    valid : Split
        Shared. The epoch is chosen by the sum of the losses of the tasks whose weight is not 0.
    weights : array, shape (S, T)
        Task weights; a 0 switches a task off, so a row such as ``[1, 0]`` is single-task learning.
    seeds : sequence of int, length S
        Of the order of the batches.
    epochs, batch_size : int
        As for :func:`~mtl_tutorial.pytorch.fit`.
    lr : float
        Adam's learning rate.

    Returns
    -------
    list of dict of list of float, length S
        For each network, one number an epoch: ``"val_digit_loss"``, …, and ``"val_loss"``, their sum
        over the tasks whose weight is not 0. NaN for a task without a validation label.

    Raises
    ------
    KeyError, ValueError
        The lengths disagree, an input, a target or a number is wrong, a task whose weight is not 0
        has no validation label, or the networks have buffers (batch norm); raised before the first
        step.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> data, tasks = digits(), [Classification("digit", classes=10), Binary("gt5")]
    >>> models = []
    >>> for seed in (0, 1):
    ...     _ = torch.manual_seed(seed)
    ...     models.append(HardSharing(mlp(784, 16), linear_heads(tasks, features=16)))
    >>> histories = fit_stacked(
    ...     models, tasks, [data.train] * 2, data.valid, weights=[[1, 1], [1, 0]], seeds=[0, 0], epochs=2)
    >>> [len(history["val_loss"]) for history in histories]
    [2, 2]
    """
    scale = _check(models, tasks, trains, weights, seeds)
    for split in [*trains, valid]:
        check_data(models[0], tasks, split)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1; got {epochs}, {batch_size}")
    nothing = unlabelled(tasks, valid)
    for task, on in zip(tasks, np.abs(scale).sum(axis=0).tolist(), strict=True):
        if on and task.name in nothing:
            raise ValueError(
                f"task {task.name!r} has no label in the validation data, so no epoch can be the best"
            )
    device = next(models[0].parameters()).device
    parameters, _ = stack_module_state(list(models))

    def forward(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = functional_call(models[0], state, (x,))
        return outputs

    own_inputs, same_inputs = vmap(forward), vmap(forward, in_dims=(0, None))
    optimizer = torch.optim.Adam(parameters.values(), lr=lr, fused=True)
    inputs = [to_tensor(models[0], train.inputs).to(device) for train in trains]
    targets = [_tensors(tasks, train, device) for train in trains]
    valid_inputs = to_tensor(models[0], valid.inputs).to(device)
    valid_targets = {
        name: target.expand(len(models), *target.shape)
        for name, target in _tensors(tasks, valid, device).items()
    }
    w = torch.from_numpy(scale).to(device, next(iter(parameters.values())).dtype)
    generators = [np.random.default_rng(seed) for seed in seeds]
    histories: list[dict[str, list[float]]] = [{} for _ in models]
    best = torch.full((len(models),), torch.inf, device=device)
    kept = {name: value.detach().clone() for name, value in parameters.items()}

    for _ in range(epochs):
        for rows in _stacked_batches(len(trains[0]), batch_size, generators, device):
            x = _gather(inputs, rows)
            truth = {t.name: _gather([own[t.name] for own in targets], rows) for t in tasks}
            losses = _losses(tasks, own_inputs(parameters, x), truth)
            optimizer.zero_grad()
            torch.autograd.backward((w * losses).sum())
            optimizer.step()
        with torch.no_grad():
            losses = _losses(tasks, same_inputs(parameters, valid_inputs), valid_targets)
            total = (losses * (w != 0)).sum(dim=1)
            better = total < best
            best = total.where(better, best)
            for name, value in parameters.items():
                kept[name][better] = value[better]
        for history, row, value in zip(histories, losses.tolist(), total.tolist(), strict=True):
            for task, loss in zip(tasks, row, strict=True):
                known = np.nan if task.name in nothing else loss
                history.setdefault(f"val_{task.name}_loss", []).append(known)
            history.setdefault("val_loss", []).append(value)
    for s, model in enumerate(models):
        model.load_state_dict({name: value[s] for name, value in kept.items()})
    return histories


def _check(
    models: Sequence[HardSharing],
    tasks: Sequence[Task],
    trains: Sequence[Split],
    weights: Sequence[Sequence[float]] | np.ndarray,
    seeds: Sequence[int],
) -> np.ndarray:
    """Return the weights as an array, or say what does not fit together."""
    scale = np.asarray(weights, dtype=float)
    if not models or not len(models) == len(trains) == len(seeds) == len(scale):
        raise ValueError(
            f"there are {len(models)} models, {len(trains)} training sets, {len(seeds)} seeds and "
            f"{len(scale)} rows of weights; give one of each a network"
        )
    if scale.shape != (len(models), len(tasks)) or not np.isfinite(scale).all():
        raise ValueError(f"weights need shape {(len(models), len(tasks))} and finite numbers")
    if len({len(train) for train in trains}) > 1:
        raise ValueError(f"training sets differ in length: {sorted({len(t) for t in trains})}")
    if any(list(model.buffers()) for model in models):
        raise ValueError("networks with buffers, such as batch norm, cannot be stacked")
    return scale


def _tensors(tasks: Sequence[Task], data: Split, device: torch.device) -> Mapping[str, Tensor]:
    return {task.name: torch.from_numpy(data.targets[task.name]).to(device) for task in tasks}


def _stacked_batches(
    length: int, batch_size: int, generators: Sequence[np.random.Generator], device: torch.device
) -> Iterator[Tensor]:
    """Yield row numbers, shape (S, batch_size): each network in its own order."""
    for rows in zip(*(batches(length, batch_size, own) for own in generators), strict=True):
        yield torch.from_numpy(np.stack(rows)).to(device)


def _gather(arrays: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Take each network's rows from its own array."""
    return torch.stack(
        [own.index_select(0, index) for own, index in zip(arrays, rows, strict=True)]
    )


def _losses(
    tasks: Sequence[Task], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Tensor:
    """Losses of every network and task, shape (S, T)."""
    columns = [
        vmap(partial(known_loss, task))(outputs[task.name], targets[task.name]) for task in tasks
    ]
    return torch.stack(columns, dim=1)
