"""The life of a network: from an encoder of somebody else's to a small network in use.

Pictures are turned digits; two tasks: which digit, and by which angle it is turned. Five stages.

- Begin: 100 labelled pictures of the digits 5 to 9. An encoder was trained on clothing, on the digits
  0 to 4, or on these and their angles. It is frozen, or trained on: at the rate of the heads, or for
  the last encoder also at a smaller one.
- Augment: 300 labelled pictures of all digits, resized or turned as they are drawn. A turned picture
  keeps its digit, and its angle is another: "turned stale" leaves the label as it was.
- Update: a network knows the digits 0 to 4, then 3,000 pictures of 5 to 9 arrive. It is trained on
  these only, or half on these and half on 100 kept pictures, or anew on all.
- Prune: of the trunk's weights the smallest are set to 0; the rest is trained on, or is not.
- Distil: two wide networks, each taught one task, teach a narrow one for both. It has about as many
  parameters as the wide one that is pruned to 8 %. In the last two stages no picture has both labels:
  4,000 have a digit, 4,000 others an angle.

Accuracy in per cent, the error of the angle in degrees (mean absolute), and the score: the mean of the
accuracy and of the share of the angle's variance that is explained, in per cent.

Named before it was run, in the score:

1. one rate, two-task encoder against scratch: does it pay to begin with an encoder?
2. turned against both: does it pay to turn the pictures, and their labels with them?
3. replay against new only: do 100 kept pictures save what was known?
4. narrow, two teachers against narrow, both: are teachers better than labels?

Beside them: each task alone, tuned weights, a linear model. The validation pictures that choose a
setting are 500, more than the labelled ones of the first two stages. Rates were tried with a seed
outside the plan.
"""

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn
from torch.nn.functional import (
    affine_grid,
    avg_pool2d,
    cross_entropy,
    grid_sample,
    mse_loss,
    softmax,
)

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, fashion_mnist, mnist, rotated
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification, Regression

TASKS = [Classification("digit", classes=10), Regression("angle")]
NAMES = ("digit", "angle")
ROWS = {"train": 16_000, "valid": 1500, "test": 5000}
DEGREES = 30.0  # the largest angle
UNIT = DEGREES / math.sqrt(3)  # its deviation, in which the angle is learned
OLD, NEW, EVERY = range(5), range(5, 10), range(10)
FEW, SOME, MANY, PLENTY = 100, 300, 3000, 8000  # labelled pictures
METRICS = "digit_accuracy", "angle_error"
KEPT = 100  # old ones
VALID = 500
BATCH = 64
WIDE, NARROW = 128, 16
RATE = 1e-2  # of what is trained before the stage begins

Labels = dict[str, Tensor]
Batch = tuple[Tensor, Labels]
Setting = dict[str, float]
Model = HardSharing


def small(images: Tensor) -> Tensor:
    """Give pictures of 28 x 28 pixels as rows of 14 x 14."""
    return avg_pool2d(images[:, None], 2).flatten(1)


@cache
def pictures(source: str) -> Dataset:
    """Give turned digits, and as many pictures of clothing."""
    digits, clothing, parts = mnist(source), fashion_mnist(source), {}
    for seed, (name, most) in enumerate(ROWS.items()):
        both = getattr(digits, name), getattr(clothing, name)
        upright, clothes = (own.take(slice(min(most, *map(len, both)))) for own in both)
        turned = rotated(upright, DEGREES, seed)
        inputs = {"digits": turned.inputs, "clothing": clothes.inputs}
        parts[name] = Split(inputs, {**turned.targets, "clothing": clothes.targets["clothing"]})
    return Dataset("turned MNIST, and Fashion-MNIST", digits.source, **parts)


class Part(NamedTuple):
    """Pictures as tensors; the angle in its deviation."""

    large: Tensor
    rows: Tensor
    digit: Tensor
    angle: Tensor


@cache
def part(name: str) -> Part:
    """Give the turned pictures of training, validation or test."""
    split = getattr(pictures(experiments.source()), name)
    large = torch.from_numpy(split.inputs["digits"])
    digit, angle = (torch.from_numpy(split.targets[task.name]) for task in TASKS)
    return Part(large, small(large), digit, angle[:, None] / UNIT)


def drawn(digits: range, count: int, seed: int) -> np.ndarray:
    """Draw training pictures of some digits."""
    own = np.flatnonzero(np.isin(part("train").digit.numpy(), digits))
    return np.random.default_rng(seed).permutation(own)[:count]


def network(width: int, seed: int) -> Model:
    """Build a trunk of two layers and two heads."""
    torch.manual_seed(seed)
    return HardSharing(mlp(196, width, width), linear_heads(TASKS, features=width))


