"""When does a second task help the first? Extra labels against the same images; partners.

The main task is the digit, known on few images, ten of each. A partner is another question about
digits: loops (how many closed loops has it?), parity (is it odd?), ink (how dark is the image?), or
labels drawn at random. Each step sees 64 images with a digit and 64 with the partner's label. They
come from a pool of 20,000 images without digits, or, as a control, from the same few images.

Named before it was run, each in accuracy of the digit with 100 labelled images:

1. loops on a pool against alone: do extra labels help?
2. loops on the same images against alone: does sharing as such help?
3. loops on a pool against loops on the same images: is the difference the labels?
4. ink on a pool against alone: does any partner with many labels help?

Beside them: the simplest model (logistic regression), tuned weights, loops learned first and the
digit afterwards, the partner alone, and other numbers of labelled images.
"""

from functools import cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy, mse_loss

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification, Regression, Task

LOOPS = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])  # of the printed digits 0 to 9
DIGIT = Classification("digit", classes=10)
PARTNERS: dict[str, Task] = {
    "loops": Classification("loops", classes=3),
    "parity": Classification("parity", classes=2),
    "ink": Regression("ink"),
    "random": Classification("random", classes=3),
}
LOSSES = dict.fromkeys(["digit", *PARTNERS], cross_entropy) | {"ink": mse_loss}
FEW = 100  # images with a digit, unless the condition says otherwise
POOL = 20_000  # images with the partner's label
VALID = 500
BATCH = 64
RATES = [5e-4, 2e-3, 8e-3]

load = cache(mnist)


@cache
def small(source: str, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Give images pooled to 14 x 14 pixels, as rows, and what can be asked about them."""
    split = getattr(load(source), name)
    images = split.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    digits, dark = split.targets["digit"], images.mean(1)
    labels = {"digit": digits, "loops": LOOPS[digits], "parity": digits % 2}
    labels["ink"] = ((dark - dark.mean()) / dark.std()).astype(np.float32)[:, None]
    labels["random"] = np.random.default_rng(0).integers(3, size=len(digits))
    return images, labels


def drawn(digits: np.ndarray, few: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `few` images to be labelled, as many of each digit, and a pool of others."""
    order = np.random.default_rng(seed).permutation(len(digits))
    labelled = np.concatenate([order[digits[order] == d][: few // 10] for d in range(10)])
    return labelled, np.setdiff1d(order, labelled, assume_unique=True)[:POOL]


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model and measure it, in per cent."""
    source = experiments.source()
    images, labels = small(source, "train")
    words = condition.split(", ")
    few = next((int(word) for word in words if word.isdigit()), FEW)
    labelled, pool = drawn(labels["digit"], few, seed)
    if words[0] == "linear":
        model = LogisticRegression(C=setting["C"], max_iter=1000)
        model.fit(images[labelled], labels["digit"][labelled])
        return {
            f"{part}_accuracy": 100 * model.score(x, y["digit"])
            for part, (x, y) in held_out(source).items()
        }
    others = labelled if "same images" in words else pool
    partner = words[0].partition(" ")[0]
    if words[0] == "alone":
        stages = [{"digit": 1.0}]
    elif words[0] == "loops alone":
        stages = [{"loops": 1.0}]
    elif words[0] == "loops first":
        stages = [{"loops": 1.0}, {"digit": 1.0}]
    else:
        stages = [{"digit": 1.0, partner: setting.get("weight", 1.0)}]

    torch.manual_seed(seed)
    tasks = [DIGIT, *(task for name, task in PARTNERS.items() if name == partner)]
    model = HardSharing(mlp(196, 64, 64), linear_heads(tasks, features=64))
    draw = np.random.default_rng(seed)
    x, y = torch.from_numpy(images), {k: torch.from_numpy(v) for k, v in labels.items()}
    for weights in stages:
        adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
        for _ in range(steps):
            batch = {
                name: torch.from_numpy(draw.choice(labelled if name == "digit" else others, BATCH))
                for name in weights
            }
            features = model.trunk(x[torch.cat([*batch.values()])]).split(BATCH)
            losses = [
                weights[name] * LOSSES[name](model.heads[name](own), y[name][batch[name]])
                for name, own in zip(weights, features, strict=True)
            ]
            adam.zero_grad()
            torch.stack(losses).sum().backward()
            adam.step()
    return measured(model, list(stages[-1]), source)


def held_out(source: str) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Give the images that choose the setting, and those that are looked at once."""
    images, labels = small(source, "valid")
    valid = images[:VALID], {name: values[:VALID] for name, values in labels.items()}
    return {"valid": valid, "test_digit": small(source, "test")}


@torch.no_grad()
def measured(model: HardSharing, tasks: list[str], source: str) -> dict[str, float]:
    """Give the share of right answers; of the last trained task where it is not the digit."""
    found = {}
    for part, (images, labels) in held_out(source).items():
        features = model.trunk(torch.from_numpy(images))
        for name in tasks:
            if name != "ink":
                right = model.heads[name](features).argmax(1).numpy() == labels[name]
                found[f"{part.removesuffix('_digit')}_{name}_accuracy"] = 100 * right.mean()
    found["valid_accuracy"] = found[f"valid_{tasks[0]}_accuracy"]
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in RATES]
    wide = [{"rate": rate} for rate in (*RATES, 1.25e-4, 2e-2)]
    weighted = [{"rate": r, "weight": w} for r in (2e-3, 8e-3) for w in (0.3, 1, 3, 10)]
    numbers = (50, 200, 800)
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "alone": wide,
                "linear": [{"C": c} for c in (0.01, 0.1, 1, 10)],
                "loops, same images": wide,
                "loops, pool": wide,
                "loops, pool, tuned weight": weighted,
                "parity, same images": rates,
                "parity, pool": rates,
                "ink, pool": wide,
                "random, pool": wide,
                "loops first": rates,
                "loops alone": rates,
                **{f"alone, {n}": rates for n in numbers},
                **{f"loops, pool, {n}": rates for n in numbers},
            },
            data=mnist,
            seeds=range(10),
            steps=1500,
            smoke_steps=10,
            choose_by="valid_accuracy",
            baseline="alone",
            primary=[
                ("loops, pool", "alone", "test_digit_accuracy"),
                ("loops, same images", "alone", "test_digit_accuracy"),
                ("loops, pool", "loops, same images", "test_digit_accuracy"),
                ("ink, pool", "alone", "test_digit_accuracy"),
            ],
        )
    )
