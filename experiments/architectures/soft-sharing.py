"""Between one trunk and two networks: tied towers, cross-stitch units; and a tie too strong.

An image holds two overlaid digits of MNIST, moved by up to a pixel. Two tasks: the digit to the left, known on 5,000 images,
and the digit to the right, known on 300 of these. A tower has three stages (two convolutions and a
dense layer), then comes a linear head a task. Conditions:

- alone: a tower a task; narrower: both together as large as one;
- shared: one tower for both; also as large as two (equal parameters; within 3 % it also takes the
  time of two);
- soft: a tower a task, tied by a penalty on their distance, its strength chosen by validation;
- cross-stitch: a tower a task, mixed after each stage by a learned matrix;
- too strong: soft with a strength of 1000; pulled: the same tie as a step of its own after Adam's.

Named before it was run:

1. soft against alone, accuracy of the right digit, whose labels are scarce: does the tie help?
2. soft against shared, equal parameters, mean of both accuracies.
3. cross-stitch against shared, equal parameters, mean of both accuracies.
4. too strong, pulled, against too strong, mean of both accuracies: is it the strength, or the step?

Beside them: a linear model, tuned weights. Inspected: how far the towers of each stage end apart, the
matrices, and what a linear probe reads of the other task's digit from a task's features.

Rates: 0.03 was worse than 0.01 for most kinds of network, tried with a seed outside the plan.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, mnist, overlaid
from mtl_tutorial.pytorch import CrossStitch, HardSharing, SoftSharing

TASKS = "left", "right"
PAIRS = {"train": 20_000, "valid": 2000, "test": 5000}
LABELLED = {"left": 5000, "right": 300}  # training pairs of each task, drawn anew by each seed
BATCH = 32  # pairs of each task in a step
BASE = np.array([8, 16, 64])  # channels of the two convolutions, width of the dense layer
PLACES = 5 * 5  # of what the second convolution gives, for an image of 18 x 18
STRONG = 1000.0


def pairs(source: str) -> Dataset:
    """Give overlaid digits of 18 x 18 pixels, moved, with both digits."""
    digits, splits = mnist(source), {}
    for seed, (name, count) in enumerate(PAIRS.items()):
        drawn = overlaid(getattr(digits, name), count, seed)
        images = drawn.inputs.reshape(-1, 18, 2, 18, 2).mean((2, 4))
        moves = np.random.default_rng(100 + seed).integers(-1, 2, size=(count, 2))
        images = np.stack([np.roll(i, m, (0, 1)) for i, m in zip(images, moves, strict=True)])
        splits[name] = Split(images, drawn.targets)
    return Dataset("overlaid MNIST", digits.source, **splits)


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


def builders(scale: float) -> list[Any]:
    """Give for each stage a function that builds it."""
    one, two, dense = widths(scale)
    return [
        lambda: nn.Sequential(nn.Conv2d(1, one, 3, 2, 1), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(one, two, 3, 2, 1), nn.ReLU()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(PLACES * two, dense), nn.ReLU()),
    ]


def tower(scale: float) -> nn.Sequential:
    """Build all stages of a tower."""
    return nn.Sequential(*(build() for build in builders(scale)))


def network(kind: str, scale: float, strength: float = 0.0) -> Any:
    """Build an untrained network of one kind, from the current random state."""
    if kind == "linear":
        return HardSharing(nn.Flatten(), {task: nn.Linear(18 * 18, 10) for task in TASKS})
    heads: dict[str, nn.Module] = {task: nn.Linear(widths(scale)[-1], 10) for task in TASKS}
    if kind == "shared":
        return HardSharing(tower(scale), heads)
    if kind == "cross-stitch":
        return CrossStitch(builders(scale), heads)
    return SoftSharing(lambda: tower(scale), heads, strength)


@torch.no_grad()
def costs(model: Any) -> dict[str, int]:
    """Count parameters, and the multiplications of convolutions and linear layers for an image."""
    times: list[int] = []

    def count(layer: Any, _: Any, output: Tensor) -> None:
        times.append(layer.weight.numel() * output[0, 0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model(torch.zeros(1, 1, 18, 18))
    for hook in hooks:
        hook.remove()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "multiplications": sum(times)}


@cache
def fitting(kind: str, size: str) -> float:
    """Find the scale at which a network costs what its condition says."""
    if size not in ("equal parameters", "narrower"):
        return 1.0
    aim = costs(network("shared" if size == "narrower" else "alone", 1.0))["parameters"]
    scales = np.linspace(0.5, 1, 101) if size == "narrower" else np.linspace(1, 2, 201)
    return float(
        min(scales, key=lambda scale: abs(costs(network(kind, scale))["parameters"] - aim))
    )


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train a network and measure both tasks, in per cent."""
    kind, *words = condition.split(", ")
    strength = STRONG if kind == "too strong" else setting.get("strength", 0.0)
    scale = fitting(kind, words[0] if words else "")
    torch.manual_seed(seed)
    model = network(kind, scale, strength)
    learn(model, setting, seed, steps, pulled="pulled" in words)

    each = right(model, "valid")
    found = {"valid_mean_accuracy": sum(each.values()) / len(each)}  # chooses the setting
    each = right(model, "test")
    found |= {f"test_{task}_accuracy": hit for task, hit in each.items()}
    found["test_mean_accuracy"] = sum(each.values()) / len(each)
    return found | inspected(model, seed)


