"""Where the sum harms a task, what does balancing gradients bring beside a tuned weight.

A rotated digit, two questions: which digit is it, and by how many degrees was it turned? The squared
error of the angle is in degrees squared, so its gradient on the trunk is much longer than that of the
digit's cross-entropy. The sum follows the angle.

Named before it was run, each in the score: the mean of the share of digits read right and the share
of the angle's variance explained. It also chooses, on validation images.

1. NashMTL against tuned static: does the scale-free bargain beat one tuned number?
2. UPGrad against tuned static: is a step that harms no task enough?
3. CAGrad against sum: does such a method help where the sum harms?
4. standardised against tuned static: does a sane unit of the angle do the same for nothing?

Beside them: MGDA, IMTL-G, Aligned-MTL (PCGrad is twice UPGrad where tasks are two); each task alone,
at the same width and with two networks of the same number of parameters together; a linear model.

In every tenth step of a shared trunk we measure, on its exact gradients g_k, whether they conflict,
whether their sum would harm a task (g_k · d < 0, beyond rounding), whether the method's direction d
does, and whether the step Δθ that Adam takes does (g_k · Δθ > 0).

Weights act on the trunk's gradients; each head follows its own loss (a constant weight on it would
cancel in Adam). Adam also divides a constant factor out of the trunk's step. So methods whose step has
the size of the sum, of the mean, or a size of its own need no learning rates of their own: all choose
from the same three. A rate falls to 0 in a straight line.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, rotated
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification, Regression
from mtl_tutorial.weighting import IMTLG, MGDA, AlignedMTL, CAGrad, NashMTL, Static, UPGrad

TASKS = [Classification("digit", classes=10), Regression("angle")]
METHODS = {each.__name__: each for each in (MGDA, UPGrad, CAGrad, IMTLG, NashMTL, AlignedMTL)}
DEGREES = 60.0
DEVIATION = DEGREES / 3**0.5  # of an angle that is uniform between -60 and 60
IMAGES, HELD_OUT = 10_000, 10_000
WIDTH, HALF = 32, 17  # two networks 17 wide have as many parameters as one 32 wide with two heads
BATCH = 64
RATES = [7e-3, 2e-2, 6e-2]
WEIGHTS = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1]  # of the angle's loss; 1 is the sum
EVERY = 10  # steps from one measurement to the next
ROUNDING = 1e-3  # a cosine so near to 0 is no harm
SHARES = ["conflict", "sum_harms", "method_harms", "step_harms"]

load = cache(mnist)


@lru_cache(maxsize=3)
def turned(source: str, part: str, count: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw images, turn them, and make each block of 2 x 2 pixels one: rows of 196 pixels."""
    split = getattr(load(source), part)
    rows = np.random.default_rng(seed).permutation(len(split))[:count]
    both = rotated(split.take(rows), DEGREES, seed)
    pixels = both.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    labels = {name: torch.from_numpy(values) for name, values in both.targets.items()}
    return torch.from_numpy(pixels), labels


