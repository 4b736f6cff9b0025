"""One epoch of batches: indices into whole arrays, against a ``DataLoader`` over the same arrays.

Both shuffle, both give tensors of the same batches' shapes, and neither trains anything. The
``DataLoader`` fetches one sample after the other and stacks them; :func:`mtl_tutorial.sampling.batches`
gives an index, and a batch is one look-up in each array. MNIST's size: 28 × 28 images, two targets,
batches of 64. One thread, interleaved repetitions, medians of CPU time. Goal: 10 times as fast.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from mtl_tutorial.sampling import batches

ROWS, BATCH_SIZE, REPETITIONS = 20_000, 64, 15


def main() -> None:
    """Interleave the two, print the medians and their ratio."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.random((ROWS, 28, 28), dtype=np.float32))
    digit = torch.from_numpy(generator.integers(0, 10, ROWS))
    arrays = images, digit, (digit > 5).long()
    loader = DataLoader(TensorDataset(*arrays), batch_size=BATCH_SIZE, shuffle=True)

    def by_index() -> int:
        seen = 0
        for rows in batches(ROWS, BATCH_SIZE, generator):
            index = torch.from_numpy(rows)
            batch = [array.index_select(0, index) for array in arrays]
            seen += len(batch[0])
        return seen

    def by_loader() -> int:
        return sum(len(batch[0]) for batch in loader)

    times: dict[Callable[[], int], list[float]] = {by_index: [], by_loader: []}
    for _ in range(REPETITIONS):
        for epoch, spent in times.items():
            start = time.process_time()
            seen = epoch()
            spent.append(time.process_time() - start)
            if seen != ROWS:
                raise RuntimeError(f"{epoch.__name__} gave {seen} rows of {ROWS}")
    index, loaded = (statistics.median(spent) for spent in times.values())
    print(f"batches: {1000 * index:.1f} ms an epoch; DataLoader: {1000 * loaded:.1f} ms")
    print(f"ratio: {loaded / index:.1f} times as fast")


if __name__ == "__main__":
    main()