def learn(
    model: Model,
    batch: Callable[[np.random.Generator], Batch],
    setting: Setting,
    steps: int,
    seed: int,
    *,
    mask: list[Tensor] | None = None,
) -> Model:
    """Train with Adam, its rate falling to 0. A label may be missing; `mask` keeps weights at 0."""
    draw = np.random.default_rng([seed, 1])
    factor, weight = setting.get("encoder", 1.0), setting.get("weight", 1.0)
    model.trunk.requires_grad_(factor > 0)
    groups = [{"params": model.trunk.parameters()}, {"params": model.heads.parameters()}]
    adam = torch.optim.Adam(groups, lr=setting["rate"], fused=True)
    for step in range(steps):
        for group, own in zip(adam.param_groups, (factor, 1.0), strict=True):
            group["lr"] = own * setting["rate"] * (1 - step / steps)
        x, y = batch(draw)
        features, loss = model.trunk(x), torch.zeros(())
        if "digit" in y:  # classes, -1 where missing, or a teacher's probabilities
            loss = loss + cross_entropy(model.heads["digit"](features), y["digit"], ignore_index=-1)
        if "angle" in y:
            there = ~y["angle"].isnan()[:, 0]
            loss = loss + weight * mse_loss(
                model.heads["angle"](features[there]), y["angle"][there]
            )
        adam.zero_grad()
        loss.backward()
        adam.step()
        if mask:
            with torch.no_grad():
                for weights, keep in zip(matrices(model), mask, strict=True):
                    weights.mul_(keep)
    return model


def labelled(rows: np.ndarray, tasks: tuple[str, ...] = NAMES) -> Callable[..., Batch]:
    """Draw batches of some training pictures, with the labels of some tasks."""
    train = part("train")

    def batch(draw: np.random.Generator) -> Batch:
        own = torch.from_numpy(draw.choice(rows, BATCH))
        return train.rows[own], {task: getattr(train, task)[own] for task in tasks}

    return batch


# Begin ------------------------------------------------------------------------------------------


@cache
def encoder(kind: str, seed: int, steps: int) -> dict[str, Tensor]:
    """Train an encoder on clothing, on the old digits, or on these and their angles."""
    batch = labelled(drawn(OLD, PLENTY, seed), NAMES if kind == "two-task" else ("digit",))
    if kind == "clothing":
        split = pictures(experiments.source()).train
        x = small(torch.from_numpy(split.inputs["clothing"]))
        y = torch.from_numpy(split.targets["clothing"])

        def batch(draw: np.random.Generator) -> Batch:
            own = torch.from_numpy(draw.integers(len(x), size=BATCH))
            return x[own], {"digit": y[own]}

    model = learn(network(WIDE, seed), batch, {"rate": RATE}, steps, seed)
    return model.trunk.state_dict()


def begun(condition: str, setting: Setting, seed: int, steps: int) -> Model:
    """Train on few pictures, beginning with an encoder or without."""
    model = network(WIDE, seed + 100)
    if "encoder" in condition:
        kind = condition.split(", ")[1].removesuffix(" encoder")
        model.trunk.load_state_dict(encoder(kind, seed, steps))
    if condition.startswith("frozen"):
        setting = {**setting, "encoder": 0.0}
    return learn(model, labelled(drawn(NEW, FEW, seed)), setting, steps, seed)


# Augment ----------------------------------------------------------------------------------------


def augmented(rows: np.ndarray, how: str) -> Callable[..., Batch]:
    """Draw batches of pictures that are turned by up to 30 degrees, or resized by up to a fifth."""
    train = part("train")

    def batch(draw: np.random.Generator) -> Batch:
        own = torch.from_numpy(draw.choice(rows, BATCH))
        size = draw.uniform(0.8, 1.2, BATCH) if how == "resized" else np.ones(BATCH)
        by = draw.uniform(-DEGREES, DEGREES, BATCH) if "turned" in how else np.zeros(BATCH)
        cosine, sine = np.cos(np.radians(by)) / size, np.sin(np.radians(by)) / size
        none = np.zeros(BATCH)
        where = np.array([[cosine, -sine, none], [sine, cosine, none]], np.float32)
        grid = affine_grid(
            torch.from_numpy(where).permute(2, 0, 1), [BATCH, 1, 28, 28], align_corners=False
        )
        images = grid_sample(train.large[own][:, None], grid, align_corners=False)[:, 0]
        angle = train.angle[own]
        if how == "turned":
            angle = angle + torch.from_numpy(by[:, None] / UNIT).float()
        return small(images), {"digit": train.digit[own], "angle": angle}

    return batch


def tuned(condition: str, setting: Setting, seed: int, steps: int) -> Model | list[Model]:
    """Train on some pictures of all digits."""
    rows = drawn(EVERY, SOME, seed)
    if condition == "alone":
        return [
            learn(network(WIDE, seed), labelled(rows, (task,)), setting, steps, seed)
            for task in NAMES
        ]
    batch = labelled(rows) if condition.startswith("both") else augmented(rows, condition)
    return learn(network(WIDE, seed), batch, setting, steps, seed)


