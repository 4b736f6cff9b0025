"""Many small networks trained as one stack: many seeds and settings for little more than one.

A small network leaves a processor idle: most of a step is the overhead of starting kernels. Stacked
networks share it. Each keeps its own parameters, data, order of batches and weighting, so the
result is that of training them one by one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch._data import check_data, labelled_rows, to_tensor, unlabelled
from mtl_tutorial.pytorch._rows import at_least_float32, own_precision
from mtl_tutorial.pytorch.losses import known_loss
from mtl_tutorial.pytorch.models import HardSharing
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task
from mtl_tutorial.weighting import Static, Weighting


def fit_stacked(
    models: Sequence[HardSharing],
    tasks: Sequence[Task],
    trains: Sequence[Split],
    valid: Split | None = None,
    *,
    weightings: Sequence[Weighting],
    seeds: Sequence[int],
    epochs: int,
    batch_size: int = 64,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    gramian: Literal["parameters", "features"] = "parameters",
) -> list[dict[str, list[float]]]:
    r"""Train S networks of one architecture at once, each on its own data with its own weighting.

    No parameter appears in two networks, so each gets its own gradient. Where all weightings are
    loss-based, that is one backward pass of :math:`\sum_s \sum_k w_{sk} L_{sk}`; where one needs the
    Gramian, it is T passes, which give the task gradients of every network, so put these networks
    into a stack of their own. An optimiser that works entry by entry then takes for network
    :math:`s` the steps that ``fit(models[s], tasks, trains[s], valid, weighting=weightings[s],
    seed=seeds[s], patience=epochs)`` takes, up to rounding. One difference: where a batch of a
    network holds no label of a task, ``fit`` makes no step of that head, while here its gradient is
    0, and Adam's momentum goes on (plain gradient descent has none).

    Parameters
    ----------
    models : sequence of HardSharing, length S
        Equal in architecture, without buffers (batch norm) and random numbers (dropout). Each ends
        with the parameters of its best validation epoch.
    tasks : sequence of Task, length T
    trains : sequence of Split, length S
        Of equal length; the same arrays may appear several times, and are then held once. Missing
        labels are allowed.
    valid : Split, optional
        Shared. The epoch is chosen by the sum of the losses of all tasks, for a ``Static`` network
        of those whose weight is not 0. Without it the last parameters stay.
    weightings : sequence of Weighting, length S
        ``Static([1, 0])`` is single-task learning. A method that remembers needs an object a network.
    seeds : sequence of int, length S
        Of the order of the batches.
    epochs, batch_size : int
        As for :func:`~mtl_tutorial.pytorch.fit`.
    optimizer : callable, optional
        Makes an optimiser of a list of parameters, each of shape (S, ...). It must work entry by
        entry, as SGD, Adagrad and Adam do; a schedule may hang on its ``register_step_post_hook``.
        ``partial(torch.optim.Adam, lr=1e-3, fused=True)`` if not given.
    gramian : {"parameters", "features"}
        Exact or cheap, as for :func:`~mtl_tutorial.pytorch.mtl_backward`.

    Returns
    -------
    list of dict of list of float, length S
        For each network, one number an epoch, as :func:`~mtl_tutorial.pytorch.fit` gives them, but
        losses only: ``"digit_loss"``, …, ``"val_digit_loss"``, …, and ``"val_loss"``, the sum that
        chooses the epoch. NaN where there is no label.

    Raises
    ------
    KeyError, TypeError, ValueError
        Before the first step: the lengths disagree, the networks differ or cannot be stacked, an
        input, a target, a weighting or a number is wrong, or a task that helps to choose the epoch
        has no validation label. When it happens: a loss or gradient that a weighting reads is NaN
        or infinite; the message names the network.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> from mtl_tutorial.weighting import UPGrad
    >>> data, tasks = digits(), [Classification("digit", classes=10), Binary("gt5")]
    >>> models = []
    >>> for seed in (0, 1):
    ...     _ = torch.manual_seed(seed)
    ...     models.append(HardSharing(mlp(784, 16), linear_heads(tasks, features=16)))
    >>> histories = fit_stacked(
    ...     models, tasks, [data.train] * 2, data.valid,
    ...     weightings=[UPGrad(), Static([1, 0])], seeds=[0, 0], epochs=2)
    >>> [len(history["val_loss"]) for history in histories]
    [2, 2]
    """
    _check_networks(models)
    _check_plan(models, trains, weightings, seeds)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1; got {epochs}, {batch_size}")
    splits = [*trains] if valid is None else [*trains, valid]
    for split in {id(split): split for split in splits}.values():
        if split.sample_weight is not None or not isinstance(split.inputs, np.ndarray):
            raise ValueError(
                "a stack takes inputs of one array, and no sample weights; train such networks by fit"
            )
        check_data(models[0], tasks, split)
    counts = _counts(tasks, weightings, valid)
    stack = _Stack(models, tasks, gramian)
    stack.try_out(trains[0].inputs[:2], any(rule.needs_gramian for rule in weightings))
    stepper = _stepper(optimizer, [*stack.shared, *stack.own])
    take = _taker(stack, trains)
    has_label = np.stack([[labelled_rows(t, own.targets[t.name]) for t in tasks] for own in trains])
    whole_valid = None if valid is None else _taker(stack, [valid])(np.arange(len(valid))[None])
    has_valid = [valid is not None and t.name not in unlabelled(tasks, valid) for t in tasks]
    generators = [np.random.default_rng(seed) for seed in seeds]
    histories: list[dict[str, list[float]]] = [{} for _ in models]
    best = np.full(len(models), np.inf)
    kept = {name: value.detach().clone() for name, value in stack.parameters.items()}

    for _ in range(epochs):
        sums = torch.zeros(counts.shape, device=stack.device)
        steps = np.zeros(counts.shape)
        for rows in _stacked_batches(len(trains[0]), batch_size, generators):
            present = has_label[np.arange(len(rows))[:, None], :, rows].max(axis=1)
            x, targets = take(rows)
            features, losses = stack.losses(x, targets)
            stepper.zero_grad()
            _backward(stack, losses, features, weightings, present)
            stepper.step()
            sums += torch.stack(losses, dim=1).detach()  # 0 where there is no label
            steps += present
            if any(rule.needs_observe for rule in weightings):
                _observe(weightings, present, stack.values(x, targets))
        for rule in weightings:
            rule.end_epoch()
        means = np.where(steps > 0, sums.cpu().numpy() / np.maximum(steps, 1), np.nan)
        row = {f"{task.name}_loss": own for task, own in zip(tasks, means.T, strict=True)}
        if whole_valid is not None:
            found = np.where(has_valid, stack.values(*whole_valid), np.nan)
            row |= {f"val_{task.name}_loss": own for task, own in zip(tasks, found.T, strict=True)}
            row["val_loss"] = np.where(counts, found, 0).sum(axis=1)
            better = row["val_loss"] < best
            best = np.where(better, row["val_loss"], best)
            for name, value in stack.parameters.items():
                kept[name][better] = value.detach()[better]
        for s, history in enumerate(histories):
            for key, values in row.items():
                history.setdefault(key, []).append(float(values[s]))
    for s, model in enumerate(models):
        stack.write(model, s, kept if best[s] < np.inf else stack.parameters)
    return histories


class _Parts(nn.Module):
    """A model that gives its features, and the outputs of the tasks that are trained."""

    def __init__(self, model: HardSharing, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.model.encode(inputs)
        return features, self.model.decode(features, self.names)


class _Stack:
    """S networks as one: parameters of shape (S, ...), and a function that calls them all."""

    def __init__(
        self,
        models: Sequence[HardSharing],
        tasks: Sequence[Task],
        gramian: Literal["parameters", "features"],
    ) -> None:
        self.tasks, self.gramian = tasks, gramian
        self.names = [task.name for task in tasks]
        parts = [_Parts(model, self.names) for model in models]
        self.network = copy.deepcopy(parts[0]).train()
        self.parameters, _ = stack_module_state(list[nn.Module](parts))
        self.device = next(iter(self.parameters.values())).device
        trunk = set(models[0].shared_parameters())
        self.shared: list[Tensor] = []
        self.own: list[Tensor] = []
        for name, parameter in parts[0].named_parameters():
            if parameter.requires_grad:
                side = self.shared if parameter in trunk else self.own
                side.append(self.parameters[name])
        self.tied = not trunk.isdisjoint(models[0].heads.parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and outputs of inputs of shape (S, B, ...), or of (1, B, ...) for all networks."""

        def run(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            found: tuple[Tensor, dict[str, Tensor]] = functional_call(self.network, state, (x,))
            return found

        if len(x) == 1:
            return vmap(run, in_dims=(0, None))(self.parameters, x[0])
        return vmap(run)(self.parameters, x)

    def losses(self, x: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features, and the losses of each task, shape (S,)."""
        features, outputs = self.forward(x)
        losses = []
        for task in self.tasks:
            output, target = outputs[task.name], targets[task.name]
            same = target.expand(len(output), *target.shape[1:])
            losses.append(vmap(partial(known_loss, task))(output, same))
        return features, losses

    def values(self, x: Tensor, targets: Mapping[str, Tensor]) -> np.ndarray:
        """Losses as numbers, shape (S, T)."""
        with torch.no_grad():
            found: np.ndarray = (
                torch.stack(self.losses(x, targets)[1], dim=1).double().cpu().numpy()
            )
        return found

    def try_out(self, inputs: np.ndarray, needs_gramian: bool) -> None:
        """Raise if the networks draw random numbers, or have not what a Gramian is made of."""
        x = to_tensor(self.network, inputs)[None].to(self.device)
        try:
            with torch.no_grad():
                features, _ = self.forward(x)
        except RuntimeError as error:
            if "randomness" in str(error):
                raise ValueError(
                    "networks that draw random numbers in training cannot be stacked, as dropout "
                    "does; set it to 0, or train one by one with fit"
                ) from error
            raise ValueError(
                "these networks cannot be called as a stack by torch.func.vmap, which knows no LSTM, "
                f"for example; train one by one with fit: {error}"
            ) from error
        if self.gramian not in ("parameters", "features"):
            raise ValueError(f"gramian is 'parameters' or 'features'; got {self.gramian!r}")
        if needs_gramian and not self.shared:
            raise ValueError(
                "the trunk is frozen: no task gradients meet there, none can be weighted"
            )
        if self.gramian == "features" and (self.tied or not isinstance(features, Tensor)):
            raise ValueError(
                "gramian='features' needs a trunk that gives one tensor, and heads that share no "
                "parameter with it; use gramian='parameters', which is exact"
            )

    def write(self, model: HardSharing, number: int, values: Mapping[str, Tensor]) -> None:
        """Give a model the values of its network."""
        with torch.no_grad():
            for name, parameter in _Parts(model, self.names).named_parameters():
                parameter.copy_(values[name][number])


def _check_networks(models: Sequence[HardSharing]) -> None:
    """Say which network cannot be part of a stack."""
    for s, model in enumerate(models):
        for name, module in model.named_modules():
            if any(True for _ in module.buffers(recurse=False)):
                raise ValueError(
                    "networks with batch norm or other buffers cannot be stacked: "
                    f"{name!r} is a {type(module).__name__}; use LayerNorm or GroupNorm, or train "
                    "one by one with fit"
                )
        if any(model is other for other in models[:s]):
            raise ValueError(f"network {s} is the same object as another one; give each its own")
        if _architecture(model) != _architecture(models[0]):
            raise ValueError(f"network {s} differs from network 0: a stack has one architecture")


def _architecture(model: nn.Module) -> list[object]:
    """List what the networks of a stack have in common."""
    parameters = model.named_parameters()
    return [str(model), *((n, p.shape, p.dtype, p.device, p.requires_grad) for n, p in parameters)]


def _check_plan(
    models: Sequence[HardSharing],
    trains: Sequence[Split],
    weightings: Sequence[Weighting],
    seeds: Sequence[int],
) -> None:
    """Say what does not fit together."""
    if not models or not len(models) == len(trains) == len(seeds) == len(weightings):
        raise ValueError(
            f"there are {len(models)} models, {len(trains)} training sets, {len(seeds)} seeds and "
            f"{len(weightings)} weightings; give one of each a network"
        )
    if len({len(train) for train in trains}) > 1:
        raise ValueError(f"training sets differ in length: {sorted({len(t) for t in trains})}")
    for s, rule in enumerate(weightings):
        if not isinstance(rule, Weighting):
            raise TypeError(f"weightings holds {rule!r} for network {s}, which is no Weighting")
        if rule.remembers and any(rule is other for other in weightings[:s]):
            raise ValueError(
                f"network {s} shares its {type(rule).__name__} with another one, and it remembers "
                "what it sees; give each network its own"
            )


def _counts(
    tasks: Sequence[Task], weightings: Sequence[Weighting], valid: Split | None
) -> np.ndarray:
    """Tell which tasks choose each network's epoch, bool of shape (S, T)."""
    counts = np.ones((len(weightings), len(tasks)), bool)
    for s, rule in enumerate(weightings):
        if isinstance(rule, Static):
            if len(rule.values) != len(tasks):
                raise ValueError(
                    f"network {s}: Static holds {len(rule.values)} weights for {len(tasks)} tasks"
                )
            counts[s] = np.asarray(rule.values) != 0
    nothing = [] if valid is None else unlabelled(tasks, valid)
    for task, used in zip(tasks, counts.max(axis=0).tolist(), strict=True):
        if used and task.name in nothing:
            raise ValueError(
                f"task {task.name!r} has no label in the validation data, so no epoch can be the best"
            )
    return counts


def _stepper(
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None, parameters: list[Tensor]
) -> torch.optim.Optimizer:
    """Make the optimiser of the stack, if it is one that keeps the networks apart."""
    if isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is a finished {type(optimizer).__name__}; give a function that makes one of "
            "the stack's parameters, such as partial(torch.optim.Adam, lr=1e-3)"
        )
    made = (optimizer or partial(torch.optim.Adam, lr=1e-3, fused=True))(parameters)
    for kind in type(made).__mro__:
        if kind.__name__ in ("Adafactor", "LBFGS", "Muon"):
            raise ValueError(
                f"{kind.__name__} mixes the entries of a tensor, and so the networks of a stack; use "
                "one that works entry by entry, such as SGD or Adam"
            )
    return made


def _taker(
    stack: _Stack, splits: Sequence[Split]
) -> Callable[[np.ndarray], tuple[Tensor, dict[str, Tensor]]]:
    """Give a function from rows, shape (S, B), to each network's own inputs and targets."""
    inputs = _pool([own.inputs for own in splits], partial(to_tensor, stack.network), stack.device)
    targets = {
        name: _pool([own.targets[name] for own in splits], torch.from_numpy, stack.device)
        for name in stack.names
    }
    return lambda rows: (inputs(rows), {name: own(rows) for name, own in targets.items()})


def _pool(
    arrays: Sequence[np.ndarray], convert: Callable[[np.ndarray], Tensor], device: torch.device
) -> Callable[[np.ndarray], Tensor]:
    """Hold each array once; give a function from rows, shape (S, B), to each network's own of them."""
    each = {id(array): array for array in arrays}
    place = {key: number for number, key in enumerate(each)}
    start = len(arrays[0]) * np.array([[place[id(array)]] for array in arrays])
    whole = convert(np.concatenate(list(each.values()))).to(device)

    def take(rows: np.ndarray) -> Tensor:
        index = torch.from_numpy((start + rows).ravel()).to(device)
        return whole.index_select(0, index).reshape(*rows.shape, *whole.shape[1:])

    return take


def _stacked_batches(
    length: int, batch_size: int, generators: Sequence[np.random.Generator]
) -> Iterator[np.ndarray]:
    """Yield row numbers, shape (S, batch_size): each network in its own order."""
    for rows in zip(*(batches(length, batch_size, own) for own in generators), strict=True):
        yield np.stack(rows)


def _backward(
    stack: _Stack,
    losses: Sequence[Tensor],
    features: Tensor,
    weightings: Sequence[Weighting],
    present: np.ndarray,
) -> None:
    """Fill ``.grad``, as :func:`~mtl_tutorial.pytorch.mtl_backward` does for one network."""
    values = np.zeros(present.shape)
    if any(rule.needs_losses for rule in weightings):
        values = at_least_float32(torch.stack(list(losses), dim=1).detach()).cpu().numpy()
    ask = partial(_weights, stack.names, weightings, present, values)
    if not any(rule.needs_gramian for rule in weightings):
        w = torch.from_numpy(ask(None)).to(losses[0])
        torch.autograd.backward([loss @ w[:, k] for k, loss in enumerate(losses)])
        return

    ends = stack.shared if stack.gramian == "parameters" else [features]
    passes = [
        torch.autograd.grad(loss.sum(), [*ends, *stack.own], retain_graph=True, allow_unused=True)
        for loss in losses
    ]
    columns = list(zip(*passes, strict=True))
    rows = [_rows(column) for column in columns[: len(ends)]]
    with own_precision(losses):
        products = torch.stack([row @ row.mT for row in rows if row is not None]).sum(dim=0)
        weights = ask(products.cpu().numpy())
        on_trunk_only = [[rule.needs_gramian and not rule.weights_heads] for rule in weightings]
        w = torch.from_numpy(weights).to(products)[:, None]
        on_heads = torch.from_numpy(np.where(on_trunk_only, present, weights)).to(products)
        gradients = [
            None if row is None else (w @ row).reshape(end.shape).to(end.dtype)
            for row, end in zip(rows, ends, strict=True)
        ]
        if stack.gramian == "features":
            gradients = list(
                torch.autograd.grad(features, stack.shared, gradients, allow_unused=True)
            )
        gradients += [_combined(column, on_heads) for column in columns[len(ends) :]]
    for parameter, gradient in zip([*stack.shared, *stack.own], gradients, strict=True):
        if gradient is not None:  # laid out as the parameter is, which fused optimisers rely on
            same = gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)


