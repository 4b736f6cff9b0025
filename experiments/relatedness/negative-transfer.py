"""Two pairs of tasks that hurt each other: when, and what helps? One table, equal budgets.

- Overlaid: two handwritten digits laid over each other, left and right. Each is noise for the other.
- Turned: the digit of a turned image, and by how many degrees it is turned. The squared error of
  degrees is hundreds of times a cross-entropy.

A condition is a pair and what is done about it: nothing (shared: one trunk, the two losses added),
weights (the second loss times a tuned number), surgery (UPGrad: no step against a task), balancing
(IMTL-G: every task pulls alike), soft sharing (two tied trunks), experts (MMoE), apart (two networks),
early stopping (for both tasks at once, or each task keeping the network of its own best step), and
for degrees the plain remedy: units in which they have deviation 1.

All take as many steps with as many images, and have about as many parameters as the shared network
(size); what has twice as many says so: two networks of the shared one's width (full), and one wide
network with the parameters of these two (wide). For the overlaid pair shared and full are also
compared at other widths and with fewer images; the length of training is doubled for all.

Named before it was run:

1. overlaid: shared against full, mean accuracy: does sharing hurt?
2. overlaid: wide against full, mean accuracy: is the harm a lack of parameters?
3. turned: shared against full, accuracy of the digit: does sharing hurt?
4. turned: weights against full, accuracy of the digit: does a weight repair it?

The angle is scored by the share of its variance that is explained, in per cent. Of the shared network
the two task gradients on the trunk are looked at in every tenth step: the mean of their cosine, the
share of steps in which it is negative, and the median of the longer one's length over the shorter's.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, overlaid, rotated
from mtl_tutorial.pytorch import (
    HardSharing,
    MMoE,
    SoftSharing,
    batch_losses,
    linear_heads,
    mlp,
    mtl_backward,
)
from mtl_tutorial.tasks import Classification, Regression, Task
from mtl_tutorial.weighting import IMTLG, UPGrad, Weighting

PAIRS: dict[str, list[Task]] = {
    "overlaid": [Classification("left", classes=10), Classification("right", classes=10)],
    "turned": [Classification("digit", classes=10), Regression("angle")],
}
WEIGHTINGS: dict[str, Callable[[], Weighting]] = {"surgery": UPGrad, "balancing": IMTLG}
IMAGES = {"overlaid": 10_000, "turned": 5_000}  # of each seed, drawn from twice as many
ROWS = {"valid": 1000, "test": 4000}
DEGREES = 60.0
LAYERS = {"overlaid": 1, "turned": 2}
WIDTH = 32
BATCH = 64
STEPS = 1600
LOOKS = 20  # at the validation images, for early stopping

load = cache(mnist)


@cache
def data(source: str, pair: str, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Give images at half their side, as rows, and the labels of a pair."""
    split = getattr(load(source), name)
    number = ("train", "valid", "test").index(name)
    count = ROWS.get(name, 2 * IMAGES[pair])
    if pair == "overlaid":
        split = overlaid(split, min(count, 5 * len(split)), seed=number)
    else:
        split = rotated(split.take(slice(count)), DEGREES, seed=number)
    side = split.inputs.shape[1] // 2
    images = split.inputs.reshape(-1, side, 2, side, 2).mean((2, 4)).reshape(-1, side * side)
    labels = {name: torch.from_numpy(values) for name, values in split.targets.items()}
    return torch.from_numpy(images), labels


def built(pair: str, remedy: str, width: int, setting: dict[str, float]) -> nn.Module:
    """Build a model for a pair; what is not shared has this width in each of its parts."""
    inputs = data(experiments.source(), pair, "valid")[0].shape[1]
    trunk = partial(mlp, inputs, *[width] * LAYERS[pair])
    if remedy == "linear":
        return HardSharing(nn.Flatten(), linear_heads(PAIRS[pair], features=inputs))
    heads = linear_heads(PAIRS[pair], features=width)
    if remedy in ("full", "apart", "soft sharing"):
        return SoftSharing(trunk, heads, strength=setting.get("strength", 0.0))
    if remedy == "experts":
        return MMoE(trunk, partial(nn.Linear, inputs), heads, experts=4)
    return HardSharing(trunk(), heads)