@torch.no_grad()
def task_gradients(model: HardSharing, x: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
    """Fill the heads' gradients, and give each task's on the trunk as a row, shape (T, P).

    Written out, because autograd takes four times as long on so small a network.
    """
    w1, b1, w2, b2 = model.trunk.parameters()
    lower = torch.relu(torch.addmm(b1, x, w1.T))
    features = torch.relu(torch.addmm(b2, lower, w2.T))
    errors = []
    for name, head in model.heads.items():
        output = head(features)
        if name == "digit":  # of the cross-entropy
            error = output.softmax(1)
            error[torch.arange(len(x)), labels[name]] -= 1
        else:  # of the squared error
            error = 2 * (output - labels[name][:, None])
        error /= len(x)
        head.weight.grad, head.bias.grad = error.T @ features, error.sum(0)
        errors.append(error @ head.weight)
    upper = torch.stack(errors) * (features > 0)
    below = upper @ w2 * (lower > 0)
    parts = [below.mT @ x, below.sum(1), upper.mT @ lower, upper.sum(1)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def check(model: HardSharing, x: Tensor, labels: Mapping[str, Tensor], rows: Tensor) -> None:
    """Compare the gradients with those of autograd."""
    trunk, features = [*model.trunk.parameters()], model.trunk(x)
    for (name, head), row in zip(model.heads.items(), rows, strict=True):
        output = head(features)
        if name == "digit":
            loss = cross_entropy(output, labels[name])
        else:
            loss = mse_loss(output.squeeze(1), labels[name])
        own = [*trunk, head.weight, head.bias]
        # mypy knows a head of a ModuleDict only as a Module, whose attributes may be Modules.
        *there, weight, bias = torch.autograd.grad(loss, own, retain_graph=True)  # type: ignore[arg-type]
        torch.testing.assert_close(row, flat(there))
        torch.testing.assert_close([head.weight.grad, head.bias.grad], [weight, bias])


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Copy all entries into one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def harm(rows: Tensor, direction: Tensor, change: Tensor) -> list[bool]:
    """Say whether the gradients conflict, and whether sum, direction and step harm a task."""
    units = normalize(rows)
    ways = normalize(torch.stack([rows.sum(0), direction, -change]))
    harmed = (units @ ways.T < -ROUNDING).any(0)
    return [bool(units[0] @ units[1] < 0), *harmed.tolist()]


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model and measure it, in per cent."""
    source = experiments.source()
    x, y = turned(source, "train", IMAGES, seed)
    if condition == "linear":
        digit = LogisticRegression(C=setting["C"], max_iter=2000).fit(x, y["digit"])
        angle = Ridge(1 / setting["C"]).fit(x, y["angle"])
        return scored(source, lambda x: {"digit": digit.predict(x), "angle": angle.predict(x)})

    unit = DEVIATION if condition == "standardised" else 1.0
    y = {"digit": y["digit"], "angle": y["angle"] / unit}
    tasks = [task for task in TASKS if condition.startswith(f"{task.name} alone")] or TASKS
    shared = len(tasks) == 2
    method = METHODS.get(condition)
    weighting = method() if method else Static([1.0, setting.get("weight", 1.0)][: len(tasks)])

    torch.manual_seed(seed)
    width = HALF if condition.endswith("half") else WIDTH
    model = HardSharing(mlp(196, width, width), linear_heads(tasks, features=width))
    trunk = [*model.trunk.parameters()]
    direction = torch.zeros(sum(parameter.numel() for parameter in trunk))
    parts = direction.split([parameter.numel() for parameter in trunk])
    for parameter, part in zip(trunk, parts, strict=True):
        parameter.grad = part.view_as(parameter)  # what is written to the direction is there
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    draw, seen = np.random.default_rng(seed), []
    for step in range(steps):
        drawn = torch.from_numpy(draw.integers(len(x), size=BATCH))
        batch = {name: own[drawn] for name, own in y.items()}
        rows = task_gradients(model, x[drawn], batch)
        if step == 0:
            check(model, x[drawn], batch, rows)
        weights = weighting([0.0] * len(tasks), (rows @ rows.T).numpy())
        torch.mm(torch.from_numpy(weights[None]).float(), rows, out=direction[None])
        adam.param_groups[0]["lr"] = setting["rate"] * (1 - step / steps)
        before = flat(trunk) if shared and step % EVERY == 0 else None
        adam.step()
        if before is not None:
            seen.append(harm(rows, direction, flat(trunk) - before))

    @torch.no_grad()
    def predict(x: Tensor) -> dict[str, np.ndarray]:
        outputs = {name: head(model.trunk(x)).numpy() for name, head in model.heads.items()}
        if "digit" in outputs:
            outputs["digit"] = outputs["digit"].argmax(1)
        if "angle" in outputs:
            outputs["angle"] = unit * outputs["angle"][:, 0]
        return outputs

    found = scored(source, predict)
    if shared:
        shares = 100 * np.mean(seen, axis=0)
        found |= {name: round(float(own), 1) for name, own in zip(SHARES, shares, strict=True)}
    return found


def scored(source: str, predict: Callable[[Tensor], Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Give the share of right digits, the explained share of the angle's variance, and their mean."""
    found = {}
    for part in ("valid", "test"):
        x, labels = turned(source, part, HELD_OUT, 0)
        shares = {}
        for name, said in predict(x).items():
            label = labels[name].numpy()
            if name == "digit":
                shares["digit_accuracy"] = 100 * (said == label).mean()
            else:
                shares["angle_explained"] = 100 * (1 - ((said - label) ** 2).mean() / label.var())
        score = np.mean([*shares.values()])
        if part == "valid":
            found["valid_score"] = score  # of the own task, where there is one only
        else:
            found |= {f"test_{name}": share for name, share in shares.items()}
            found |= {"test_score": score} if len(shares) == 2 else {}
    return {name: round(float(value), 2) for name, value in found.items()}


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in RATES]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "linear": [{"C": c} for c in (0.01, 0.1, 1)],
                "digit alone": rates,
                "angle alone": rates,
                "digit alone, half": rates,
                "angle alone, half": rates,
                "sum": rates,
                "tuned static": [{"rate": r, "weight": w} for w in WEIGHTS for r in RATES],
                "standardised": rates,
                **dict.fromkeys(METHODS, rates),
            },
            data=mnist,
            seeds=range(10),
            steps=1000,
            smoke_steps=10,
            choose_by="valid_score",
            baseline="sum",
            single_task={
                "test_digit_accuracy": "digit alone",
                "test_angle_explained": "angle alone",
            },
            primary=[
                ("NashMTL", "tuned static", "test_score"),
                ("UPGrad", "tuned static", "test_score"),
                ("CAGrad", "sum", "test_score"),
                ("standardised", "tuned static", "test_score"),
            ],
        )
    )
