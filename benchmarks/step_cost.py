"""What a training step costs: one weight a task, ours, TorchJD's, LibMTL's, and the least it can be.

A step is a forward pass, the gradients and Adam, on a batch of 128 made-up images, with T heads of 10
classes. All methods are given the same rule, the mean of the gradients, so that no solver is timed.

- ``equal``: ``sum(losses).backward()``;
- ``limit``: what nobody can leave out who wants the task gradients on the trunk's parameters from
  autograd: forward, one backward pass through each head, T through the trunk, and Adam. Nothing is
  stacked, multiplied or summed, and no task's gradient is kept while the next is computed;
- ``exact``, ``features``: ours;
- TorchJD: ``mtl_backward`` with ``jac_to_grad``, one vector-Jacobian product at a time or batched, and
  its autogram engine, which computes the Gramian alone and then takes one more backward pass (through
  the heads, too, which it weights). The least time of the three counts, and the least memory; a
  setting that takes twice the time of another in the warm-up is not timed further;
- LibMTL, where it is installed: ``HPS`` and the gradients of ``AbsWeighting``, in the loop of its
  ``Trainer``, which itself runs on a GPU only.

Time: one thread, each way with a network of its own, interleaved repetitions, medians of CPU time; the
ratios count. Memory: the most that a step holds above what it found, in PyTorch's own allocations on
the CPU, as its profiler reports each of them; so parameters, Adam's state and what NumPy or MKL take
are left out. It is the same in every run. ``--plot FILE`` draws the ratios.

LibMTL 1.1.5 is the last in the package index. Install it apart, since it asks for torchvision, and of a
version that had ``torchvision.models.utils``: ``pip install --no-deps --target FOLDER LibMTL``, then
``PYTHONPATH=FOLDER``; its ResNets, which alone need torchvision, are not used here.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells when it starts and stops

import argparse
import copy
import importlib
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import torch
import torchjd.aggregation
import torchjd.autogram
import torchjd.autojac
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import Weighting

BATCH, FEATURES, WARM_UP = 128, 256, 1
ROUNDS, SECONDS = (7, 40), 5.0  # fewest and most of a row, and CPU time after which it ends
Losses = dict[str, Tensor]
Backward = Callable[[Losses, Tensor], object]
Table = dict[str, dict[int, dict[str, float]]]


class Mean(Weighting):
    """The mean of the gradients, by way of the Gramian."""

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give 1 / T to each."""
        return np.full(len(losses), 1 / len(losses))


def mlp() -> nn.Module:
    """784-512-256."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, FEATURES), nn.ReLU()
    )


def cnn() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, FEATURES), nn.ReLU(),
    )  # fmt: skip


class Transformer(nn.Module):
    """The 28 rows of an image as tokens, two layers of width 64, the mean of the tokens."""

    def __init__(self) -> None:
        """Draw the parameters."""
        super().__init__()
        self.embed = nn.Linear(28, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.last = nn.Linear(64, FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        """Give the features, shape (N, 256)."""
        tokens = self.encoder(self.embed(images.squeeze(1)))
        features: Tensor = self.last(tokens.mean(dim=1))
        return features.relu()


TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": mlp,
    "CNN": cnn,
    "transformer": Transformer,
}


def equal(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """One weight a task, one backward pass."""
    return lambda losses, _: torch.autograd.backward(list(losses.values()))


def limit(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """Each head once, the trunk T times; of the trunk's gradients the last one stays."""
    shared = list(trunk.parameters())

    def backward(losses: Losses, features: Tensor) -> None:
        for number, (name, loss) in enumerate(losses.items(), 1):
            own = list(heads[name].parameters())
            cotangent, *gradients = torch.autograd.grad(loss, [features, *own])
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            rows = torch.autograd.grad(
                features, shared, cotangent, retain_graph=number < len(losses)
            )
        for parameter, gradient in zip(shared, rows, strict=True):
            parameter.grad = gradient

    return backward


