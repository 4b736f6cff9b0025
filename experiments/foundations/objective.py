"""Whom does a weight serve? Two overlapping digits, one narrow trunk, and a sweep of the weights.

Two digits of MNIST lie on top of each other. One task reads the upper left digit, the other the
lower right one. The trunk has 16 features, too few to read both as well as each alone, so the tasks
compete for it. Adam trains on the sum ``share * L_left + (1 - share) * L_right``; every condition
chooses its learning rate on validation images, by the mean of the accuracies it has.

Named before it was run:

1. a share of 0.1 against equal weights, in accuracy of the right digit: does a weight decide whom
   the trunk serves?
2. equal weights with 9 times the learning rate for the right digit's head, against equal weights,
   in the same accuracy: does a learning rate do the same?
3. the best of nine shares, chosen on validation images, against equal weights, in mean accuracy;
4. equal weights against two networks of the same size, one for each task, in mean accuracy.

Beside them: two networks with half of the trunk's width (as many parameters as the shared one), and
a linear model. Every share's own test numbers are kept, for the figure of the front.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification

SIDES = [Classification("left", classes=10), Classification("right", classes=10)]
SIZES = {"train": 20_000, "valid": 2000, "test": 5000}
BATCH = 64
RATES = [4e-3, 8e-3, 1.6e-2]
SHARES = [0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98]

load = cache(mnist)


@cache
def overlaid(source: str, name: str, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Lay pairs of digits on one canvas, pool it to 18 x 18 pixels, as rows; with both labels."""
    split = getattr(load(source), name)
    draw = np.random.default_rng([seed, len(name)])
    left, right = draw.integers(len(split), size=(2, SIZES[name]))
    canvas = np.zeros((SIZES[name], 36, 36), dtype=np.float32)
    canvas[:, :28, :28] = split.inputs[left]
    canvas[:, 8:, 8:] = np.maximum(canvas[:, 8:, 8:], split.inputs[right])
    images = canvas.reshape(-1, 18, 2, 18, 2).mean((2, 4)).reshape(-1, 324)
    digits = torch.from_numpy(split.targets["digit"])
    return torch.from_numpy(images), {"left": digits[left], "right": digits[right]}


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one network, or one for each task, and measure them in per cent."""
    torch.manual_seed(seed)
    found: dict[str, float] = {}
    if condition.startswith("alone"):
        width = 8 if condition == "alone, half width" else 16
        for share, task in ((1.0, "left"), (0.0, "right")):
            model = HardSharing(mlp(324, width), linear_heads(SIDES, features=width))
            learn(model, optimizer(model, setting["rate"]), share, seed, steps)
            found |= measured(model, [task])
    else:
        if condition == "linear":
            model = HardSharing(nn.Identity(), linear_heads(SIDES, features=324))
        else:
            model = HardSharing(mlp(324, 16), linear_heads(SIDES, features=16))
        adam = optimizer(model, setting["rate"], setting.get("faster", 1.0))
        learn(model, adam, setting.get("share", 0.5), seed, steps)
        found = measured(model, ["left", "right"])
    for part in ("valid", "test"):
        both = [found[f"{part}_{side}_accuracy"] for side in ("left", "right")]
        found[f"{part}_mean_accuracy"] = float(np.mean(both))
    return found


def optimizer(model: HardSharing, rate: float, faster: float = 1.0) -> torch.optim.Adam:
    """Adam, whose learning rate for the right digit's head is ``faster`` times that of the rest."""
    rest = [*model.trunk.parameters(), *model.heads["left"].parameters()]
    head = {"params": [*model.heads["right"].parameters()], "lr": faster * rate}
    return torch.optim.Adam([{"params": rest}, head], lr=rate, fused=True)


def learn(model: HardSharing, adam: torch.optim.Adam, share: float, seed: int, steps: int) -> None:
    """Train on the weighted sum; the learning rates fall to 0 in a straight line."""
    images, labels = overlaid(experiments.source(), "train", seed)
    first = [group["lr"] for group in adam.param_groups]
    rows = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group, rate in zip(adam.param_groups, first, strict=True):
            group["lr"] = rate * (1 - step / steps)
        batch = torch.randint(len(images), (BATCH,), generator=rows)
        outputs = model(images[batch])
        left, right = (cross_entropy(outputs[s], labels[s][batch]) for s in ("left", "right"))
        adam.zero_grad()
        (share * left + (1 - share) * right).backward()
        adam.step()


@torch.no_grad()
def measured(model: HardSharing, sides: list[str]) -> dict[str, float]:
    """Give the share of right answers on the images that choose, and on those looked at once."""
    found = {}
    for part in ("valid", "test"):
        images, labels = overlaid(experiments.source(), part, 0)
        outputs = model(images)
        for side in sides:
            right = (outputs[side].argmax(1) == labels[side]).float().mean()
            found[f"{part}_{side}_accuracy"] = 100 * right.item()
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in RATES]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "equal": rates,
                "share 0.1": [{"rate": rate, "share": 0.1} for rate in RATES],
                "faster head": [{"rate": rate, "faster": 9.0} for rate in RATES],
                "tuned share": [{"rate": RATES[1], "share": share} for share in SHARES],
                "alone": rates[1:],
                "alone, half width": rates[1:],
                "linear": [{"rate": rate} for rate in (1e-3, 3e-3, 9e-3)],
            },
            data=mnist,
            seeds=range(10),
            steps=1000,
            smoke_steps=5,
            choose_by="valid_mean_accuracy",
            baseline="equal",
            primary=[
                ("share 0.1", "equal", "test_right_accuracy"),
                ("faster head", "equal", "test_right_accuracy"),
                ("tuned share", "equal", "test_mean_accuracy"),
                ("equal", "alone", "test_mean_accuracy"),
            ],
        )
    )