# Update -----------------------------------------------------------------------------------------


@cache
def before(seed: int, steps: int) -> Model:
    """Train on the old digits."""
    batch = labelled(drawn(OLD, MANY, seed))
    return learn(network(WIDE, seed), batch, {"rate": RATE}, steps, seed)


def updated(condition: str, setting: Setting, seed: int, steps: int) -> Model:
    """Train on the new digits, with old ones or without."""
    old, new = drawn(OLD, MANY, seed), drawn(NEW, MANY, seed)
    if condition == "before the update":
        return before(seed, steps)
    if condition == "anew on all":
        batch = labelled(np.concatenate([old, new]))
        return learn(network(WIDE, seed), batch, setting, 2 * steps, seed)
    if condition == "replay":
        new = np.concatenate([new, np.resize(old[:KEPT], len(new))])
    return learn(copy.deepcopy(before(seed, steps)), labelled(new), setting, steps, seed)


# Prune and distil -------------------------------------------------------------------------------


def halves(tasks: tuple[str, ...], seed: int) -> Callable[..., Batch]:
    """Draw batches of pictures of which half have a digit, and half an angle."""
    train, rows = part("train"), drawn(EVERY, PLENTY, seed)
    halved = dict(zip(NAMES, np.array_split(rows, 2), strict=True))

    def batch(draw: np.random.Generator) -> Batch:
        own = torch.from_numpy(np.concatenate([draw.choice(halved[task], BATCH) for task in tasks]))
        y = {"digit": train.digit[own].clone(), "angle": train.angle[own].clone()}
        if len(tasks) == 1:
            return train.rows[own], {tasks[0]: y[tasks[0]]}
        y["digit"][BATCH:] = -1
        y["angle"][:BATCH] = math.nan
        return train.rows[own], y

    return batch


@cache
def taught(tasks: tuple[str, ...], seed: int, steps: int) -> Model:
    """Train a wide network that others are made of."""
    return learn(network(WIDE, seed), halves(tasks, seed), {"rate": RATE}, steps, seed)


def answers(seed: int, steps: int) -> Callable[..., Batch]:
    """Draw batches of all these pictures, with two teachers' answers in the place of labels."""
    x = part("train").rows[torch.from_numpy(drawn(EVERY, PLENTY, seed))]
    teachers = [taught((task,), seed, steps) for task in NAMES]
    with torch.no_grad():
        digit, angle = softmax(teachers[0](x)["digit"], dim=1), teachers[1](x)["angle"]

    def batch(draw: np.random.Generator) -> Batch:
        own = torch.from_numpy(draw.integers(len(x), size=2 * BATCH))
        return x[own], {"digit": digit[own], "angle": angle[own]}

    return batch


def matrices(model: Model) -> list[nn.Parameter]:
    """Give the trunk's matrices, of which weights are pruned."""
    return [own for own in model.trunk.parameters() if own.ndim == 2]


@torch.no_grad()
def pruned(model: Model, share: float) -> list[Tensor]:
    """Set all but the largest weights of the trunk to 0, in place; give a mask of what stays."""
    sizes = torch.cat([own.abs().flatten() for own in matrices(model)])
    least = sizes.sort(descending=True).values[round(share * len(sizes)) - 1]
    mask = [(own.abs() >= least).float() for own in matrices(model)]
    for own, keep in zip(matrices(model), mask, strict=True):
        own.mul_(keep)
    return mask


