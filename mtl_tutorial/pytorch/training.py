"""A training loop that reads top to bottom, and evaluation in the same terms."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from mtl_tutorial.datasets import Split, check_inputs, leaves, map_arrays
from mtl_tutorial.metrics import lower_is_better, scores
from mtl_tutorial.pytorch import _checkpoint
from mtl_tutorial.pytorch._data import (
    Loader,
    Sampler,
    as_array,
    at_rest,
    batches_of,
    check_data,
    check_model,
    check_monitor,
    check_single_row,
    loaded,
    to_tensor,
    warn_unlabelled,
)
from mtl_tutorial.pytorch._step import Step
from mtl_tutorial.pytorch.distributed import same_start, world_size
from mtl_tutorial.pytorch.losses import known_losses, label_counts, row_weights
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task, check_tasks
from mtl_tutorial.weighting import Equal, Recorded, Weighting
from mtl_tutorial.weighting.recorded import bare

Plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
Schedule = torch.optim.lr_scheduler.LRScheduler


def fit(
    model: nn.Module,
    tasks: Sequence[Task],
    train: Split | Loader,
    valid: Split | Loader | None = None,
    *,
    epochs: int,
    batch_size: int = 64,
    optimizer: torch.optim.Optimizer | None = None,
    weighting: Weighting | None = None,
    gramian: Literal["parameters", "features"] = "parameters",
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    schedule_every: Literal["epoch", "step"] = "epoch",
    clip_norm: float | None = None,
    accumulate: int = 1,
    amp: torch.dtype | None = None,
    callbacks: Sequence[Callable[[int, dict[str, float]], object]] = (),
    record: list[dict[str, np.ndarray]] | None = None,
    patience: int | None = None,
    monitor: str = "val_loss",
    checkpoint: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> dict[str, list[float]]:
    """Train a model on all its tasks, and validate after each epoch.

    Parameters
    ----------
    model : torch.nn.Module
        With ``encode``, ``decode`` and ``shared_parameters``, as
        :class:`~mtl_tutorial.pytorch.HardSharing` has them. Trained in place; modules that were put
        in ``eval()`` stay so (frozen batch norm), unless the whole model was. Build it under
        ``torch.manual_seed`` if its start should be repeatable.
    tasks : sequence of Task
        The model must have an output, and the data a target, of the name of each.
    train, valid : Split, or anything that yields batches
        Arrays, which move to the device as a whole: the fast way. Or a ``DataLoader``, a
        ``tf.data.Dataset``, a list, a function that makes a generator: what is gone through once an
        epoch and yields ``(inputs, targets)`` or ``(inputs, targets, sample_weight)``, targets being
        a dict by task name. Missing labels are allowed; a task that has none in a batch is absent
        from that step, and its head does not run. Floats become those of the model's parameters.
        Without ``valid`` nothing is validated.
    epochs : int
        Passes over the training data, or calls of ``sampler``.
    batch_size : int
        Rows in a step, of a split; the last one of an epoch may be shorter. A loader has its own.
    optimizer : torch.optim.Optimizer, optional
        That of the schedule, or ``Adam(model.parameters(), lr=1e-3, fused=True)``, if not given: one
        kernel a step, not eight.
    weighting : Weighting, optional
        :class:`~mtl_tutorial.weighting.Equal` if not given.
    gramian : {"parameters", "features"}
        Exact or cheap, for a weighting that needs the Gramian; see
        :func:`~mtl_tutorial.pytorch.mtl_backward`.
    sampler : callable, optional
        Called with ``batch_size`` and a generator at the start of each epoch, gives the rows of its
        batches; all rows once in a random order if not given. For several data sets, put together by
        :func:`~mtl_tutorial.datasets.concatenate`, one of :mod:`mtl_tutorial.sampling`, told their
        lengths: ``functools.partial(temperature_sampling, [10_000, 500], temperature=2)``.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        Of the same optimizer; ``ReduceLROnPlateau`` reads ``monitor``.
    schedule_every : {"epoch", "step"}
        When the schedule goes on.
    clip_norm : float, optional
        The largest norm of the gradient of all parameters; a longer one is shortened to it.
    accumulate : int
        In how many parts a batch goes through the model, one after the other, where it is too large
        for memory: the step is the same, up to rounding, but for batch norm and dropout. See
        :func:`~mtl_tutorial.pytorch.accumulated_backward` for what this keeps in memory.
    amp : torch.dtype, optional
        ``torch.bfloat16``, or ``torch.float16`` on a GPU, for mixed precision: the model runs under
        ``torch.autocast``, losses are taken in float32, and for float16 a scaler keeps small
        gradients.
    callbacks : sequence of callable
        Each is called after an epoch with its number, from 1, and its row of the history: to log it,
        to add to it, to freeze a layer, to raise.
    record : list, optional
        Weights, losses and Gramian of each step are appended, as
        :class:`~mtl_tutorial.weighting.Recorded` keeps them;
        :func:`mtl_tutorial.plotting.gradients_over_time` draws them.
    patience : int, optional
        Stop after this many epochs without a better ``monitor``, and put the best epoch's
        parameters back. Without it all epochs run and the last parameters stay.
    monitor : str
        The key of the history that chooses the best epoch.
    checkpoint : str or path, optional
        A folder. After each epoch ``latest.safetensors`` there is replaced, whole or not at all, and
        ``best.safetensors`` if it was the best by ``monitor``. If the folder has one, training goes
        on from it: on a CPU, with as many threads, bit for bit as if it had not been interrupted.
        All that this function was given is saved, the states of random generators included: its own,
        a loader's and its sampler's, Python's, NumPy's and PyTorch's. Not saved is what it cannot
        see: a data set with a state of its own, workers that persist, closures of callbacks.
        ``epochs`` may be raised later; everything else must be as it was.
    seed : int
        Of the order of the batches.
    device : str or torch.device, optional
        A GPU if there is one, else the CPU.

    Returns
    -------
    dict of list of float
        One number an epoch, under the names Keras uses: ``"digit_loss"`` (mean over the batches
        that had a label), ``"val_digit_loss"``, ``"val_digit_accuracy"``, …, and ``"val_loss"``,
        the plain sum of the tasks' validation losses. NaN where there is no label, for the sum, too.
        :func:`mtl_tutorial.plotting.learning_curves` draws it.

    Raises
    ------
    KeyError, TypeError, ValueError
        Before the first step: a method, an output, a target, an input or a number is absent or
        wrong; the history will have no such ``monitor``, or none but NaN; the last batch would be a
        single row, and batch norm refuses it; a checkpoint is not whole, or of a training with other
        arguments, which are listed. When it happens: a sampler or loader gives no batch, or something
        else.

    Warns
    -----
    UserWarning
        A task has no label in ``valid``; once, before the first step.

    Notes
    -----
    Under ``torchrun``, after ``torch.distributed.init_process_group``, each process calls this with
    the same arguments, takes its share of the rows of each batch of a split, and all take the step of
    the whole batch, as :func:`~mtl_tutorial.pytorch.mtl_backward` says; but batch norm reads its own
    rows. A loader of ``train`` gives each process rows of its own (a ``DistributedSampler``), as many
    batches to each; ``valid`` must be the same for all. The first process writes the checkpoint; the
    states of random generators in it are its own.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> data, tasks = digits(), [Classification("digit", classes=10), Binary("gt5")]
    >>> _ = torch.manual_seed(0)
    >>> model = HardSharing(mlp(784, 32), linear_heads(tasks, features=32))
    >>> history = fit(model, tasks, data.train, data.valid, epochs=3)
    >>> len(history["val_digit_accuracy"]), history["val_digit_accuracy"][-1] > 0.8
    (3, True)
    """
    tasks, weighting = check_tasks(tasks), weighting or Equal()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_model(model)
    model.to(device)
    optimizer = optimizer or getattr(schedule, "optimizer", None)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler(device.type) if amp == torch.float16 else None
    each_step, each_epoch = (schedule if schedule_every == e else None for e in ("step", "epoch"))
    step = Step(
        model, tasks, optimizer, weighting, gramian, clip_norm, accumulate, amp, scaler, each_step
    )
    _check_step(step, device)
    if record is not None:
        step.weighting = Recorded(weighting, record)
    _check_numbers(epochs=epochs, batch_size=batch_size, patience=patience, accumulate=accumulate)
    _check_schedule(schedule, schedule_every, optimizer)
    if not model.training:
        model.train()
    _check_data(step, train, valid, batch_size, sampler)
    if patience is not None or isinstance(schedule, Plateau):
        check_monitor(monitor, tasks, train, valid)
    warn_unlabelled(tasks, valid)

    generator = np.random.default_rng(seed)
    epoch_of_batches = batches_of(
        model, tasks, train, device, sampler=sampler, batch_size=batch_size, generator=generator
    )
    run = _checkpoint.Run(
        checkpoint,
        {"model": model, "optimizer": optimizer, "weighting": weighting}
        | {"schedule": schedule, "scaler": scaler},
        _generators(generator, train, valid),
        {"batch_size": batch_size, "patience": patience, "monitor": monitor, "seed": seed}
        | {"schedule_every": schedule_every, **_settings(step, train, schedule)},
    )
    history, best = run.resumed(partial(_best_epoch, monitor))
    quiet = True if world_size() > 1 and dist.get_rank() > 0 else None  # None: if nobody watches
    same_start(model)
    done = len(next(iter(history.values()), ()))

    for epoch in (
        progress := tqdm(range(done + 1, epochs + 1), None, epochs, disable=quiet, initial=done)
    ):
        if patience is not None and epoch - 1 - _best_epoch(monitor, history) >= patience:
            break
        seen: dict[str, list[float | Tensor]] = {f"{task.name}_loss": [] for task in tasks}
        for batch in epoch_of_batches():
            for name, loss in step(batch).items():
                seen[f"{name}_loss"].append(loss)
        weighting.end_epoch()

        row = {key: _mean(losses) for key, losses in seen.items()}
        if valid is not None:
            found = _evaluate(model, tasks, valid, 8 * batch_size)
            row |= {f"val_{key}": value for key, value in found.items()}
        _next_rate(each_epoch, row, monitor)
        for callback in callbacks:
            callback(epoch, row)
        for key, value in row.items():
            history.setdefault(key, []).append(value)
        progress.set_postfix({key: f"{row[key]:.3f}" for key in row if key.startswith("val")})

        is_best = epoch == _best_epoch(monitor, history)
        if is_best and patience is not None:
            best = copy.deepcopy(model.state_dict())
        run.save(history, is_best)
    if patience is not None and best:
        model.load_state_dict(best)
    return history


def _mean(losses: Sequence[float | Tensor]) -> float:
    """Mean over the batches that had a label, in one transfer; NaN if none had."""
    values = [torch.as_tensor(loss) for loss in losses]
    return float(torch.stack(values).sum()) / len(values) if values else np.nan


def _next_rate(schedule: Any, row: Mapping[str, float], monitor: str) -> None:
    """Let a schedule go on at the end of an epoch."""
    if isinstance(schedule, Plateau):
        schedule.step(row[monitor])
    elif schedule is not None:
        schedule.step()


def _best_epoch(monitor: str, history: Mapping[str, Sequence[float]]) -> int:
    """Give the number of the first epoch that none is better than, from 1; 0 if there is none."""
    sign = 1 if lower_is_better(monitor) else -1
    best, place = np.inf, 0
    for epoch, value in enumerate(history.get(monitor, ()), 1):
        if sign * value < best:
            best, place = sign * value, epoch
    return place


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}")


def _check_step(step: Step, device: torch.device) -> None:
    """Say what is wrong with how a step is to be taken."""
    if not isinstance(step.weighting, Weighting):
        raise TypeError(f"weighting is an object such as UPGrad(); got {step.weighting!r}")
    shared = step.model.shared_parameters() if step.weighting.needs_gramian else ()
    if step.weighting.needs_gramian and not any(each.requires_grad for each in shared):
        raise ValueError(
            f"{type(step.model).__name__} shares no parameter that is trained (a trunk may be frozen): "
            f"no task gradients meet there, {type(step.weighting).__name__} has none to weight; use a "
            "loss-based weighting, such as Static or UW"
        )
    if step.accumulate > 1 and step.weighting.needs_gramian and step.gramian == "features":
        raise ValueError(
            "gramian='features' cannot be accumulated: the weights come after the last part, when "
            "the graphs of all others are gone; use gramian='parameters'"
        )
    if step.clip_norm is not None and not step.clip_norm > 0:
        raise ValueError(f"clip_norm is a length above 0; got {step.clip_norm!r}")
    if step.amp not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"amp is torch.bfloat16 or torch.float16; got {step.amp!r}")
    if step.amp == torch.float16 and device.type == "cpu":
        raise ValueError("torch.float16 needs a GPU; on a CPU use amp=torch.bfloat16")


def _check_schedule(
    schedule: Schedule | None, every: str, optimizer: torch.optim.Optimizer
) -> None:
    """Say what is wrong with a schedule."""
    if every not in ("epoch", "step"):
        raise ValueError(f"schedule_every is 'epoch' or 'step'; got {every!r}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError(
            "the schedule is of another optimizer; build it with the one that fit is given"
        )
    if isinstance(schedule, Plateau) and every == "step":
        raise ValueError("ReduceLROnPlateau reads what an epoch ends with: schedule_every='epoch'")


def _check_data(
    step: Step,
    train: Split | Loader,
    valid: Split | Loader | None,
    batch_size: int,
    sampler: Sampler | None,
) -> None:
    """Say what is wrong with the data, or does not fit the model; loaders are looked at later."""
    for data in (train, valid):
        if isinstance(data, Split):
            check_data(step.model, step.tasks, data)
        elif isinstance(data, Iterator):
            raise TypeError(
                "an iterator can be gone through only once, and each epoch wants to; give the "
                "function that makes it, or a DataLoader, a tf.data.Dataset, a list"
            )
        elif data is not None and not callable(data) and not isinstance(data, Iterable):
            raise TypeError(f"data is a Split, or yields batches; got a {type(data).__name__}")
    if not isinstance(train, Split):
        if sampler is not None:
            raise ValueError("a loader chooses its rows by itself; a sampler is for a Split")
    elif batch_size % step.accumulate:
        parts = step.accumulate
        raise ValueError(f"a batch of {batch_size} rows cannot be cut into {parts} equal parts")
    elif sampler is None and (len(train) % batch_size == 1 or batch_size == step.accumulate):
        check_single_row(step.model, train, batch_size)


def _settings(step: Step, train: Split | Loader, schedule: Schedule | None) -> dict[str, Any]:
    """Give what must be the same where a training goes on, as plain data."""
    started = {} if schedule is None else schedule.state_dict()
    optimizer = step.optimizer
    return {
        "tasks": [repr(task) for task in step.tasks],
        "rows of train": len(train) if isinstance(train, Split) else None,
        "weighting": repr(bare(step.weighting)),
        "gramian": step.gramian,
        "clip_norm": step.clip_norm,
        "accumulate": step.accumulate,
        "amp": str(step.amp),
        "optimizer": type(optimizer).__name__,
        **{f"optimizer's {name}": repr(value) for name, value in optimizer.defaults.items()},
        "schedule": type(schedule).__name__,
        **{f"schedule's {name}": repr(value) for name, value in started.items()},
        **{
            f"parameter {name}": f"{value.dtype} {tuple(value.shape)}"
            for name, value in step.model.state_dict().items()
            if isinstance(value, Tensor)
        },
    }


def _generators(
    own: np.random.Generator, *loaders: object
) -> dict[str, torch.Generator | np.random.Generator]:
    """Give the generators that draw in a training, by name."""
    found: dict[str, torch.Generator | np.random.Generator] = {"fit": own}
    for name, loader in zip(("train", "valid"), loaders, strict=True):
        for what, thing in (("loader", loader), ("sampler", getattr(loader, "sampler", None))):
            generator = getattr(thing, "generator", None)
            if isinstance(generator, torch.Generator):
                found[f"{name} {what}"] = generator
    return found


def predict(model: nn.Module, inputs: Any, batch_size: int = 4096) -> dict[str, np.ndarray]:
    """Give the outputs of every head, without gradients and in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        With ``encode`` and ``decode``, such as :class:`~mtl_tutorial.pytorch.HardSharing`.
    inputs : numpy.ndarray, shape (N, ...), or a dict or tuple of such
    batch_size : int
        Rows at a time; only memory depends on it.

    Returns
    -------
    dict of numpy.ndarray, shape (N, task.outputs), by task name
        As ``keras.Model.predict`` gives them; float32 for a model in bfloat16, which NumPy lacks.

    Raises
    ------
    ValueError
        There is no row, or an input is no finite number.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import HardSharing, mlp
    >>> model = HardSharing(mlp(784, 8), {"gt5": nn.Linear(8, 1)})
    >>> predict(model, np.zeros((3, 28, 28), dtype="float32"))["gt5"].shape
    (3, 1)
    """
    return _predict(model, check_inputs(inputs), batch_size)


def _predict(model: nn.Module, inputs: Any, batch_size: int) -> dict[str, np.ndarray]:
    """As :func:`predict`, of inputs that were checked before."""
    device = next(model.parameters()).device
    count = len(next(iter(leaves(inputs).values())))
    parts = (
        map_arrays(lambda array: to_tensor(model, array[rows]).to(device), inputs)  # noqa: B023  # used at once
        for rows in batches(count, batch_size)
    )
    return _joined(_outputs(model, part) for part in parts)


def _outputs(model: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Give the outputs for one batch that lies on the device."""
    with at_rest(model), torch.inference_mode():
        outputs = model.decode(model.encode(inputs))
        return {name: as_array(output) for name, output in outputs.items()}


