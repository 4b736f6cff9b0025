"""What a training step costs: one weight a task, ours exact, ours at the features, TorchJD's.

A step is a forward pass, the gradients and Adam, on a batch of 128 made-up images, with T heads of 10
classes. ``equal`` is ``sum(losses).backward()``. The methods are given the same rule, the mean of the
gradients, so that no solver is timed; TorchJD's ``mtl_backward`` and ``jac_to_grad`` are taken in the
fastest of their settings (one vector-Jacobian product at a time, or batched). One thread, interleaved
repetitions, medians of CPU time; the ratios count. ``--plot FILE`` draws them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
import torchjd.aggregation
import torchjd.autojac
from torch import Tensor, nn

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import Weighting

REPETITIONS, WARM_UP, BATCH = 30, 3, 128
Step = Callable[[dict[str, Tensor], Tensor], object]


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
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()
    )


def cnn() -> nn.Module:
    """Two convolutions and a linear layer, 256 features."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 256), nn.ReLU(),
    )  # fmt: skip


def ways(shared: list[nn.Parameter]) -> dict[str, Step]:
    """Every way to turn losses into gradients."""

    def torchjds(chunk: int | None) -> Step:
        aggregator = torchjd.aggregation.Mean()

        def step(losses: dict[str, Tensor], features: Tensor) -> None:
            torchjd.autojac.mtl_backward(
                list(losses.values()), features=features, parallel_chunk_size=chunk
            )
            torchjd.autojac.jac_to_grad(shared, aggregator)

        return step

    return {
        "equal": lambda losses, _: torch.autograd.backward(list(losses.values())),
        "exact": lambda losses, features: mtl_backward(losses, features, Mean(), shared),
        "features": lambda losses, features: mtl_backward(
            losses, features, Mean(), gramian="features"
        ),
        "TorchJD, one by one": torchjds(1),
        "TorchJD, batched": torchjds(None),
    }


def medians(trunk: nn.Module, tasks: int) -> dict[str, float]:
    """Seconds of a step for each way, interleaved."""
    heads = nn.ModuleDict({f"task{k}": nn.Linear(256, 10) for k in range(tasks)})
    x = torch.randn(BATCH, 1, 28, 28)
    labels = {name: torch.randint(10, (BATCH,)) for name in heads}
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], fused=True)
    spent: dict[str, list[float]] = {}
    for _ in range(WARM_UP + REPETITIONS):
        for name, step in ways(list(trunk.parameters())).items():
            start = time.process_time()
            optimizer.zero_grad()
            features = trunk(x)
            losses = {
                task: nn.functional.cross_entropy(head(features), labels[task])
                for task, head in heads.items()
            }
            step(losses, features)
            optimizer.step()
            spent.setdefault(name, []).append(time.process_time() - start)
    return {name: statistics.median(times[WARM_UP:]) for name, times in spent.items()}


def plot(table: dict[str, dict[int, dict[str, float]]], path: str) -> None:
    """Draw the cost of a step against the number of tasks, in steps with equal weights."""
    import matplotlib.pyplot as plt

    from mtl_tutorial.plotting import COLOURS, MARKERS

    figure, axes = plt.subplots(1, len(table), figsize=(8, 3), sharey=True, layout="constrained")
    for ax, (trunk, rows) in zip(axes, table.items(), strict=True):
        for i, way in enumerate(("TorchJD", "exact", "features")):
            ratios = [row[way] / row["equal"] for row in rows.values()]
            ax.plot(list(rows), ratios, color=COLOURS[i], marker=MARKERS[i], label=way)
        ax.axhline(1, color="grey", linewidth=1)
        ax.set(title=trunk, xlabel="tasks", xscale="log", yscale="log")
        ax.set_xticks(list(rows), list(rows))
        ax.set_yticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
        ax.minorticks_off()
    axes[0].set_ylabel("time / equal weights")
    axes[0].legend()
    figure.savefig(path)


def main() -> None:
    """Print milliseconds and ratios; draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table: dict[str, dict[int, dict[str, float]]] = {"MLP": {}, "CNN": {}}
    print("trunk  T   equal  exact  features  TorchJD   exact/TorchJD  features/equal")
    for name, make in (("MLP", mlp), ("CNN", cnn)):
        for tasks in (2, 4, 8, 16):
            row = medians(make(), tasks)
            row["TorchJD"] = min(value for way, value in row.items() if "TorchJD" in way)
            table[name][tasks] = row
            numbers = [1000 * row[way] for way in ("equal", "exact", "features", "TorchJD")]
            print(f"{name:5} {tasks:2}  " + "  ".join(f"{value:6.1f}" for value in numbers), end="")
            print(
                f"    {row['exact'] / row['TorchJD']:13.2f}  {row['features'] / row['equal']:14.2f}"
            )
    if arguments.plot:
        plot(table, arguments.plot)


if __name__ == "__main__":
    main()
