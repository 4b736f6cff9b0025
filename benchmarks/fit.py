"""Training with ``fit``, against a loop written by hand that takes the same steps.

The loop has what no training can do without: batches, the two losses, one backward pass of their
sum, an Adam step, the running means of the losses, and the evaluation at the end of the epoch. What
``fit`` adds is the weighting, the handling of missing labels, the checks and the history. The model
of the MNIST chapter: an MLP 784-512-256 with heads of 10 and 1, batches of 64. Both end with the same
parameters, or the script stops. One thread, interleaved repetitions in changing order, the median of
the ratios of CPU time. Goal: 1.03 at most.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, evaluate, fit, linear_heads, mlp, task_loss
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Binary, Classification

DIGIT, GT5 = TASKS = [Classification("digit", classes=10), Binary("gt5")]
ROWS, BATCH_SIZE, EPOCHS, REPETITIONS = 6_400, 64, 2, 31


def made_up(rows: int) -> Split:
    """Make images and labels of MNIST's form."""
    generator = np.random.default_rng(0)
    digit = generator.integers(0, 10, rows)
    images = generator.random((rows, 28, 28), dtype=np.float32)
    return Split(images, {"digit": digit, "gt5": (digit > 5).astype(np.int64)})


def by_hand(model: HardSharing, train: Split, valid: Split) -> None:
    """Train as one would write it for these two tasks."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    generator = np.random.default_rng(0)
    images = torch.from_numpy(train.inputs)
    digit, gt5 = (torch.from_numpy(train.targets[task.name]) for task in TASKS)
    for _ in range(EPOCHS):
        model.train()
        sums = [torch.zeros(()), torch.zeros(())]
        for rows in batches(len(train), BATCH_SIZE, generator):
            index = torch.from_numpy(rows)
            outputs = model(images[index])
            losses = (
                task_loss(DIGIT, outputs["digit"], digit[index]),
                task_loss(GT5, outputs["gt5"], gt5[index]),
            )
            optimizer.zero_grad()
            torch.autograd.backward(losses[0] + losses[1])
            optimizer.step()
            for number, loss in enumerate(losses):
                sums[number] += loss.detach()
        evaluate(model, TASKS, valid)


def by_fit(model: HardSharing, train: Split, valid: Split) -> None:
    """Take the same steps with the library."""
    fit(model, TASKS, train, valid, epochs=EPOCHS, batch_size=BATCH_SIZE, device="cpu")


def main() -> None:
    """Interleave the two, print the median ratio."""
    torch.set_num_threads(1)
    train, valid = made_up(ROWS), made_up(640)
    ways: list[Callable[[HardSharing, Split, Split], None]] = [by_hand, by_fit]
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for repetition in range(REPETITIONS + 1):
        models = []
        for way in ways if repetition % 2 else ways[::-1]:
            torch.manual_seed(0)
            model = HardSharing(mlp(784, 512, 256), linear_heads(TASKS, features=256))
            start = time.process_time()
            way(model, train, valid)
            if repetition:  # the first one warms up
                times[way.__name__].append(time.process_time() - start)
            models.append(model)
        one, other = (model.state_dict().values() for model in models)
        if not all(map(torch.equal, one, other)):
            raise RuntimeError("fit and the loop by hand took different steps")
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    steps = EPOCHS * ROWS / BATCH_SIZE
    for name, spent in times.items():
        print(f"{name}: {1000 * statistics.median(spent) / steps:.3f} ms a step")
    print(f"ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
