"""Training with ``fit``, against a loop written by hand that takes the same steps.

The loop has what no training can do without: batches, the two losses, one backward pass of their
sum, an Adam step, the running means of the losses, and the evaluation at the end of the epoch. What
``fit`` adds is the weighting, the handling of missing labels, the checks and the history. The model
of the MNIST chapter: an MLP 784-512-256 with heads of 10 and 1, batches of 64, from a ``Split`` and
from a ``DataLoader``. Both end with the same parameters, or the script stops. One thread, interleaved
repetitions in changing order, the median of the ratios of CPU time and its quartiles. Goal: 1.03 at
most.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, evaluate, fit, linear_heads, mlp, task_loss
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Binary, Classification

DIGIT, GT5 = TASKS = [Classification("digit", classes=10), Binary("gt5")]
ROWS, BATCH_SIZE, EPOCHS, REPETITIONS = 3_200, 64, 2, 21


def made_up(rows: int) -> Split:
    """Make images and labels of MNIST's form."""
    generator = np.random.default_rng(0)
    digit = generator.integers(0, 10, rows)
    images = generator.random((rows, 28, 28), dtype=np.float32)
    return Split(images, {"digit": digit, "gt5": (digit > 5).astype(np.int64)})


class Indexed:
    """The batches of a split, as one would make them by hand; gone through once an epoch."""

    def __init__(self, train: Split) -> None:
        """Keep tensors of the arrays."""
        self.generator = np.random.default_rng(0)
        self.images = torch.from_numpy(train.inputs)
        self.targets = {name: torch.from_numpy(own) for name, own in train.targets.items()}

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Give a new order each time."""
        for rows in batches(len(self.images), BATCH_SIZE, self.generator):
            index = torch.from_numpy(rows)
            yield self.images[index], {name: own[index] for name, own in self.targets.items()}


def loader(train: Split) -> Callable[[], DataLoader[Any]]:
    """Make loaders of the same rows, in the same order each time."""
    targets = [
        dict(zip(train.targets, row, strict=True))
        for row in zip(*train.targets.values(), strict=True)
    ]
    rows: Any = list(zip(train.inputs, targets, strict=True))
    return lambda: DataLoader(
        rows, BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(0)
    )


def by_hand(model: HardSharing, train: Iterable[Any], valid: Split) -> None:
    """Train as one would write it for these two tasks."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(EPOCHS):
        model.train()
        sums = [torch.zeros(()), torch.zeros(())]
        for images, targets in train:
            outputs = model(images)
            losses = (
                task_loss(DIGIT, outputs["digit"], targets["digit"]),
                task_loss(GT5, outputs["gt5"], targets["gt5"]),
            )
            optimizer.zero_grad()
            torch.autograd.backward(losses[0] + losses[1])
            optimizer.step()
            for number, loss in enumerate(losses):
                sums[number] += loss.detach()
        evaluate(model, TASKS, valid)


def by_fit(model: HardSharing, train: Split | Iterable[Any], valid: Split) -> None:
    """Take the same steps with the library."""
    fit(model, TASKS, train, valid, epochs=EPOCHS, batch_size=BATCH_SIZE, device="cpu")


def compare(
    what: str, hand: Callable[[HardSharing], None], ours: Callable[[HardSharing], None]
) -> None:
    """Interleave the two, print the median ratio."""
    ways = {"by hand": hand, "fit": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(REPETITIONS + 1):
        models = []
        for name in [*ways] if repetition % 2 else [*ways][::-1]:
            torch.manual_seed(0)
            model = HardSharing(mlp(784, 512, 256), linear_heads(TASKS, features=256))
            start = time.process_time()
            ways[name](model)
            if repetition:  # the first one warms up
                times[name].append(time.process_time() - start)
            models.append(model)
        one, other = (model.state_dict().values() for model in models)
        if not all(map(torch.equal, one, other)):
            raise RuntimeError("fit and the loop by hand took different steps")
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios)
    steps = EPOCHS * ROWS / BATCH_SIZE
    each = [
        f"{name} {1e3 * statistics.median(t) / steps:.3f} ms a step" for name, t in times.items()
    ]
    print(f"{what}: {', '.join(each)}, ratio {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    """Print a line for a split and one for a loader."""
    torch.set_num_threads(1)
    train, valid = made_up(ROWS), made_up(640)
    compare(
        "Split",
        lambda model: by_hand(model, Indexed(train), valid),
        lambda model: by_fit(model, train, valid),
    )
    anew = loader(train)
    compare(
        "DataLoader",
        lambda model: by_hand(model, anew(), valid),
        lambda model: by_fit(model, anew(), valid),
    )


if __name__ == "__main__":
    main()