def lightened(condition: str, setting: Setting, seed: int, steps: int) -> Model | list[Model]:
    """Train wide and narrow networks, prune, distil."""
    name, _, how = condition.partition(", ")
    if name.startswith("pruned"):
        model = copy.deepcopy(taught(NAMES, seed, steps))
        mask = pruned(model, float(name.split()[2]) / 100)
        if how:
            learn(model, halves(NAMES, seed), setting, steps // 2, seed, mask=mask)
        return model
    if name == "wide":
        split = [NAMES] if how == "both" else [(task,) for task in NAMES]
        networks = [taught(tasks, seed, steps) for tasks in split]
        return networks[0] if how == "both" else networks
    if how == "alone":
        return [
            learn(network(NARROW, seed), halves((task,), seed), setting, steps, seed)
            for task in NAMES
        ]
    batch = halves(NAMES, seed) if how == "both" else answers(seed, steps)
    return learn(network(NARROW, seed), batch, setting, steps, seed)


# All --------------------------------------------------------------------------------------------


def linear(rows: np.ndarray, setting: Setting) -> Callable[[Tensor], Labels]:
    """Fit logistic regression and ridge regression."""
    train, own = part("train"), torch.from_numpy(rows)
    x = train.rows[own].numpy()
    digit = LogisticRegression(C=setting["C"], max_iter=1000).fit(x, train.digit[own].numpy())
    angle = Ridge(alpha=1 / setting["C"]).fit(x, train.angle[own].numpy())

    def say(x: Tensor) -> Labels:
        scores = np.full((len(x), 10), -np.inf)
        scores[:, digit.classes_] = digit.predict_proba(x.numpy())
        said = angle.predict(x.numpy()).reshape(-1, 1)
        return {"digit": torch.from_numpy(scores), "angle": torch.from_numpy(said)}

    return say


@torch.no_grad()
def measured(say: Callable[[Tensor], Labels], digits: range) -> dict[str, float]:
    """Measure answers on pictures of some digits."""
    found = {}
    for name in ("valid", "test"):
        own = part(name)
        rows = torch.from_numpy(np.flatnonzero(np.isin(own.digit.numpy(), digits)))
        rows = rows[:VALID] if name == "valid" else rows
        said, digit, angle = say(own.rows[rows]), own.digit[rows], own.angle[rows]
        right = (said["digit"].argmax(1) == digit).double()
        away = (said["angle"] - angle)[:, 0].double()
        found[f"{name}_score"] = 50 * (right.mean() + 1 - away.square().mean()).item()
        if name == "test":
            found["test_digit_accuracy"] = 100 * right.mean().item()
            found["test_angle_error"] = UNIT * away.abs().mean().item()
    return found


STAGES: dict[str, Callable[..., Model | list[Model]]] = {
    **dict.fromkeys(["scratch", "frozen", "one rate", "small rate"], begun),
    **dict.fromkeys(["alone", "both", "resized", "turned", "turned stale"], tuned),
    **dict.fromkeys(["before the update", "new only", "replay", "anew on all"], updated),
}


def train(condition: str, setting: Setting, seed: int, steps: int) -> dict[str, float]:
    """Take one network through one stage, and measure both tasks."""
    name = condition.partition(", ")[0]
    digits = NEW if name in ("scratch", "frozen", "one rate", "small rate") else EVERY
    if name == "linear":
        digits, count = (NEW, FEW) if condition.endswith("few") else (EVERY, SOME)
        return measured(linear(drawn(digits, count, seed), setting), digits)
    model = STAGES.get(name, lightened)(condition, setting, seed, steps)
    if isinstance(model, list):
        one, other = model
        return measured(lambda x: {"digit": one(x)["digit"], "angle": other(x)["angle"]}, digits)
    found = measured(model, digits)
    if STAGES.get(name) is updated:
        for when, some in (("old", OLD), ("new", NEW)):
            own = measured(model, some)
            found |= {f"test_{when}_{of}": own[f"test_{of}"] for of in METRICS}
    return found


if __name__ == "__main__":
    low, mid, high = ([{"rate": rate}] for rate in (1e-3, 3e-3, 1e-2))
    highest = [{"rate": 3e-2}]
    smaller = [{"rate": rate, "encoder": e} for rate in (3e-3, 1e-2) for e in (0.1, 0.3)]
    weighted = [{"rate": 1e-2, "weight": weight} for weight in (0.3, 3.0)]
    inverse = [{"C": c} for c in (0.01, 0.1, 1.0, 10.0)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "both": mid + high + highest,
                "both, tuned weights": weighted,
                "alone": mid + high,
                "resized": mid + high,
                "turned": low + mid + high,
                "turned stale": mid + high,
                "linear": inverse,
                "scratch": mid + high + highest,
                "frozen, clothing encoder": high + highest,
                "frozen, digit encoder": high + highest,
                "frozen, two-task encoder": high + highest,
                "one rate, clothing encoder": mid + high,
                "one rate, digit encoder": mid + high,
                "one rate, two-task encoder": low + mid + high,
                "small rate, two-task encoder": smaller,
                "linear, few": inverse,
                "before the update": high,
                "new only": mid + high,
                "replay": mid + high,
                "anew on all": high,
                "wide, both": high,
                "wide, alone": high,
                **{f"pruned to {share} %": high for share in (50, 25, 8, 4)},
                **{f"pruned to {share} %, trained on": mid for share in (8, 4)},
                "narrow, alone": high,
                "narrow, both": high + highest,
                "narrow, two teachers": high + highest,
            },
            data=pictures,
            seeds=range(10),
            steps=400,
            smoke_steps=8,
            choose_by="valid_score",
            baseline="both",
            primary=[
                ("one rate, two-task encoder", "scratch", "test_score"),
                ("turned", "both", "test_score"),
                ("replay", "new only", "test_score"),
                ("narrow, two teachers", "narrow, both", "test_score"),
            ],
        )
    )
