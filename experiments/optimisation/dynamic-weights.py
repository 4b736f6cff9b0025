"""Do the losses choose better weights than a search does? Six rules on turned digits.

The tasks and images are those of static-weights: the digit and the angle of digits turned by up to 60
degrees. Three states: the angle in degrees, a loss that starts some 500 times as large as the digit's;
the angle standardised, as it should be; and the angle standardised while 60 per cent of the training
digits are replaced by random ones (those of validation and test stay right).

Named before it was run, each in delta_m:

1. degrees, UW against degrees, equal: do learned variances mend a unit?
2. degrees, 1/L against degrees, static: is one over the loss as good as tuned fixed weights?
3. degrees, FAMO against degrees, static: is a learned share of it better than tuned fixed weights?
4. wrong digits, UW against wrong digits, equal: does a noisy task deserve less weight?

In degrees each rule has settings of its own to choose from, elsewhere its default. Static weights have
more settings than any rule. Adam cancels a constant factor of all weights; one that grows while it
trains lengthens the steps a little. The learning rates, 0.03 in degrees and else 0.01, were the best of
a few in single runs of fixed weights. Both tasks are measured in per cent, 100 for always right: the accuracy, and the
explained share of the variance of the angles. Validation chooses by their mean; delta_m is the mean of
their relative changes against the two networks that learned one task each.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn.functional import cross_entropy, mse_loss

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, rotated
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp, mtl_backward
from mtl_tutorial.tasks import Classification, Regression
from mtl_tutorial.weighting import DWA, FAMO, RLW, UW, GradNorm, InverseLoss, Static, Weighting

TASKS = [Classification("digit", classes=10), Regression("angle")]
DEGREES = 60
SIZES = {"train": 20_000, "valid": 5_000, "test": 10_000}
IMAGES, BATCH = 10_000, 128  # each seed draws these from the 20,000
EPOCH = IMAGES // BATCH  # steps
WRONG = 0.6

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
    draw = np.random.default_rng(seed)
    pool = turned(experiments.source(), "train")
    rows = draw.permutation(len(pool[0]))[:IMAGES]
    images, digits, angles = (part[rows] for part in pool)
    if condition == "linear":
        classifier = LogisticRegression(C=0.1, max_iter=300).fit(images, digits)
        line = Ridge().fit(images, angles)
        return measured(lambda x: {"digit": classifier.predict(x), "angle": line.predict(x)})
    state, _, rule = condition.partition(", ")
    if state == "wrong digits":
        wrong = draw.random(len(digits)) < WRONG
        digits = np.where(wrong, draw.integers(10, size=len(digits)), digits)
    unit, rate = (1.0, 0.03) if state == "degrees" else (float(angles.std()), 0.01)
    x, y, a = map(torch.from_numpy, (images, digits, angles[:, None] / np.float32(unit)))

    torch.manual_seed(seed)
    model = HardSharing(mlp(196, 32, 32), linear_heads(TASKS, features=32))
    last_layer = [*model.trunk.parameters()][-2:]  # where GradNorm looks
    log_variances = torch.zeros(2, requires_grad=True)  # for "UW by Adam" only
    groups = [{"params": [*model.parameters()], "lr": rate}]
    groups += [{"params": [log_variances], "lr": setting.get("rate", 0.0)}]
    adam = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1 / steps, total_iters=steps)
    weighting = None if rule == "UW by Adam" else weighting_of(rule, setting, seed)

    def losses_of(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = model.trunk(x[batch])
        digit_loss = cross_entropy(model.heads["digit"](features), y[batch])
        angle_loss = mse_loss(model.heads["angle"](features), a[batch])
        return features, {"digit": digit_loss, "angle": angle_loss}

    for step in range(1, steps + 1):
        batch = torch.from_numpy(draw.integers(len(x), size=BATCH))
        features, losses = losses_of(batch)
        adam.zero_grad()
        if weighting is None:
            both = torch.stack([*losses.values()])
            (torch.exp(-log_variances) * both + log_variances).sum().div(2).backward()
        else:
            mtl_backward(losses, features, weighting, shared_parameters=last_layer)
        adam.step()
        schedule.step()
        if weighting is not None and weighting.needs_observe:
            with torch.no_grad():
                weighting.observe([loss.item() for loss in losses_of(batch)[1].values()])
        if weighting is not None and step % EPOCH == 0:
            weighting.end_epoch()

    @torch.no_grad()
    def answers(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(torch.from_numpy(images))
        digit, angle = outputs["digit"].argmax(1), unit * outputs["angle"][:, 0]
        return {"digit": digit.numpy(), "angle": angle.numpy()}

    found = measured(answers)
    if rule in ("digit alone", "angle alone"):  # its only setting needs no choosing
        found = {
            name: value for name, value in found.items() if rule[:5] in name or "valid" in name
        }
    return found


def weighting_of(rule: str, setting: dict[str, float], seed: int) -> Weighting:
    """Make the weighting of this name, with its setting."""
    if rule == "RLW":
        return RLW(seed=seed)
    if rule == "static":
        return Static([1, setting["weight"]])
    fixed = {"equal": [1, 1], "digit alone": [1, 0], "angle alone": [0, 1]}
    if rule in fixed:
        return Static(fixed[rule])
    learned = {"1/L": InverseLoss, "UW": UW, "DWA": DWA, "GradNorm": GradNorm, "FAMO": FAMO}
    return learned[rule](**setting)


def measured(answers: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, float]:
    """Give accuracy and explained share, in per cent, and the score that chooses."""
    found = {}
    for part in ("valid", "test"):
        images, digits, angles = turned(experiments.source(), part)
        answer = answers(images)
        error = np.square(answer["angle"] - angles).mean() / angles.var()
        found[f"{part}_digit_accuracy"] = 100 * float(np.mean(answer["digit"] == digits))
        found[f"{part}_angle_explained"] = 100 * float(1 - error)
    both = found.pop("valid_digit_accuracy"), found.pop("valid_angle_explained")
    return found | {"valid_score": sum(both) / 2}


if __name__ == "__main__":
    static = [{"weight": w} for w in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)]
    own_settings = {
        "equal": [{}],
        "static": static,
        "1/L": [{}],
        "UW": [{"lr": lr} for lr in (0.001, 0.003, 0.01, 0.025, 0.1)],
        "UW by Adam": [{"rate": rate} for rate in (0.01, 0.1)],
        "DWA": [{}],
        "RLW": [{}],
        "GradNorm": [{"lr": 0.025}, {"lr": 0.1}, {"lr": 0.1, "alpha": 0}],
        "FAMO": [{"lr": lr} for lr in (0.001, 0.025, 0.1)],
    }
    defaults: dict[str, list[dict[str, float]]]
    defaults = {name: [{}] for name in ("equal", "1/L", "UW", "DWA", "GradNorm", "FAMO")}
    defaults["static"] = [{"weight": w} for w in (0.3, 1, 3, 10, 30)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "standardised, digit alone": [{}],
                "standardised, angle alone": [{}],
                "linear": [{}],
                **{f"degrees, {rule}": own for rule, own in own_settings.items()},
                **{f"standardised, {rule}": own for rule, own in defaults.items()},
                **{f"wrong digits, {rule}": own for rule, own in defaults.items()},
            },
            data=mnist,
            seeds=range(10),
            steps=700,
            smoke_steps=10,
            choose_by="valid_score",
            baseline="degrees, static",
            single_task={
                "test_digit_accuracy": "standardised, digit alone",
                "test_angle_explained": "standardised, angle alone",
            },
            primary=[
                ("degrees, UW", "degrees, equal", "delta_m"),
                ("degrees, 1/L", "degrees, static", "delta_m"),
                ("degrees, FAMO", "degrees, static", "delta_m"),
                ("wrong digits, UW", "wrong digits, equal", "delta_m"),
            ],
        )
    )
