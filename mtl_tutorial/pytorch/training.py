"""A training loop that reads top to bottom, and evaluation in the same terms."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mtl_tutorial.datasets import Split, check_inputs
from mtl_tutorial.metrics import lower_is_better, scores
from mtl_tutorial.pytorch._data import check_data, check_fit, rows_of_batches, to_tensor, unlabelled
from mtl_tutorial.pytorch.backward import mtl_backward
from mtl_tutorial.pytorch.losses import known_losses
from mtl_tutorial.pytorch.models import HardSharing
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Task, labelled
from mtl_tutorial.weighting import Equal, Weighting


def fit(
    model: HardSharing,
    tasks: Sequence[Task],
    train: Split,
    valid: Split,
    *,
    epochs: int,
    batch_size: int = 64,
    optimizer: torch.optim.Optimizer | None = None,
    weighting: Weighting | None = None,
    gramian: Literal["parameters", "features"] = "parameters",
    sampler: Callable[[int, np.random.Generator], Iterable[np.ndarray]] | None = None,
    patience: int | None = None,
    monitor: str = "val_loss",
    seed: int = 0,
    device: str | torch.device | None = None,
) -> dict[str, list[float]]:
    """Train a model on all its tasks, and validate after each epoch.

    Parameters
    ----------
    model : HardSharing
        Trained in place. Build it under ``torch.manual_seed`` if its start should be repeatable.
    tasks : sequence of Task
        A head and a target of its name must exist for each.
    train, valid : Split
        Missing labels are allowed; a task that has none in a batch is absent from that step. Inputs
        of a floating type become that of the model's parameters.
    epochs : int
        Passes over the training data, or calls of ``sampler``.
    batch_size : int
        Rows in a batch; the last one of an epoch may be shorter.
    optimizer : torch.optim.Optimizer, optional
        ``Adam(model.parameters(), lr=1e-3, fused=True)`` if not given: one kernel a step, not eight.
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
    patience : int, optional
        Stop after this many epochs without a better ``monitor``, and put the best epoch's
        parameters back. Without it all epochs run and the last parameters stay.
    monitor : str
        The key of the history that chooses the best epoch, where ``patience`` is given.
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
    KeyError, ValueError
        Before the first step: a head, a target, an input or a number is absent or wrong; the history
        will have no such ``monitor``, or none but NaN; the last batch would be a single row, and
        batch norm refuses it. When it happens: the sampler gives no batch, or rows that are not there.

    Warns
    -----
    UserWarning
        A task has no label in ``valid``; once, before the first step.

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
    check_fit(
        model, tasks, train, valid, epochs=epochs, batch_size=batch_size,
        sampled=sampler is not None, patience=patience, monitor=monitor,
    )  # fmt: skip
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    weighting = weighting or Equal()
    inputs, targets = _to_device(model, train, tasks, device)
    has_label = {task.name: labelled(task, train.targets[task.name]) for task in tasks}
    complete = {name: bool(mask.all()) for name, mask in has_label.items()}

    def forward(rows: np.ndarray) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Features and losses of a batch; None for a task that has no label in it."""
        index = torch.from_numpy(rows).to(device)
        features = model.trunk(inputs.index_select(0, index))
        here = [name for name in targets if complete[name] or has_label[name][rows].any()]
        outputs = {name: model.heads[name](features) for name in here}
        truth = {name: targets[name].index_select(0, index) for name in here}
        return features, known_losses(tasks, outputs, truth)

    generator = np.random.default_rng(seed)
    history: dict[str, list[float]] = {}
    best = _Best(monitor, patience)
    for _ in (progress := tqdm(range(epochs), unit="epoch", disable=None)):
        model.train()
        sums = {task.name: torch.zeros((), device=device) for task in tasks}
        steps = dict.fromkeys(sums, 0)
        for rows in rows_of_batches(sampler, len(train), batch_size, generator):
            features, losses = forward(rows)
            if all(loss is None for loss in losses.values()):
                continue  # no label at all: no step, and nothing to observe
            optimizer.zero_grad()
            mtl_backward(losses, features, weighting, model.trunk.parameters(), gramian)
            optimizer.step()
            for name, loss in losses.items():
                if loss is not None:
                    sums[name] += loss.detach()
                    steps[name] += 1
            if weighting.needs_observe:  # the same batch again, dropout and batch norm at rest
                model.eval()
                with torch.no_grad():
                    after = forward(rows)[1].values()
                model.train()
                weighting.observe([0.0 if loss is None else loss.item() for loss in after])
        weighting.end_epoch()
        row = {name: float(sums[name]) / steps[name] if steps[name] else np.nan for name in sums}
        row = {f"{name}_loss": value for name, value in row.items()}
        row |= {f"val_{key}": value for key, value in _evaluate(model, tasks, valid).items()}
        for key, value in row.items():
            history.setdefault(key, []).append(value)
        progress.set_postfix({key: f"{row[key]:.3f}" for key in row if key.startswith("val")})
        if best.should_stop(row, model):
            break
    best.restore(model)
    return history


class _Best:
    """The best epoch so far, kept in memory where early stopping is asked for."""

    def __init__(self, monitor: str, patience: int | None) -> None:
        self.monitor, self.patience = monitor, patience
        self.value, self.age = np.inf, 0
        self.state: dict[str, Tensor] | None = None

    def should_stop(self, row: Mapping[str, float], model: nn.Module) -> bool:
        if self.patience is None:
            return False
        value = row[self.monitor] * (1 if lower_is_better(self.monitor) else -1)
        if value < self.value:
            self.value, self.age, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.age += 1
        return self.age >= self.patience

    def restore(self, model: nn.Module) -> None:
        if self.state is not None:
            model.load_state_dict(self.state)


def predict(
    model: HardSharing, inputs: np.ndarray, batch_size: int = 4096
) -> dict[str, np.ndarray]:
    """Give the outputs of every head, without gradients and in evaluation mode.

    Parameters
    ----------
    model : HardSharing
    inputs : numpy.ndarray, shape (N, ...)
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
    >>> from mtl_tutorial.pytorch import mlp
    >>> model = HardSharing(mlp(784, 8), {"gt5": nn.Linear(8, 1)})
    >>> predict(model, np.zeros((3, 28, 28), dtype="float32"))["gt5"].shape
    (3, 1)
    """
    return _predict(model, check_inputs(inputs), batch_size)


def _predict(model: HardSharing, inputs: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """As :func:`predict`, of inputs that were checked before."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        for rows in batches(len(inputs), batch_size):
            parts.append(model(to_tensor(model, inputs[rows]).to(device)))
    model.train(was_training)
    outputs = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return {
        name: (output.float() if output.dtype == torch.bfloat16 else output).numpy()
        for name, output in outputs.items()
    }


