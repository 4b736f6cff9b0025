"""Does conflict between two real tasks matter, and does it pay to repair it? Overlapping digits.

One task is the left digit, the other the right one. Neither tells anything about the other, each is
noise for the other, and they share a narrow trunk, one hidden layer of 64. If two real tasks get
into each other's way, these should.

Named before it was run, each in mean accuracy of the two tasks:

1. equal against alone (two networks, each of the same width): what does sharing cost?
2. PCGrad against tuned static weights: does it pay to repair conflict?
3. MGDA against tuned static weights.
4. equal against linear: does the network earn its place?

UPGrad is not a condition: for two tasks it is half of PCGrad's step, and Adam does not see the half.
Weights act on the trunk only, each head follows its own loss. Adam's rate falls linearly to 0.

Counted beside the accuracies, in per cent of the steps:

- conflict: the cosine of the two task gradients on the trunk is negative;
- sum_harms: to first order, a step down the sum of the gradients raises a task's loss;
- own_harms: the same for a step down the method's own direction d;
- taken_harms: the same for the step that Adam made of it;
- conflict_large: the cosine is negative on 4,000 images at once, at ten points of the training.

Two controls say what such counts are worth. In "shuffled labels" the right digit's labels are dealt
out at random, so that there is nothing to learn. In "same task twice" both gradients are those of
the left digit, on two batches: a task that meets itself.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LinearLR

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, overlaid
from mtl_tutorial.weighting import MGDA, PCGrad, Static

TASKS = ("left", "right")
PAIRS = {"train": 50_000, "valid": 5_000, "test": 10_000}
LARGE = 4_000  # images of a large batch
BATCH = 128
WIDTH = 64
RATES = (8e-3, 2.5e-2, 8e-2)

load = cache(mnist)


@cache
def pairs(source: str, part: str) -> tuple[Tensor, Tensor]:
    """Give overlaid digits pooled to 18 x 18 pixels and a pixel of 1, as rows; labels, a row a task."""
    split = overlaid(getattr(load(source), part), PAIRS[part], seed=list(PAIRS).index(part))
    images = split.inputs.reshape(-1, 18, 2, 18, 2).mean((2, 4)).reshape(-1, 324)
    images = np.concatenate([images, np.ones_like(images[:, :1])], axis=1)
    return torch.from_numpy(images), torch.from_numpy(np.stack([split.targets[t] for t in TASKS]))


class Network(nn.Module):
    """A hidden layer for both tasks, or one for each, or none; and a linear head for each task."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        # no biases: the last pixel is 1
        self.hidden = nn.ModuleList(nn.Linear(325, width, bias=False) for _ in range(layers))
        self.heads = nn.ModuleList(nn.Linear(width if layers else 325, 10) for _ in TASKS)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Give the logits of both tasks."""
        features = [torch.relu(hidden(images)) for hidden in self.hidden] or [images]
        return [self.heads[k](features[k % len(features)]) for k in range(2)]


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model of both tasks and measure it, in per cent."""
    source = experiments.source()
    images, labels = pairs(source, "train")
    draw = np.random.default_rng(seed)
    if condition == "shuffled labels":
        labels = torch.stack(
            [labels[0], labels[1][torch.from_numpy(draw.permutation(len(images)))]]
        )

    torch.manual_seed(seed)
    width = WIDTH // 2 if condition == "alone, half width" else WIDTH
    network = Network(
        width, layers=0 if condition == "linear" else 2 if "alone" in condition else 1
    )
    adam = torch.optim.Adam(network.parameters(), lr=setting["rate"], fused=True)
    decay = LinearLR(adam, 1.0, 0.0, total_iters=steps)
    right = setting.get("right", 1.0)
    weighting = {"MGDA": MGDA(), "PCGrad": PCGrad(seed=seed)}.get(
        condition, Static([2 / (1 + right), 2 * right / (1 + right)])
    )
    events: dict[str, list[bool]] = {}

    def note(**happened: bool | np.bool_ | Tensor) -> None:
        for name, event in happened.items():
            events.setdefault(name, []).append(bool(event))

    for step in range(steps):
        adam.zero_grad()
        rows = [torch.from_numpy(draw.integers(len(images), size=BATCH))] * 2
        if len(network.hidden) != 1:  # nothing is shared: the sum trains each task by itself
            outputs = network(images[rows[0]])
            # To mypy a sum may be the 0 that it starts from.
            sum(cross_entropy(outputs[k], labels[k, rows[0]]) for k in range(2)).backward()  # type: ignore[union-attr]
            adam.step()
            decay.step()
            continue

        tasks = [0, 1]
        if condition == "same task twice":
            tasks, rows[1] = [0, 0], torch.from_numpy(draw.integers(len(images), size=BATCH))
        if step % max(1, steps // 10) == 0:
            many = [slice(LARGE), slice(LARGE, 2 * LARGE) if tasks[1] == 0 else slice(LARGE)]
            G = jacobian(
                network,
                tasks,
                [(images[r], labels[k, r]) for k, r in zip(tasks, many, strict=True)],
            )
            note(conflict_large=G[0] @ G[1] < 0)
            adam.zero_grad()
        G = jacobian(
            network, tasks, [(images[r], labels[k, r]) for k, r in zip(tasks, rows, strict=True)]
        )
        gramian = (G @ G.T).numpy()
        weights = weighting(np.zeros(2), gramian)

        # mypy knows a layer of a ModuleList only as a Module, whose attributes may be Modules.
        theta = network.hidden[0].weight
        before = theta.detach().clone()  # type: ignore[operator]
        theta.grad = (torch.from_numpy(weights) @ G).to(theta).view_as(theta)  # type: ignore[arg-type]
        adam.step()
        decay.step()
        taken = G @ (theta.detach() - before).double().flatten()  # type: ignore[operator]
        note(
            conflict=gramian[0, 1] < 0,
            sum_harms=(gramian.sum(axis=1) < 0).any(),
            own_harms=(gramian @ weights < 0).any(),
            taken_harms=(taken > 0).any(),
        )
    counts = {name: 100 * float(np.mean(each)) for name, each in events.items()}
    return counts | measured(network, condition, source)


def jacobian(network: Network, tasks: list[int], batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Give each task's gradient on the shared layer, a row; the heads' gradients go to ``.grad``."""
    losses, inner, inputs = [], [], []
    for k, (images, labels) in zip(tasks, batches, strict=True):
        with torch.no_grad():
            entering = network.hidden[0](images)
        inner.append(entering.requires_grad_())
        inputs.append(images)
        losses.append(cross_entropy(network.heads[k](torch.relu(inner[-1])), labels))
    torch.stack(losses).sum().backward()
    rows = [own.grad.T @ images for own, images in zip(inner, inputs, strict=True)]
    return torch.stack(rows).flatten(1).double()


@torch.no_grad()
def measured(network: Network, condition: str, source: str) -> dict[str, float]:
    """Give the share of right answers, of each task that was learned and their mean."""
    learned = [0] if condition in ("shuffled labels", "same task twice") else [0, 1]
    # Annotated it would be another syntax tree, and every run would have to be repeated.
    found = {}  # type: ignore[var-annotated]
    for part in ("valid", "test"):
        images, labels = pairs(source, part)
        outputs = network(images)
        right = [100 * (outputs[k].argmax(1) == labels[k]).double().mean().item() for k in learned]
        found |= {f"{part}_{TASKS[k]}_accuracy": right[k] for k in learned}
        found[f"{part}_mean_accuracy"] = float(np.mean(right))
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in RATES]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "linear": rates,
                "alone": rates,
                "alone, half width": rates,
                "equal": rates,
                "tuned static": [
                    {"rate": rate, "right": right} for rate in RATES for right in (1.0, 0.5, 2.0)
                ],
                "MGDA": rates,
                "PCGrad": rates,
                "shuffled labels": rates[1:2],
                "same task twice": rates[1:2],
            },
            data=mnist,
            seeds=range(10),
            steps=1200,
            smoke_steps=10,
            choose_by="valid_mean_accuracy",
            baseline="equal",
            primary=[
                ("equal", "alone", "test_mean_accuracy"),
                ("PCGrad", "tuned static", "test_mean_accuracy"),
                ("MGDA", "tuned static", "test_mean_accuracy"),
                ("equal", "linear", "test_mean_accuracy"),
            ],
        )
    )
