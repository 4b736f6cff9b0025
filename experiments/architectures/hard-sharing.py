"""How much of a network should tasks share? Depth at equal parameters and at equal time; leaving early.

An image holds two overlaid digits of MNIST, moved by up to a pixel, under noise of one of five
strengths. Three tasks: the digit to the left, the digit to the right, the strength of the noise. A
network has three stages (two convolutions and a dense layer), then a linear head a task. The two
digits share the first stages, none (alone) up to all three (share 3), and have the others each for
itself:

- of equal width: each stage as wide as that of share 3;
- of equal parameters: narrower, with as many parameters in all as share 3 (alone so takes within 6 %
  the time of share 3, too);
- of equal time: narrower, with as many multiplications an image as share 3.

The noise is a task of a low level: where the digits share everything, it leaves after stage 1, 2 or 3.
Before the last stage it reads the mean over all places, normalised over the batch.

Named before it was run:

1. share 3 against alone, equal parameters; mean accuracy of the two digits.
2. share 2, equal parameters, against share 3; the same: should the last stage be each task's own?
3. share 2, equal time, against share 3; the same.
4. noise leaves at 1 against noise leaves at 3, mean accuracy of all three tasks: is early better?

Beside them: each task alone, a linear model, tuned weights. A linear probe reads noise and digits from
each stage of a network that learned the digits, before and after it was trained: where would a task
find what it needs?

Rates: 0.03 was worse than 0.01 for most kinds of network, tried with a seed outside the plan.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, mnist, overlaid
from mtl_tutorial.pytorch import HardSharing

CLASSES = {"left": 10, "right": 10, "noise": 5}
DIGITS = ["left", "right"]
STRENGTHS = np.array([0.10, 0.15, 0.20, 0.25, 0.30], np.float32)  # deviation of the noise, by class
PAIRS = {"train": 20_000, "valid": 2000, "test": 5000}
IMAGES = 4000  # of the training pairs, drawn anew by each seed
BATCH = 64
BASE = np.array([8, 16, 64])  # channels of the two convolutions, width of the dense layer
PIXELS = 9 * 9, 5 * 5  # of what the convolutions give, for an image of 18 x 18


def pairs(source: str) -> Dataset:
    """Give overlaid digits of 18 x 18 pixels, moved, under noise, with digits and its strength."""
    digits, splits = mnist(source), {}
    for seed, (name, count) in enumerate(PAIRS.items()):
        drawn = overlaid(getattr(digits, name), count, seed)
        images = drawn.inputs.reshape(-1, 18, 2, 18, 2).mean((2, 4))
        draw = np.random.default_rng(100 + seed)
        moves = draw.integers(-1, 2, size=(count, 2))
        images = np.stack([np.roll(i, m, (0, 1)) for i, m in zip(images, moves, strict=True)])
        noise = draw.integers(len(STRENGTHS), size=count)
        images += STRENGTHS[noise, None, None] * draw.standard_normal(images.shape, np.float32)
        splits[name] = Split(images, {**drawn.targets, "noise": noise})
    return Dataset("overlaid MNIST under noise", digits.source, **splits)


@cache
def load(source: str) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Give images and labels of each part as tensors."""
    data, found = pairs(source), {}
    for name in PAIRS:
        split = getattr(data, name)
        labels = {task: torch.from_numpy(own) for task, own in split.targets.items()}
        found[name] = torch.from_numpy(split.inputs)[:, None], labels
    return found


def widths(scale: float) -> list[int]:
    """Give the widths of the three stages."""
    return [max(1, round(width)) for width in scale * BASE]


