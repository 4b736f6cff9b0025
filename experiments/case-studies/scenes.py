"""One network or three? A digit among clutter is read, its slant measured, its place found.

The network is `SceneCNN`: three convolutions, then attention, whose centre is that of the box and
whose weights pool the features. Shared is one such network with three heads; alone are three of
them. Both are as wide; beside this, three narrow networks with as many parameters together as the
shared one, and three networks that are trained for a third of the steps each.

Named before it was run, each at equal width:

1. shared against digit alone, accuracy of the digit.
2. shared against slant alone, mean absolute error of the slant, in degrees.
3. shared against box alone, mean IoU of the box.
4. shared convolutions, but an attention for each task, against all shared, mean IoU of the box.

Beside them: two of the three convolutions shared; the weights 0.5, 0.3 and 0.2 of the article;
tuned weights; the article's own network, of a convolution and a dense layer, whose boxes begin in the
middle; and a linear model on the pixels. Each seed draws its own 5,000 scenes.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, softplus

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist, scenes
from mtl_tutorial.metrics import iou
from mtl_tutorial.pytorch import HardSharing, SceneCNN, giou_loss, linear_heads, scene_heads
from mtl_tutorial.tasks import Boxes, Classification, Regression

SIZE, DEGREES = 32, 30  # of a scene in pixels; the largest slant, the unit of its loss
TASKS = [Classification("digit", classes=10), Regression("slant"), Boxes("box", SIZE, SIZE)]
WIDE, NARROW = (8, 16, 32), (5, 9, 18)
ARTICLE = [0.5, 0.3, 0.2]
BATCH = 32

load = lru_cache(mnist)


@lru_cache(maxsize=4)
def drawn(source: str, part: str, count: int, seed: int) -> dict[str, Tensor]:
    """Draw scenes with a digit each, from the images of one part only."""
    split = scenes(getattr(load(source), part), count, size=SIZE, empty=0, distractors=2, seed=seed)
    split = split.take(np.flatnonzero(split.targets["presence"]))  # a thin line can vanish
    slant = split.targets["slant"][:, None] / DEGREES
    targets = {"digit": split.targets["digit"], "slant": slant, "box": split.targets["box"]}
    return {k: torch.from_numpy(v) for k, v in {"images": split.inputs, **targets}.items()}


def look(trunk: SceneCNN, cells: Tensor) -> Tensor:
    """Give the features of the place where the attention of a trunk lies."""
    scores = trunk.score(cells).flatten(1)
    weights = scores.softmax(dim=1)
    seen = (cells.flatten(2) @ weights[:, :, None]).squeeze(2)
    return torch.cat([seen, weights @ trunk.cells, scores.amax(dim=1, keepdim=True)], dim=1)


class Branched(nn.Module):
    """The first convolutions are shared; what follows, attention included, is each task's own."""

    def __init__(self, shared: int) -> None:
        super().__init__()
        layers = 3 * shared  # convolution, batch norm, ReLU
        trunks: dict[str, Any] = {task.name: SceneCNN(SIZE, WIDE) for task in TASKS}
        self.first = trunks["digit"].convolutions[:layers]
        self.heads = nn.ModuleDict(scene_heads(TASKS, trunks["digit"]))
        for trunk in trunks.values():
            trunk.convolutions = trunk.convolutions[layers:]
        self.trunks: Any = nn.ModuleDict(trunks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the outputs of all tasks."""
        cells = self.first(images[:, None])
        return {
            name: self.heads[name](look(trunk, trunk.convolutions(cells)))
            for name, trunk in self.trunks.items()
        }


class Plain(nn.Module):
    """The article's network: a convolution and a dense layer are shared."""

    def __init__(self) -> None:
        super().__init__()
        dense = nn.Linear(10 * (SIZE - 2) ** 2, 50)
        self.trunk = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Flatten(), dense, nn.ReLU())
        self.digit, self.slant, self.box = nn.Linear(50, 10), nn.Linear(50, 1), nn.Linear(50, 4)
        nn.init.zeros_(self.box.weight)
        self.box.bias = nn.Parameter(torch.tensor([0.35, 0.35, -1, -1]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the outputs of all tasks; a box by its upper left corner and its sides."""
        z = self.trunk(images[:, None])
        corner, sides = self.box(z).split(2, dim=1)
        box = SIZE * torch.cat([corner, corner + softplus(sides)], dim=1)
        return {"digit": self.digit(z), "slant": self.slant(z), "box": box}


def network(condition: str) -> nn.Module:
    """Build the model of a condition."""
    tasks = [task for task in TASKS if "alone" not in condition or condition.startswith(task.name)]
    if condition == "linear":
        return HardSharing(nn.Flatten(), linear_heads(tasks, features=SIZE**2))
    if condition == "convolutions shared":
        return Branched(3)
    if condition == "two convolutions shared":
        return Branched(2)
    if condition == "article's network":
        return Plain()
    trunk = SceneCNN(SIZE, NARROW if "narrow" in condition else WIDE)
    return HardSharing(trunk, scene_heads(tasks, trunk))


def train(condition: str, setting: dict[str, Any], seed: int, steps: int) -> dict[str, float]:
    """Train one network: accuracy and IoU in per cent, the error of the slant in degrees."""
    source = experiments.source()
    train_scenes = drawn(source, "train", 5000, seed + 10)
    losses: dict[str, Any] = {"digit": cross_entropy, "slant": mse_loss, "box": giou_loss}
    weights = dict(zip(losses, setting.get("weights", [1, 1, 1]), strict=True))

    torch.manual_seed(seed)
    model: Any = network(condition)
    model.to(memory_format=torch.channels_last)
    steps = max(2, steps // 3) if "third" in condition else steps
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, max_lr=setting["rate"], total_steps=steps, pct_start=0.2
    )
    count = len(train_scenes["images"])
    order = torch.cat([torch.randperm(count) for _ in range(steps * BATCH // count + 1)])
    for rows in order.split(BATCH)[:steps]:
        outputs = model(train_scenes["images"][rows])
        weighted = [
            weights[name] * losses[name](output, train_scenes[name][rows])
            for name, output in outputs.items()
        ]
        adam.zero_grad()
        torch.stack(weighted).sum().backward()
        adam.step()
        cycle.step()
    return measured(model, source)


@torch.no_grad()
def measured(model: nn.Module, source: str) -> dict[str, float]:
    """Measure each head; the score of validation is their mean, each 0 to 100."""
    model.eval()
    found, scores = {}, []
    for part, count, seed in (("valid", 1000, 1), ("test", 2000, 2)):
        held_out = drawn(source, part, count, seed)
        outputs = model(held_out["images"])
        if "digit" in outputs:
            right = outputs["digit"].argmax(dim=1) == held_out["digit"]
            found[f"{part}_digit_accuracy"] = 100 * right.float().mean().item()
        if "slant" in outputs:
            error = DEGREES * (outputs["slant"] - held_out["slant"]).abs().mean().item()
            found[f"{part}_slant_mae"] = error
        if "box" in outputs:
            boxes = iou(outputs["box"].numpy(), held_out["box"].numpy())
            found[f"{part}_box_iou"] = 100 * float(boxes.mean())
    for name, value in found.items():
        if name.startswith("valid"):  # 15 degrees: the error of who always answers 0
            scores.append(100 * (1 - value / 15) if name.endswith("mae") else value)
    found["valid_score"] = float(np.mean(scores))
    return found


if __name__ == "__main__":
    rates = [{"rate": 1e-2}, {"rate": 2e-2}]
    one = [{"rate": 1e-2}]
    grid = ([4, 1, 1], [1, 4, 1], [1, 1, 4], [1, 4, 4])
    alone = {task.name: f"{task.name} alone" for task in TASKS}
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "shared": rates,
                **dict.fromkeys(alone.values(), rates),
                "convolutions shared": rates,
                "two convolutions shared": one,
                **{f"{name}, narrow": one for name in alone.values()},
                **{f"{name}, a third of the steps": one for name in alone.values()},
                "article's weights": [{"rate": 1e-2, "weights": ARTICLE}],
                "tuned weights": [{"rate": 1e-2, "weights": weights} for weights in grid],
                "article's network": [{"rate": r, "weights": ARTICLE} for r in (1e-3, 3e-3)],
                "linear": [{"rate": 1e-3}, {"rate": 3e-3}],
            },
            data=mnist,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=700,
            smoke_steps=3,
            choose_by="valid_score",
            baseline="shared",
            single_task={
                "test_digit_accuracy": "digit alone",
                "test_slant_mae": "slant alone",
                "test_box_iou": "box alone",
            },
            primary=[
                ("shared", "digit alone", "test_digit_accuracy"),
                ("shared", "slant alone", "test_slant_mae"),
                ("shared", "box alone", "test_box_iou"),
                ("convolutions shared", "shared", "test_box_iou"),
            ],
        )
    )
