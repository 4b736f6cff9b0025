"""What does a wrong loss cost? Two mistakes in a classifier, and 1 - IoU from two starts.

*Digits.* One trunk, two heads, 5000 images of MNIST: which digit, and is it greater than 5? The
mended network gives each head's logits to the loss that fits. "two softmaxes" applies the softmax in
the head and once more in the loss. "a loss of 0" has the gradient that Keras gives the second head
when a categorical cross-entropy meets a single sigmoid unit: the loss reads 0, its gradient does not.

*Boxes.* A digit lies somewhere on a canvas of 36 x 36 pixels; a network gives the corners of the box
around its ink. It trains on the squared error of the corners, on 1 - IoU, or on the GIoU loss. At the
start all its boxes are alike: "corner" is a small one in the upper left corner of the canvas, which
meets few of the true ones; "centre" is one that covers the middle half of each side, and meets all.

Named before it was run:

1. two softmaxes against mended, in accuracy of the digit;
2. a loss of 0 against mended, in the same;
3. 1 - IoU against GIoU from the corner, in mean IoU on test images (per cent);
4. 1 - IoU against GIoU from the centre, in the same.

Beside them: the digit's loss with a weight (does that mend two softmaxes?), each task alone, a linear
model for the digits and one for the boxes.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist
from mtl_tutorial.metrics import iou
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification

DIGIT, GT5 = Classification("digit", classes=10), Binary("gt5")
BATCH = 50
FEW = 5000  # images to learn digits from
CANVAS, CANVASES = 36, {"train": 10_000, "valid": 2000, "test": 5000}
STARTS = {"corner": [0.0, 0.0, 0.1, 0.1], "centre": [0.25, 0.25, 0.75, 0.75]}

load = cache(mnist)


@cache
def images(source: str, name: str) -> tuple[Tensor, Tensor]:
    """Give images pooled to 14 x 14 pixels, as rows, and their digits."""
    split = getattr(load(source), name)
    small = split.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    return torch.from_numpy(small), torch.from_numpy(split.targets["digit"])


@cache
def canvases(source: str, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Put digits anywhere; 18 x 18 pixels, as rows, and the box of the ink as shares of a side."""
    split = getattr(load(source), name)
    draw, n = np.random.default_rng([seed, len(name)]), CANVASES[name]
    rows, places = draw.integers(len(split), size=n), draw.integers(CANVAS - 27, size=(n, 2))
    canvas, boxes = np.zeros((n, CANVAS, CANVAS), np.float32), np.zeros((n, 4), np.float32)
    for i, (row, (x, y)) in enumerate(zip(rows, places, strict=True)):
        canvas[i, y : y + 28, x : x + 28] = split.inputs[row]
        down, across = (np.flatnonzero(canvas[i].max(axis) > 0.25) for axis in (1, 0))
        boxes[i] = across[0], down[0], across[-1] + 1, down[-1] + 1
    small = canvas.reshape(n, 18, 2, 18, 2).mean((2, 4)).reshape(n, 324)
    return torch.from_numpy(small), torch.from_numpy(boxes / CANVAS)