def costs(shared: int, scale: float) -> dict[str, int]:
    """Count parameters, and multiplications an image, of a network for both digits."""
    one, two, dense = widths(scale)
    each = [  # of a stage, and last of a head
        (10 * one, PIXELS[0] * 9 * one),
        ((9 * one + 1) * two, PIXELS[1] * 9 * one * two),
        ((PIXELS[1] * two + 1) * dense, PIXELS[1] * two * dense),
        ((dense + 1) * 10, dense * 10),
    ]
    copies = [1 if stage < shared else 2 for stage in range(len(each))]
    kinds = "parameters", "time"
    return {
        kind: sum(n * own[i] for n, own in zip(copies, each, strict=True))
        for i, kind in enumerate(kinds)
    }


@cache
def fitting(shared: int, kind: str) -> float:
    """Find the scale at which a network has as many parameters as share 3, or takes its time."""
    if not kind:
        return 1.0
    aim = costs(3, 1.0)[kind]
    return float(min(np.linspace(0.3, 1, 701), key=lambda s: abs(costs(shared, s)[kind] - aim)))


def stages(scale: float) -> list[nn.Module]:
    """Build the three stages, new ones at each call."""
    one, two, dense = widths(scale)
    return [
        nn.Sequential(nn.Conv2d(1, one, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(one, two, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(PIXELS[1] * two, dense), nn.ReLU()),
    ]


def network(tasks: list[str], shared: int, scale: float, leaves: int) -> Any:
    """Build a network whose tasks share the first stages; the noise leaves after one of them."""
    if shared == len(BASE):
        whole = stages(scale)
        if leaves == len(BASE) or "noise" not in tasks:
            heads = {task: nn.Linear(widths(scale)[-1], CLASSES[task]) for task in tasks}
            return HardSharing(nn.Sequential(*whole), heads)
        width = widths(scale)[leaves - 1]
        mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(width))
        heads = {task: nn.Linear(widths(scale)[-1], 10) for task in DIGITS}
        heads["noise"] = nn.Linear(width, CLASSES["noise"])
        branches = [(nn.Sequential(*whole[leaves:]), DIGITS), (mean, ["noise"])]
        return HardSharing(nn.Sequential(*whole[:leaves]), heads, branches)
    trunk = nn.Sequential(*stages(scale)[:shared])  # empty, it hands on the image
    own = [(nn.Sequential(*stages(scale)[shared:]), [task]) for task in tasks]
    heads = {task: nn.Linear(widths(scale)[-1], CLASSES[task]) for task in tasks}
    return HardSharing(trunk, heads, own)


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train a network and measure its tasks, in per cent."""
    name, _, size = condition.partition(", ")
    tasks, shared, leaves, scale = DIGITS, 3, 3, 1.0
    if name == "noise alone":
        tasks = ["noise"]
    elif name == "linear" or name.startswith("noise"):
        tasks = [*CLASSES]
        leaves = int(name[-1]) if name != "linear" else 3
    else:
        shared = 0 if name == "alone" else int(name[-1])
        scale = fitting(shared, size.removeprefix("equal "))
    torch.manual_seed(seed)
    if name == "linear":
        flat = {task: nn.Linear(18 * 18, CLASSES[task]) for task in tasks}
        model: Any = HardSharing(nn.Flatten(), flat)
    else:
        model = network(tasks, shared, scale, leaves)
    found: dict[str, float] = {}
    if condition == "share 3":
        found |= probed(model, seed, "untrained")
    learn(model, tasks, setting, seed, steps)
    model.eval()
    each = right(model, "valid")
    found["valid_mean_accuracy"] = sum(each.values()) / len(each)  # chooses the setting
    each = right(model, "test")
    found |= {f"test_{task}_accuracy": hit for task, hit in each.items()}
    if "left" in each:
        found["test_digits_accuracy"] = (each["left"] + each["right"]) / 2
    if len(each) == len(CLASSES):
        found["test_all_accuracy"] = sum(each.values()) / len(each)
    if condition == "share 3":
        found |= probed(model, seed, "trained")
    return found


def drawn(seed: int) -> Tensor:
    """Draw the training images of a seed."""
    available = len(load(experiments.source())["train"][0])
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:IMAGES]


def learn(model: Any, tasks: list[str], setting: dict[str, float], seed: int, steps: int) -> None:
    """Train with Adam, at a rate that falls to 0 along a line."""
    images, labels = load(experiments.source())["train"]
    rows = drawn(seed)
    draw = torch.Generator().manual_seed(1000 + seed)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = setting["rate"] * (1 - step / steps)
        batch = rows[torch.randint(len(rows), (BATCH,), generator=draw)]
        outputs = model(images[batch])
        losses = [cross_entropy(outputs[task], labels[task][batch]) for task in tasks]
        if "weight" in setting:  # of the noise, the last task
            losses[-1] = setting["weight"] * losses[-1]
        adam.zero_grad()
        torch.stack(losses).sum().backward()
        adam.step()


@torch.no_grad()
def right(model: Any, part: str) -> dict[str, float]:
    """Give the share of right answers of each task, in per cent."""
    images, labels = load(experiments.source())[part]
    outputs = [model(some) for some in images.split(1000)]
    return {
        task: 100
        * float((torch.cat([o[task] for o in outputs]).argmax(1) == labels[task]).float().mean())
        for task in outputs[0]
    }


@torch.no_grad()
def probed(model: Any, seed: int, when: str) -> dict[str, float]:
    """Read noise and left digit from each stage by least squares; give right answers in per cent.

    The noise is read from the mean over all places, as a head that leaves there would read it.
    """
    parts = load(experiments.source())
    rows, found = drawn(seed), {}
    given = {"train": parts["train"][0][rows], "test": parts["test"][0]}
    labels = {
        "train": {t: own[rows] for t, own in parts["train"][1].items()},
        "test": parts["test"][1],
    }
    for stage, layer in enumerate(model.trunk, start=1):
        given = {part: layer(x) for part, x in given.items()}
        for task in ("noise", "left"):
            pooled = task == "noise" and stage < len(BASE)
            read = {part: (x.mean((2, 3)) if pooled else x.flatten(1)) for part, x in given.items()}
            hit = least_squares(read["train"], labels["train"][task], read["test"])
            accuracy = (hit == labels["test"][task]).float().mean()
            found[f"{when}_probe_{task}_{stage}"] = 100 * float(accuracy)
    return found


def least_squares(features: Tensor, classes: Tensor, others: Tensor) -> Tensor:
    """Fit a line to each class's 0 and 1, slightly shrunk; give the classes of the others."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = torch.cat([(features - mean) / deviation, torch.ones(len(features), 1)], 1).double()
    y = nn.functional.one_hot(classes).double()
    shrink = 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + shrink, x.T @ y)
    x = torch.cat([(others - mean) / deviation, torch.ones(len(others), 1)], 1).double()
    found: Tensor = (x @ weights).argmax(1)
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (3e-3, 1e-2)]
    weighted = [own | {"weight": weight} for weight in (0.3, 1, 3) for own in rates]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "linear": rates,
                "alone": rates,
                "alone, equal parameters": rates,
                "share 1, equal parameters": rates,
                "share 2, equal parameters": rates,
                "share 2, equal time": rates,
                "share 3": rates,
                "noise alone": rates,
                **{f"noise leaves at {stage}": rates for stage in (1, 2, 3)},
                **{f"noise leaves at {stage}, tuned weight": weighted for stage in (1, 3)},
            },
            data=pairs,
            seeds=range(20, 30),
            steps=600,
            smoke_steps=6,
            choose_by="valid_mean_accuracy",
            baseline="alone",
            single_task={
                "test_left_accuracy": "alone",
                "test_right_accuracy": "alone",
                "test_noise_accuracy": "noise alone",
            },
            primary=[
                ("share 3", "alone, equal parameters", "test_digits_accuracy"),
                ("share 2, equal parameters", "share 3", "test_digits_accuracy"),
                ("share 2, equal time", "share 3", "test_digits_accuracy"),
                ("noise leaves at 1", "noise leaves at 3", "test_all_accuracy"),
            ],
        )
    )
