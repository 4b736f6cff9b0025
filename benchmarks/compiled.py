"""One exact Gramian step with the trunk compiled by ``torch.compile``, against the same step without.

A trunk of two linear layers, each with an activation of several small operations and a layer norm:
what a compiler can fuse. Needs a C++ compiler on a CPU. One thread, interleaved repetitions; printed
are the seconds of the first, compiling step, and the median and the quartiles of the ratio (above 1:
compiled is faster).
"""

import copy
import os
import statistics
import time

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes that outlives the script
import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch import HardSharing, batch_losses, linear_heads, mtl_backward
from mtl_tutorial.tasks import Binary, Classification
from mtl_tutorial.weighting import UPGrad

ROWS, WIDTH, STEPS, REPETITIONS = 256, 256, 5, 21
TASKS = [Classification("digit", classes=10), Binary("gt5")]


class Bump(nn.Module):
    """An activation that takes several passes over the memory, unless they are fused."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return torch.sigmoid(x) * torch.tanh(x) + 0.1 * torch.exp(-x * x)


def main() -> None:
    """Interleave the two, print the ratio and its spread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Linear(784, WIDTH), Bump(), nn.LayerNorm(WIDTH)]
    layers += [nn.Linear(WIDTH, WIDTH), Bump(), nn.LayerNorm(WIDTH)]
    plain = HardSharing(nn.Sequential(*layers), linear_heads(TASKS, features=WIDTH))
    compiled = copy.deepcopy(plain)
    compiled.trunk.compile()
    images, digit = torch.randn(ROWS, 784), torch.randint(0, 10, (ROWS,))
    targets = {"digit": digit, "gt5": (digit > 5).long()}

    def seconds(model: HardSharing, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            model.zero_grad()
            features = model.encode(images)
            losses = batch_losses(TASKS, model.decode(features), targets)
            mtl_backward(losses, features, UPGrad(), model.shared_parameters())
        return time.perf_counter() - start

    seconds(plain, 1)
    print(f"first compiled step: {seconds(compiled, 1):.1f} s")
    pairs = zip(plain.parameters(), compiled.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    ratios = [seconds(plain, STEPS) / seconds(compiled, STEPS) for _ in range(REPETITIONS)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"plain / compiled: {middle:.2f} (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
