"""The first network, as the article trains it: ten epochs, 50,000 images, two heads.

Three questions. Does `Normalize(0.1307, 0.3081)` matter? Does one network with two heads answer as
well as two networks with one head each? And does a network earn its place beside a linear model?

Named before it was run:

1. shared against raw pixels, accuracy of the digit: does it matter to normalise?
2. shared against digit alone, accuracy of the digit.
3. shared against "> 5" alone, accuracy of "> 5".
4. shared against linear, accuracy of the digit.

Batch size, widths, Adam and its rate of 0.001 are the article's, for every condition: the question
is about this recipe, not about the best one. Both weights are 1, as there. The numbers are those
after five epochs; twice the steps are the article's ten.
"""

from functools import cache

import numpy as np
import torch
from torch import nn

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Split, mnist
from mtl_tutorial.metrics import scores
from mtl_tutorial.pytorch import HardSharing, fit, linear_heads, mlp, predict
from mtl_tutorial.tasks import Binary, Classification, Task

MEAN, DEVIATION = 0.1307, 0.3081  # of all pixels of MNIST's training images
DIGIT, GT5 = Classification("digit", classes=10), Binary("gt5")
BATCH = 64
EPOCH = 782  # steps: 50,000 images in batches of 64

load = cache(mnist)


@cache
def parts(source: str, normalise: bool) -> dict[str, Split]:
    """Give the data, on request with mean 0 and deviation 1."""
    data = load(source)
    found = {"train": data.train, "valid": data.valid, "test": data.test}
    if not normalise:
        return found
    return {
        name: Split((split.inputs - np.float32(MEAN)) / np.float32(DEVIATION), split.targets)
        for name, split in found.items()
    }


def train(condition: str, rate: float, seed: int, steps: int) -> dict[str, float]:
    """Train one network for so many steps and measure it, in per cent."""
    split = parts(experiments.source(), normalise=condition != "raw pixels")
    images, epochs = split["train"], steps // EPOCH
    if epochs == 0:  # a smoke run
        images, epochs = images.take(slice(steps * BATCH)), 1
    tasks: list[Task] = [DIGIT, GT5]
    if condition.endswith(" alone"):
        tasks = [task for task in tasks if condition == f"{task.name} alone"]

    torch.manual_seed(seed)
    if condition == "linear":
        model = HardSharing(nn.Flatten(), linear_heads(tasks, features=784))
    else:
        model = HardSharing(mlp(784, 512, 256), linear_heads(tasks, features=256))
    adam = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    fit(
        model,
        tasks,
        images,
        epochs=epochs,
        batch_size=BATCH,
        optimizer=adam,
        seed=seed,
        device="cpu",
    )

    found = {}
    for name in ("valid", "test"):
        outputs = predict(model, split[name].inputs)
        for metric, value in scores(tasks, outputs, split[name].targets).items():
            found[f"{name}_{metric}"] = 100 * value
    found["valid_accuracy"] = found[f"valid_{tasks[0].name}_accuracy"]
    return found


if __name__ == "__main__":
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                name: [1e-3]
                for name in ("shared", "raw pixels", "digit alone", "gt5 alone", "linear")
            },
            data=mnist,
            seeds=range(10),
            steps=5 * EPOCH,
            smoke_steps=10,
            choose_by="valid_accuracy",
            baseline="shared",
            single_task={"test_digit_accuracy": "digit alone", "test_gt5_accuracy": "gt5 alone"},
            primary=[
                ("shared", "raw pixels", "test_digit_accuracy"),
                ("shared", "digit alone", "test_digit_accuracy"),
                ("shared", "gt5 alone", "test_gt5_accuracy"),
                ("shared", "linear", "test_digit_accuracy"),
            ],
        )
    )