def _observe(weightings: Sequence[Weighting], present: np.ndarray, losses: np.ndarray) -> None:
    """Show the losses after the step to the weightings that want them, and were asked before it."""
    for rule, here, own in zip(weightings, present, losses, strict=True):
        if rule.needs_observe and here.any():
            rule.observe(own)


def _rows(column: Sequence[Tensor | None]) -> Tensor | None:
    """Stack the tasks' gradients on one tensor, shape (S, T, P); 0 where a task does not read it."""
    some = next((gradient for gradient in column if gradient is not None), None)
    if some is None:
        return None
    full = [torch.zeros_like(some) if gradient is None else gradient for gradient in column]
    return at_least_float32(torch.stack([each.reshape(len(some), -1) for each in full], dim=1))


def _combined(column: Sequence[Tensor | None], weights: Tensor) -> Tensor | None:
    """Sum the tasks' gradients on one tensor, shape (S, ...), with weights of shape (S, T)."""
    terms = [
        weights[:, k].view(-1, *[1] * (gradient.dim() - 1)) * gradient
        for k, gradient in enumerate(column)
        if gradient is not None
    ]
    return reduce(torch.add, terms) if terms else None


def _weights(
    names: Sequence[str],
    weightings: Sequence[Weighting],
    present: np.ndarray,
    losses: np.ndarray,
    gramians: np.ndarray | None,
) -> np.ndarray:
    """Ask each network's weighting, shape (S, T); one that sees no label at all is not asked."""
    w = np.zeros(present.shape)
    for s in np.flatnonzero(present.any(axis=1)).tolist():
        products = None if gramians is None else gramians[s]
        try:
            w[s] = weightings[s](losses[s], products, present[s], names)
        except ValueError as error:
            raise ValueError(f"network {s}: {error}") from error
    return w