def drawn(seed: int) -> Tensor:
    """Draw the training pairs of a seed: the left digit is known on all, the right on the first."""
    available = len(load(experiments.source())["train"][0])
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[: LABELLED["left"]]


def learn(
    model: Any, setting: dict[str, float], seed: int, steps: int, *, pulled: bool = False
) -> None:
    """Train with Adam, at a rate that falls to 0 along a line; a tie is a penalty, or pulls."""
    images, labels = load(experiments.source())["train"]
    rows = drawn(seed)
    draw = torch.Generator().manual_seed(1000 + seed)
    units = [*getattr(model, "units", [])]
    others = [own for own in model.parameters() if all(own is not unit for unit in units)]
    groups: list[dict[str, Any]] = [{"params": others, "factor": 1.0}]
    if units:
        groups.append({"params": units, "factor": setting["units"]})
    adam = torch.optim.Adam(groups, lr=setting["rate"], fused=True)
    tied = isinstance(model, SoftSharing) and model.strength > 0
    for step in range(steps):
        rate = setting["rate"] * (1 - step / steps)
        for group in adam.param_groups:
            group["lr"] = rate * group["factor"]
        batch = [
            rows[torch.randint(min(LABELLED[task], len(rows)), (BATCH,), generator=draw)]
            for task in TASKS
        ]
        outputs = answers(model, [images[own] for own in batch])
        losses = [cross_entropy(outputs[i], labels[task][batch[i]]) for i, task in enumerate(TASKS)]
        losses[1] = setting.get("weight", 1.0) * losses[1]
        if tied and not pulled:
            losses.append(model.penalty())
        adam.zero_grad()
        torch.stack(losses).sum().backward()
        adam.step()
        if tied and pulled:
            pull(model, rate * model.strength)


def answers(model: Any, images: list[Tensor]) -> list[Tensor]:
    """Answer each task on its own images."""
    if isinstance(model, SoftSharing):  # no tower needs the images of the other
        return [
            model.heads[task](model.towers[task](own))
            for task, own in zip(TASKS, images, strict=True)
        ]
    outputs = model(torch.cat(images))
    return [outputs[task].split(BATCH)[i] for i, task in enumerate(TASKS)]


@torch.no_grad()
def pull(model: SoftSharing, amount: float) -> None:
    """Move all towers towards their mean: an implicit step on the penalty, stable at any amount."""
    for own in zip(*(tower.parameters() for tower in model.towers.values()), strict=True):
        mean = torch.stack(own).mean(0)
        for parameter in own:
            parameter.copy_(mean + (parameter - mean) / (1 + amount))