def exact(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """Ours, on the shared parameters."""
    shared = list(trunk.parameters())
    return lambda losses, features: mtl_backward(losses, features, Mean(), shared)


def at_features(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """Ours, at the features."""
    return lambda losses, features: mtl_backward(losses, features, Mean(), gramian="features")


def torchjd_rows(chunk: int | None) -> Callable[[nn.Module, nn.ModuleDict], Backward]:
    """TorchJD's gradients of the tasks, so many at a time."""
    aggregator = torchjd.aggregation.Mean()

    def way(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
        shared = list(trunk.parameters())

        def backward(losses: Losses, features: Tensor) -> None:
            torchjd.autojac.mtl_backward(
                list(losses.values()), features=features, parallel_chunk_size=chunk
            )
            torchjd.autojac.jac_to_grad(shared, aggregator)

        return backward

    return way


def torchjd_engine(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """TorchJD's Gramian, without the gradients of the tasks."""
    engine = torchjd.autogram.Engine(trunk, batch_dim=None)

    def backward(losses: Losses, _: Tensor) -> None:
        stacked = torch.stack(list(losses.values()))
        gramian = engine.compute_gramian(stacked)
        stacked.backward(torch.full_like(gramian.diagonal(), 1 / len(losses)))

    return backward


def libmtl(trunk: nn.Module, heads: nn.ModuleDict) -> Backward:
    """LibMTL's gradients of the tasks, as its weightings take and put them back."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        stand_in: Any = types.ModuleType(name)
        stand_in.load_state_dict_from_url = None
        sys.modules.setdefault(name, stand_in)
    architecture: Any = importlib.import_module("LibMTL.architecture")
    weighting: Any = importlib.import_module("LibMTL.weighting")

    class Model(architecture.HPS, weighting.AbsWeighting):  # type: ignore[misc]  # of no known type
        def zero_grad_share_params(self) -> None:  # it needs zeros there, as PyTorch 1 left them
            self.encoder.zero_grad(set_to_none=False)

        def backward(self, losses: Tensor) -> None:
            weights = torch.full((len(losses),), 1 / len(losses))
            self._backward_new_grads(weights, grads=self._get_grads(losses))

    model = Model(list(heads), lambda: trunk, heads, False, False, torch.device("cpu"))

    def backward(losses: Losses, _: Tensor) -> None:
        values = torch.zeros(len(losses))  # as its Trainer does
        for number, loss in enumerate(losses.values()):
            values[number] = loss
        model.backward(values)

    return backward


WAYS = {
    "equal": equal,
    "limit": limit,
    "exact": exact,
    "features": at_features,
    "TorchJD, one by one": torchjd_rows(1),
    "TorchJD, batched": torchjd_rows(None),
    "TorchJD, engine": torchjd_engine,
}


def step_of(way: str, trunk: nn.Module, heads: nn.ModuleDict) -> Callable[[], None]:
    """Give a function that takes a step, with copies of the networks."""
    trunk, heads = copy.deepcopy(trunk), copy.deepcopy(heads)
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], fused=True)
    backward = WAYS[way](trunk, heads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, 28, 28, generator=generator)
    labels = {name: torch.randint(10, (BATCH,), generator=generator) for name in heads}

    def step() -> None:
        features = trunk(images)
        losses = {
            task: nn.functional.cross_entropy(head(features), labels[task])
            for task, head in heads.items()
        }
        backward(losses, features)
        optimizer.step()
        optimizer.zero_grad()

    return step


def medians(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of CPU time of each step, interleaved."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    fewest, most = ROUNDS
    begin = time.process_time()
    for done in range(-WARM_UP, most):
        if done >= fewest and time.process_time() - begin > SECONDS:
            break
        if done == 0:
            best = min(times[-1] for way, times in spent.items() if "TorchJD" in way)
        for name, step in steps.items():
            if done >= 0 and "TorchJD" in name and spent[name][WARM_UP - 1] > 2 * best:
                continue
            start = time.process_time()
            step()
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(times[WARM_UP:] or times) for name, times in spent.items()}


def peak(step: Callable[[], None]) -> float:
    """Give the most bytes that PyTorch holds during a step above what it held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), n) for n, e in enumerate(events) if e.name() == "[memory]")
    return float(max(accumulate(events[number].nbytes() for _, number in changes)))


def least(row: dict[str, float]) -> dict[str, float]:
    """Add the best of TorchJD's settings to a row."""
    return row | {"TorchJD": min(value for way, value in row.items() if "TorchJD" in way)}


RATIOS = [("exact", "limit"), ("exact", "TorchJD"), ("features", "equal")]


def head(what: str) -> None:
    """Print the names of the columns."""
    print(f"\n{what}\n{'trunk':11}  T", *WAYS, *map("/".join, RATIOS), sep="  ", flush=True)


def line(trunk: str, tasks: int, row: dict[str, float], unit: float) -> None:
    """Print a row of a table."""
    cells = [f"{unit * row[way]:{len(way)}.1f}" for way in WAYS]
    cells += [f"{row[a] / row[b]:{len(a) + len(b) + 1}.2f}" for a, b in RATIOS]
    print(f"{trunk:11} {tasks:2}", *cells, sep="  ", flush=True)


def plot(times: Table, path: str) -> None:
    """Draw the time of a step against the number of tasks, in steps with equal weights."""
    import matplotlib.pyplot as plt

    from mtl_tutorial.plotting import COLOURS, MARKERS

    lines = [way for way in ("TorchJD", "exact", "features", "LibMTL") if way in times["MLP"][2]]
    figure, axes = plt.subplots(1, len(times), figsize=(10, 3), sharey=True, layout="constrained")
    for ax, (trunk, rows) in zip(axes, times.items(), strict=True):
        for i, way in enumerate(lines):
            ratios = [row[way] / row["equal"] for row in rows.values()]
            ax.plot(list(rows), ratios, color=COLOURS[i], marker=MARKERS[i], label=way)
        ratios = [row["limit"] / row["equal"] for row in rows.values()]
        ax.plot(list(rows), ratios, color="black", linestyle="--", linewidth=1, label="limit")
        ax.axhline(1, color="grey", linewidth=1)
        ax.set(title=trunk, xlabel="tasks", xscale="log", yscale="log")
        ax.set_xticks(list(rows), list(rows))
        ax.set_yticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
        ax.minorticks_off()
    axes[0].set_ylabel("time / equal weights")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path)


def main() -> None:
    """Print milliseconds, megabytes and ratios; draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    if importlib.util.find_spec("LibMTL") is None:
        print("without LibMTL, which is not installed; see --help for how")
    else:
        WAYS["LibMTL"] = libmtl
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times: Table = {name: {} for name in TRUNKS}
    memory: Table = {name: {} for name in TRUNKS}
    head("ms a step")
    for name, make in TRUNKS.items():
        trunk = make()
        for tasks in (2, 4, 8, 16):
            heads = nn.ModuleDict({f"task{k}": nn.Linear(FEATURES, 10) for k in range(tasks)})
            steps = {way: step_of(way, trunk, heads) for way in WAYS}
            times[name][tasks] = least(medians(steps))
            memory[name][tasks] = least({way: peak(step) for way, step in steps.items()})
            line(name, tasks, times[name][tasks], 1e3)
    head("MB held by a step")
    for name, rows in memory.items():
        for tasks, row in rows.items():
            line(name, tasks, row, 1e-6)
    if arguments.plot:
        plot(times, arguments.plot)


if __name__ == "__main__":
    main()
