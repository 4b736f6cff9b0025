"""What does a unit cost, and what mends it, a weight or another unit? Turned digits.

Digits turned by up to 60 degrees, pooled to 14 x 14 pixels, 10,000 of them. One task reads the digit
(cross-entropy), the other the angle (squared error). The angle is given in degrees, which makes its
loss start some 500 times as large, or standardised: divided by the deviation of its labels.

Named before it was run:

1. degrees, equal against digit alone, accuracy of the digit: what does the unit cost?
2. degrees, tuned against digit alone, accuracy of the digit: does a weight repay it?
3. standardised, equal against degrees, tuned, delta_m: is the other unit better than the best weight?
4. standardised, tuned against standardised, equal, delta_m: does tuning pay after standardising?

Beside them: a linear model; and few digits, where only 500 images have their digit and all have their
angle, to ask rules of thumb by the number of labels. A weight is that of the angle, beside 1 for the
digit: Adam cancels what is common to both. Both tasks are measured in per cent, 100 for always right:
the accuracy, and the explained share of the variance of the angles. Validation chooses by their mean.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn.functional import cross_entropy, mse_loss

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, rotated
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification, Regression

TASKS = [Classification("digit", classes=10), Regression("angle")]
DEGREES = 60
SIZES = {"train": 20_000, "valid": 5_000, "test": 10_000}
IMAGES, FEW = 10_000, 500  # each seed draws these from the 20,000
BATCH = 128

load = cache(mnist)


@cache
def turned(source: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give turned images of 14 x 14 pixels, as rows, with digits and angles in degrees."""
    split = rotated(
        getattr(load(source), name).take(slice(SIZES[name])), DEGREES, seed=list(SIZES).index(name)
    )
    images = split.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    return images, split.targets["digit"], split.targets["angle"]


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model and measure it, in per cent."""
    source = experiments.source()
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(turned(source, "train")[0]))[:IMAGES]
    images, digits, angles = (part[rows] for part in turned(source, "train"))
    unit = 1.0 if condition.startswith("degrees") else float(angles.std())
    if condition == "linear":
        classifier = LogisticRegression(C=0.1, max_iter=300).fit(images, digits)
        line = Ridge().fit(images, angles)
        return measured(lambda x: {"digit": classifier.predict(x), "angle": line.predict(x)})
    x, y, a = map(torch.from_numpy, (images, digits.copy(), angles[:, None] / np.float32(unit)))
    if condition.startswith("few"):
        y[FEW:] = -1  # no label

    torch.manual_seed(seed)
    model = HardSharing(mlp(196, 32, 32), linear_heads(TASKS, features=32))
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    digit_weight, angle_weight = 1.0, setting.get("weight", 1.0)
    if condition == "digit alone":
        angle_weight = 0.0
    if condition == "angle alone":
        digit_weight = 0.0
    for step in range(steps):
        adam.param_groups[0]["lr"] = setting["rate"] * (1 - step / steps)
        batch = torch.from_numpy(draw.integers(len(x), size=BATCH))
        features = model.trunk(x[batch])
        own, labelled = y[batch], (y[batch] >= 0).sum().clamp(min=1)
        output = model.heads["digit"](features)
        digit_loss = cross_entropy(output, own, ignore_index=-1, reduction="sum") / labelled
        angle_loss = mse_loss(model.heads["angle"](features), a[batch])
        adam.zero_grad()
        (digit_weight * digit_loss + angle_weight * angle_loss).backward()
        adam.step()

    @torch.no_grad()
    def answers(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(torch.from_numpy(images))
        digit, angle = outputs["digit"].argmax(1), unit * outputs["angle"][:, 0]
        return {"digit": digit.numpy(), "angle": angle.numpy()}

    found = measured(answers)
    if condition.endswith("alone"):
        found = {name: value for name, value in found.items() if condition[:5] in name}
        found["valid_score"] = next(iter(found.values()))
    if condition.startswith("few"):  # not to be compared with the others
        found = {name.replace("test_", "test_few_"): value for name, value in found.items()}
    return found


def measured(answers: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, float]:
    """Give accuracy and explained share, in per cent, and the score that chooses."""
    found = {}
    for part in ("valid", "test"):
        images, digits, angles = turned(experiments.source(), part)
        answer = answers(images)
        error = np.square(answer["angle"] - angles).mean() / angles.var()
        found[f"{part}_digit_accuracy"] = 100 * float(np.mean(answer["digit"] == digits))
        found[f"{part}_angle_explained"] = 100 * float(1 - error)
    both = found["valid_digit_accuracy"], found["valid_angle_explained"]
    return found | {"valid_score": sum(both) / 2}


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (0.003, 0.01, 0.03, 0.1)]
    higher = [{"rate": rate} for rate in (0.01, 0.03, 0.1)]  # a head has to grow to degrees
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "digit alone": rates,
                "angle alone": rates,
                "linear": [{}],
                "degrees, equal": higher,
                "degrees, tuned": [
                    own | {"weight": w} for own in higher for w in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
                ],
                "standardised, equal": rates,
                "standardised, tuned": [
                    own | {"weight": w} for own in rates for w in (0.3, 1, 3, 10, 30)
                ],
                "few digits, tuned": [{"rate": 0.01, "weight": w} for w in (0.05, 0.3, 1, 3, 20)],
            },
            data=mnist,
            seeds=range(10),
            steps=800,
            smoke_steps=10,
            choose_by="valid_score",
            baseline="standardised, equal",
            single_task={
                "test_digit_accuracy": "digit alone",
                "test_angle_explained": "angle alone",
            },
            primary=[
                ("degrees, equal", "digit alone", "test_digit_accuracy"),
                ("degrees, tuned", "digit alone", "test_digit_accuracy"),
                ("standardised, equal", "degrees, tuned", "delta_m"),
                ("standardised, tuned", "standardised, equal", "delta_m"),
            ],
        )
    )