@torch.no_grad()
def right(model: Any, part: str) -> dict[str, float]:
    """Give the share of right answers of each task, in per cent."""
    images, labels = load(experiments.source())[part]
    outputs = [model(some) for some in images.split(1000)]
    said = {task: torch.cat([each[task] for each in outputs]).argmax(1) for task in TASKS}
    return {task: 100 * float((said[task] == labels[task]).float().mean()) for task in TASKS}


@torch.no_grad()
def inspected(model: Any, seed: int) -> dict[str, float]:
    """Give what is to be seen inside of a network, in per cent; matrices as they are."""
    found: dict[str, float] = {}
    if isinstance(model, SoftSharing):
        towers: Any = model.towers.values()
        for stage, (one, other) in enumerate(zip(*towers, strict=True), start=1):
            ours, theirs = (
                torch.cat([own.flatten() for own in layer.parameters()]) for layer in (one, other)
            )
            mean = (ours + theirs) / 2
            found[f"apart_{stage}"] = 100 * float((ours - theirs).norm() / mean.norm())
    if isinstance(model, CrossStitch):
        for stage, unit in enumerate(model.units, start=1):
            for i, task in enumerate(TASKS):
                for j, other in enumerate(TASKS):
                    found[f"unit_{stage}_{task}_{other}"] = float(unit[i, j])
    if isinstance(model, HardSharing) and isinstance(model.trunk, nn.Flatten):
        return found
    parts, rows = load(experiments.source()), drawn(seed)
    known, asked = (features(model, parts["train"][0][rows]), features(model, parts["test"][0]))
    for task, other in (TASKS, TASKS[::-1]):
        labels = parts["train"][1][other][rows]
        hit = least_squares(known[task], labels, asked[task]) == parts["test"][1][other]
        found[f"probe_{other}_from_{task}"] = 100 * float(hit.float().mean())
    return found


def features(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Give what the head of each task reads."""
    given = [model.encode(some) for some in images.split(1000)]
    if isinstance(given[0], Tensor):
        return dict.fromkeys(TASKS, torch.cat(given))
    return {task: torch.cat([each[task] for each in given]) for task in TASKS}


def least_squares(given: Tensor, classes: Tensor, others: Tensor) -> Tensor:
    """Fit a line to each class's 0 and 1, slightly shrunk; give the classes of the others."""
    mean, deviation = given.mean(0), given.std(0) + 1e-6
    x = torch.cat([(given - mean) / deviation, torch.ones(len(given), 1)], 1).double()
    y = one_hot(classes).double()
    shrink = 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + shrink, x.T @ y)
    x = torch.cat([(others - mean) / deviation, torch.ones(len(others), 1)], 1).double()
    found: Tensor = (x @ weights).argmax(1)
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (3e-3, 1e-2)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "linear": rates,
                "alone": rates,
                "alone, narrower": rates,
                "shared": rates,
                "shared, equal parameters": rates,
                "shared, equal parameters, tuned weight": [
                    own | {"weight": weight} for weight in (0.3, 1, 3) for own in rates
                ],
                "soft": [
                    own | {"strength": strength}
                    for strength in (3e-3, 3e-2, 0.3, 3)
                    for own in rates
                ],
                "too strong": rates,
                "too strong, pulled": rates,
                "cross-stitch": [own | {"units": factor} for factor in (1, 10) for own in rates],
            },
            data=pairs,
            seeds=range(20, 30),
            steps=500,
            smoke_steps=6,
            choose_by="valid_mean_accuracy",
            baseline="alone",
            single_task={"test_left_accuracy": "alone", "test_right_accuracy": "alone"},
            primary=[
                ("soft", "alone", "test_right_accuracy"),
                ("soft", "shared, equal parameters", "test_mean_accuracy"),
                ("cross-stitch", "shared, equal parameters", "test_mean_accuracy"),
                ("too strong, pulled", "too strong", "test_mean_accuracy"),
            ],
        )
    )