def overlap_loss(box: Tensor, truth: Tensor, hull_term: float) -> Tensor:
    """Give the mean of 1 - IoU, or with the term of the hull that of the GIoU loss."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(1)

    low, high, true_low, true_high = box[:, :2], box[:, 2:], truth[:, :2], truth[:, 2:]
    common = area(torch.maximum(low, true_low), torch.minimum(high, true_high))
    union = area(low, high) + area(true_low, true_high) - common
    loss = 1 - common / union
    if hull_term:
        hull = area(torch.minimum(low, true_low), torch.maximum(high, true_high))
        loss = loss + hull_term * (hull - union) / hull
    return loss.mean()


PULLS = {
    "1 - IoU": lambda box, truth: overlap_loss(box, truth, 0.0),
    "GIoU": lambda box, truth: overlap_loss(box, truth, 1.0),
    "squared": lambda box, truth: (box - truth).square().mean(),
}


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one network and measure it: accuracies, or the mean IoU, in per cent."""
    torch.manual_seed(seed)
    if condition.endswith((", corner", ", centre")):
        return boxes(condition, setting["rate"], seed, steps)
    x, digits = images(experiments.source(), "train")
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:FEW])
    if condition == "linear":
        model = HardSharing(nn.Identity(), linear_heads([DIGIT, GT5], features=196))
    else:
        model = HardSharing(mlp(196, 64), linear_heads([DIGIT, GT5], features=64))
    for batch in descend(model, setting["rate"], len(rows), seed, steps):
        some = rows[batch]
        output = model(x[some])
        if condition.startswith("two softmaxes"):
            output["digit"] = output["digit"].softmax(1)
        digit = cross_entropy(output["digit"], digits[some])
        yes, logit = (digits[some] > 5).float(), output["gt5"][:, 0]
        gt5 = binary_cross_entropy_with_logits(logit, yes)
        if condition == "a loss of 0":
            gt5 = ((1 - yes) * logit).mean()
        digit = setting.get("weight", 1.0) * digit * (condition != "gt5 alone")
        (digit + gt5 * (condition != "digit alone")).backward()
    found = {}
    for part in ("valid", "test"):
        x, digits = images(experiments.source(), part)
        with torch.no_grad():
            output = model(x)
        digit = (output["digit"].argmax(1) == digits).float().mean()
        gt5 = ((output["gt5"][:, 0] > 0) == (digits > 5)).float().mean()
        if condition != "gt5 alone":
            found[f"{part}_digit_accuracy"] = 100 * digit.item()
        if condition not in {"digit alone", "a loss of 0"}:
            found[f"{part}_gt5_accuracy"] = 100 * gt5.item()
    found["valid_score"] = found.get("valid_digit_accuracy", found.get("valid_gt5_accuracy", 0.0))
    return found


def boxes(condition: str, rate: float, seed: int, steps: int) -> dict[str, float]:
    """Train a network for boxes, from a start at which all its boxes are alike."""
    loss, start = condition.split(", ")
    x, truth = canvases(experiments.source(), "train", seed)
    head = nn.Linear(324 if loss == "linear" else 64, 4)
    with torch.no_grad():
        head.weight.mul_(0.01)
        head.bias.copy_(torch.tensor(STARTS[start]))
    trunk = nn.Identity() if loss == "linear" else mlp(324, 64, 64)
    model = HardSharing(trunk, {"box": head})
    pull = PULLS["squared" if loss == "linear" else loss]
    for batch in descend(model, rate, len(x), seed, steps):
        # PULLS holds lambdas, which have no types.
        pull(model(x[batch])["box"], truth[batch]).backward()  # type: ignore[no-untyped-call]
    found = {}
    for part in ("valid", "test"):
        x, truth = canvases(experiments.source(), part, 0)
        with torch.no_grad():
            given = model(x)["box"]
        found[f"{part}_iou"] = 100 * float(iou(given.numpy(), truth.numpy()).mean())
    return {**found, "valid_score": found["valid_iou"]}


def descend(model: nn.Module, rate: float, n: int, seed: int, steps: int) -> Iterator[Tensor]:
    """Give batches of rows, and step after each; the learning rate falls to 0 in a straight line."""
    adam = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        adam.zero_grad()
        yield torch.randint(n, (BATCH,), generator=draw)
        adam.step()


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (3e-3, 1e-2, 3e-2)]
    lower = [{"rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    weighted = [{"rate": 3e-2, "weight": weight} for weight in (3.0, 10.0)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "mended": rates,
                "two softmaxes": rates,
                "two softmaxes, weighted": weighted,
                "a loss of 0": [{"rate": 3e-4}, *lower],
                "digit alone": rates[2:],
                "gt5 alone": rates[2:],
                "linear": rates[2:],
                "1 - IoU, corner": lower,
                "GIoU, corner": lower,
                "1 - IoU, centre": lower,
                "GIoU, centre": lower,
                "squared, corner": lower[1:],
                "squared, centre": lower[1:],
                "linear, centre": lower[1:2],
            },
            data=mnist,
            seeds=range(10),
            steps=600,
            smoke_steps=5,
            choose_by="valid_score",
            baseline="mended",
            primary=[
                ("two softmaxes", "mended", "test_digit_accuracy"),
                ("a loss of 0", "mended", "test_digit_accuracy"),
                ("1 - IoU, corner", "GIoU, corner", "test_iou"),
                ("1 - IoU, centre", "GIoU, centre", "test_iou"),
            ],
        )
    )
