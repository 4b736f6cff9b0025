"""Many networks trained by ``fit_stacked``, against the same networks trained one by one by ``fit``.

Both take the same steps and validate after each epoch; ``fit`` also computes the metrics there, so the
validation set is small. MLPs of one hidden layer on 14 × 14 images, two tasks, batches of 64, one
thread, interleaved repetitions, medians of CPU time; equal weights, and UPGrad on the exact Gramian of
the trunk. The gain is that of an idle processor: it falls as the networks grow. What a method computes
in NumPy it computes for each network, in a stack or not.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, fit, fit_stacked, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification
from mtl_tutorial.weighting import Equal, UPGrad, Weighting

TASKS = [Classification("digit", classes=10), Binary("gt5")]
ROWS, EPOCHS, REPETITIONS = 640, 5, 3


def made_up(rows: int) -> Split:
    """Make images and labels of the form of pooled MNIST."""
    generator = np.random.default_rng(0)
    digit = generator.integers(0, 10, rows)
    images = generator.random((rows, 14, 14), dtype=np.float32)
    return Split(images, {"digit": digit, "gt5": (digit > 5).astype(np.int64)})


def networks(count: int, hidden: int) -> list[HardSharing]:
    """Make the networks."""
    torch.manual_seed(0)
    return [HardSharing(mlp(196, hidden), linear_heads(TASKS, hidden)) for _ in range(count)]


def ratio(count: int, hidden: int, rule: type[Weighting], data: tuple[Split, Split]) -> float:
    """Time both ways in turn; give how many times as fast the stack is."""
    train, valid = data

    def stack() -> None:
        fit_stacked(
            networks(count, hidden), TASKS, [train] * count, valid,
            weightings=[rule() for _ in range(count)], seeds=range(count), epochs=EPOCHS,
        )  # fmt: skip

    def one_by_one() -> None:
        for seed, model in enumerate(networks(count, hidden)):
            fit(
                model, TASKS, train, valid, weighting=rule(), epochs=EPOCHS, seed=seed, device="cpu"
            )

    ways: dict[Callable[[], None], list[float]] = {stack: [], one_by_one: []}
    for repetition in range(REPETITIONS + 1):
        for way, spent in ways.items():
            start = time.process_time()
            way()
            if repetition:  # the first one warms up
                spent.append(time.process_time() - start)
    stacked, alone = (statistics.median(spent) for spent in ways.values())
    return alone / stacked


def main() -> None:
    """Print a ratio for each number of networks, width and method."""
    torch.set_num_threads(1)
    data = made_up(ROWS), made_up(64)
    print("times as fast as one by one   Equal  UPGrad")
    for hidden in (32, 64, 128):
        for count in (10, 40):
            equal, gramian = (ratio(count, hidden, rule, data) for rule in (Equal, UPGrad))
            print(f"{count} networks, {hidden:3d} wide {equal:14.1f} {gramian:7.1f}", flush=True)


if __name__ == "__main__":
    main()