def evaluate(model: HardSharing, tasks: Sequence[Task], data: Split) -> dict[str, float]:
    """Losses and metrics of every task on a split.

    Parameters
    ----------
    model : HardSharing
    tasks : sequence of Task
    data : Split

    Returns
    -------
    dict of float
        ``"loss"``, the plain sum of the tasks' losses; ``"digit_loss"``, …; and the metrics of
        :func:`mtl_tutorial.metrics.scores`. NaN for a task without any label, and for the sum.

    Raises
    ------
    KeyError, ValueError
        A head, a target or an input is absent or wrong.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.pytorch import mlp
    >>> from mtl_tutorial.tasks import Binary
    >>> model = HardSharing(mlp(784, 8), {"gt5": nn.Linear(8, 1)})
    >>> list(evaluate(model, [Binary("gt5")], digits().valid))
    ['loss', 'gt5_loss', 'gt5_accuracy', 'gt5_f1']
    """
    check_data(model, tasks, data)
    return _evaluate(model, tasks, data)


def _evaluate(model: HardSharing, tasks: Sequence[Task], data: Split) -> dict[str, float]:
    """As :func:`evaluate`, of data that was checked before."""
    outputs = _predict(model, data.inputs, batch_size=4096)
    nothing = unlabelled(tasks, data)
    found = known_losses(
        tasks,
        {name: torch.from_numpy(output) for name, output in outputs.items() if name not in nothing},
        {task.name: torch.from_numpy(data.targets[task.name]) for task in tasks},
    )
    losses = {f"{k}_loss": np.nan if loss is None else loss.item() for k, loss in found.items()}
    return {"loss": sum(losses.values()), **losses, **scores(tasks, outputs, data.targets)}


def _to_device(
    model: nn.Module, data: Split, tasks: Iterable[Task], device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Move the whole split to the device once: its batches are then slices there."""
    targets = {task.name: torch.from_numpy(data.targets[task.name]).to(device) for task in tasks}
    return to_tensor(model, data.inputs).to(device), targets