def size(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def fitting(pair: str, remedy: str, setting: dict[str, float], limit: int) -> nn.Module:
    """Build the widest model of at most so many parameters."""
    width = 1
    while size(built(pair, remedy, width + 1, setting)) <= limit:
        width += 1
    return built(pair, remedy, width, setting)


@torch.no_grad()
def measured(pair: str, model: Any, part: str, unit: float) -> dict[str, float]:
    """Score each task in per cent."""
    images, labels = data(experiments.source(), pair, part)
    found = {}
    for task, output in model(images).items():
        truth = labels[task]
        if task == "angle":
            left = (unit * output[:, 0] - truth).square().mean() / truth.var(correction=0)
            found[f"{part}_angle_explained"] = 100 * float(1 - left)
        else:
            right = (output.argmax(1) == truth).float().mean()
            found[f"{part}_{task}_accuracy"] = 100 * float(right)
    return found


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train a pair, and score both tasks."""
    pair, remedy, *rest = condition.split(", ")
    width = next((int(word.split()[0]) for word in rest if word.endswith("wide")), WIDTH)
    torch.manual_seed(seed)
    shared = size(built(pair, "shared", width, setting))
    if remedy in ("apart", "soft sharing", "experts"):
        model: Any = fitting(pair, remedy, setting, shared)
    elif remedy == "wide":
        model = fitting(pair, "shared", setting, size(built(pair, "full", width, setting)))
    else:
        model = built(pair, remedy, width, setting)

    tasks = PAIRS[pair]
    unit = 35.0 if remedy == "units" else 1.0  # degrees: their deviation, 60 / sqrt(3)
    images, labels = data(experiments.source(), pair, "train")
    labels = {name: values / unit if name == "angle" else values for name, values in labels.items()}
    count = next((int(word.split()[0]) for word in rest if word.endswith("images")), IMAGES[pair])
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(images), generator=draw)[:count]
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    weights = torch.tensor([1.0, setting.get("weight", 1.0)])
    weighting = WEIGHTINGS[remedy]() if remedy in WEIGHTINGS else None
    best: dict[str, tuple[float, dict[str, float]]] = {}
    looked: list[tuple[float, float]] = []
    for step in range(1, steps + 1):
        rows = drawn[torch.randint(len(drawn), (BATCH,), generator=draw)]
        features = model.encode(images[rows])
        batch = {name: values[rows] for name, values in labels.items()}
        losses = batch_losses(tasks, model.decode(features), batch)
        if remedy == "shared" and step % 10 == 0:
            looked.append(pull(losses, model))
        adam.zero_grad()
        if weighting is not None:
            mtl_backward(losses, features, weighting, model.shared_parameters())
        else:
            each = torch.stack([loss for loss in losses.values() if loss is not None])
            (weights @ each + extra(model, features, batch)).backward()
        adam.step()
        if remedy.startswith("stopping") and step % max(1, steps // LOOKS) == 0:
            keep(best, pair, model, each_task=remedy == "stopping each")

    if remedy.startswith("stopping"):
        found = {key: value for _, scores in best.values() for key, value in scores.items()}
    else:
        found = {k: v for part in ROWS for k, v in measured(pair, model, part, unit).items()}
    for part in ROWS:
        scores = [value for key, value in found.items() if key.startswith(f"{part}_")]
        found[f"{part}_mean" if part == "valid" else f"test_{pair}_mean"] = sum(scores) / 2
    kept = [name for name in found if name == "valid_mean" or name.startswith("test_")]
    if looked:
        cosines, ratios = np.array(looked).T
        found["cosine"], found["negative_cosines"] = cosines.mean(), 100 * (cosines < 0).mean()
        found["length_ratio"] = np.median(ratios)
        kept += ["cosine", "negative_cosines", "length_ratio"]
    return {name: round(float(found[name]), 2) for name in kept}


def pull(losses: dict[str, Tensor | None], model: Any) -> tuple[float, float]:
    """Give the cosine of the two task gradients on the trunk, and the longer over the shorter."""
    shared = list(model.shared_parameters())
    first, second = (
        torch.cat([part.ravel() for part in torch.autograd.grad(loss, shared, retain_graph=True)])
        for loss in losses.values()
        if loss is not None
    )
    lengths = sorted([float(first.norm()), float(second.norm())])
    return float(first @ second) / (lengths[0] * lengths[1]), lengths[1] / lengths[0]


def extra(model: Any, features: Any, targets: dict[str, Tensor]) -> Tensor:
    """Give the tie of soft sharing, 0 for other models."""
    if isinstance(model, SoftSharing) and model.strength > 0:
        return model.extra_loss(features, targets)
    return torch.zeros(())


def keep(
    best: dict[str, tuple[float, dict[str, float]]], pair: str, model: Any, *, each_task: bool
) -> None:
    """Keep the scores of the step that is best on validation images, of each task or of both."""
    now = {k: v for part in ROWS for k, v in measured(pair, model, part, 1.0).items()}
    groups = [[task.name] for task in PAIRS[pair]] if each_task else [[t.name for t in PAIRS[pair]]]
    for names in groups:
        own = {key: value for key, value in now.items() if key.split("_")[1] in names}
        valid = sum(value for key, value in own.items() if key.startswith("valid_"))
        if " ".join(names) not in best or valid > best[" ".join(names)][0]:
            best[" ".join(names)] = valid, own


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (2e-3, 8e-3)]
    tied = [{**rate, "strength": strength} for rate in rates for strength in (0.1, 1)]
    weights = {"overlaid": (0.3, 1, 3), "turned": (3e-4, 3e-3, 3e-2, 0.3)}
    weighted = {
        f"{pair}, weights": [{**rate, "weight": weight} for rate in rates for weight in own]
        for pair, own in weights.items()
    }
    remedies = {
        "shared": rates,
        "full": rates,
        "apart": rates,
        "wide": rates,
        "linear": rates,
        "surgery": rates,
        "balancing": rates,
        "soft sharing": tied,
        "experts": rates,
        "stopping both": rates,
        "stopping each": rates,
    }
    elsewhere = [f"overlaid, {kind}" for kind in ("shared", "full")]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                **{f"overlaid, {remedy}": own for remedy, own in remedies.items()},
                **{f"turned, {remedy}": own for remedy, own in remedies.items()},
                **weighted,
                "turned, units": rates,
                **{f"{name}, 16 wide": rates for name in elsewhere},
                **{f"{name}, 128 wide": rates for name in elsewhere},
                **{f"{name}, 1000 images": rates for name in elsewhere},
            },
            data=mnist,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=STEPS,
            smoke_steps=4,
            choose_by="valid_mean",
            baseline="overlaid, full",
            primary=[
                ("overlaid, shared", "overlaid, full", "test_overlaid_mean"),
                ("overlaid, wide", "overlaid, full", "test_overlaid_mean"),
                ("turned, shared", "turned, full", "test_digit_accuracy"),
                ("turned, weights", "turned, full", "test_digit_accuracy"),
            ],
        )
    )