def _joined(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put arrays by name under each other."""
    kept = list(parts)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}


def evaluate(
    model: nn.Module, tasks: Sequence[Task], data: Split | Loader, batch_size: int = 4096
) -> dict[str, float]:
    """Losses and metrics of every task on a split, or on what a loader yields.

    Parameters
    ----------
    model : torch.nn.Module
        With ``encode`` and ``decode``, such as :class:`~mtl_tutorial.pytorch.HardSharing`.
    tasks : sequence of Task
    data : Split, or anything that yields batches
        See :func:`fit`. All outputs are kept until the end, as some metrics need them together.
        Sample weights count in the losses, not in the metrics.
    batch_size : int
        Rows of a split at a time; only memory depends on it.

    Returns
    -------
    dict of float
        ``"loss"``, the plain sum of the tasks' losses; ``"digit_loss"``, …; and the metrics of
        :func:`mtl_tutorial.metrics.scores`. NaN for a task without any label, and for the sum.

    Raises
    ------
    KeyError, TypeError, ValueError
        An output, a target or an input is absent or wrong.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.pytorch import HardSharing, mlp
    >>> from mtl_tutorial.tasks import Binary
    >>> model = HardSharing(mlp(784, 8), {"gt5": nn.Linear(8, 1)})
    >>> list(evaluate(model, [Binary("gt5")], digits().valid))
    ['loss', 'gt5_loss', 'gt5_accuracy', 'gt5_f1']
    """
    check_model(model)
    if isinstance(data, Split):
        check_data(model, tasks, data)
    return _evaluate(model, check_tasks(tasks), data, batch_size)


def _evaluate(
    model: nn.Module, tasks: Sequence[Task], data: Split | Loader, batch_size: int
) -> dict[str, float]:
    """As :func:`evaluate`, of a split that was checked before."""
    weights: Any
    if isinstance(data, Split):
        outputs, targets = _predict(model, data.inputs, batch_size), data.targets
        weights = data.sample_weight
    else:
        device = next(model.parameters()).device
        seen = []
        for batch in loaded(model, tasks, data, device):
            truth = {name: as_array(target) for name, target in batch.targets.items()}
            own = {
                name: np.ones(len(batch)) if weight is None else as_array(weight)
                for name, weight in batch.weights.items()
            }
            seen.append((_outputs(model, batch.inputs), truth, own))
        outputs, targets, weights = map(_joined, zip(*seen, strict=True))
    known = {task.name: torch.from_numpy(np.asarray(targets[task.name])) for task in tasks}
    counts = label_counts(tasks, known, weights)
    there = {
        name: torch.from_numpy(output)
        for name, output in outputs.items()
        if name in counts and counts[name] > 0
    }
    losses = {
        f"{name}_loss": np.nan if loss is None else loss.item()
        for name, loss in known_losses(tasks, there, known, row_weights(tasks, weights)).items()
    }
    return {"loss": sum(losses.values()), **losses, **scores(tasks, outputs, targets)}
