"""One residual network for two data sets, and the order in which it sees their batches.

The article trains a network with two heads on all batches of one loader, then on all of the other,
epoch after epoch. Here it reads the digits of MNIST and the clothing of Fashion-MNIST. In every
condition a task gets the same batches in the same order; what differs is how the two are arranged:

- apart: two networks, each with its own task's batches;
- mixed: an update sees a batch of each;
- alternating: one update a batch, of the two in turn;
- loaders: the article's, all batches of the digits, then all of the clothing; also in reverse.

Batch norm has one set of statistics for all, or one for each data set (own norms), or is replaced by
group norm. A network with one set is also tested with statistics taken anew from training images,
its parameters as they are: from the data set in question where each batch came from one, from both
where batches were mixed (statistics anew).

The learning rate falls to 0 along a line, but for one condition that has the article's constant rate.

Named before it was run:

1. loaders against alternating, accuracy of the digit: does the last loader win?
2. alternating against mixed, mean of both accuracies.
3. loaders, own norms against loaders, accuracy of the digit: was it batch norm?
4. mixed against apart, mean of both accuracies: does sharing help?

Beside them: a linear model on the mixed batches, and what a network that has learned the digits
brings to clothing of which only 200 images are labelled: after half as many updates as for digits.
"""

import copy
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, concatenate, fashion_mnist, mnist
from mtl_tutorial.tasks import Classification

FIRST, SECOND = "digit", "clothing"
TASKS = [Classification(FIRST, classes=10), Classification(SECOND, classes=10)]
IMAGES = 3200  # labelled images of each data set
FEW = 200  # labelled images of clothing, for fine-tuning
BATCH = 64
LOADER = IMAGES // BATCH  # updates in one pass through one loader
VALID, TEST = 1000, 2500  # images of each data set that choose the rate, and that judge
WIDTH = 8
CURVES = "loaders", "loaders, constant rate", "alternating"  # both tasks measured after each loader


def both(source: str) -> Dataset:
    """Give both data sets as one, where the label of the other task is missing."""
    parts = mnist(source), fashion_mnist(source)
    splits = {}
    for name in ("train", "valid", "test"):
        each = [getattr(part, name) for part in parts]
        own = [
            Split(s.inputs, {t.name: s.targets[t.name]}) for s, t in zip(each, TASKS, strict=True)
        ]
        splits[name] = concatenate(own, TASKS)
    return Dataset("MNIST and Fashion-MNIST", source, **splits)


@cache
def load(source: str) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """Give images of 14 x 14 pixels, with mean 0 and deviation 1 in training, and labels."""
    found = {}
    for task, data in ((FIRST, mnist(source)), (SECOND, fashion_mnist(source))):
        mean, deviation = data.train.inputs.mean(), data.train.inputs.std()
        for name, rows in (("train", None), ("valid", VALID), ("test", TEST)):
            split = getattr(data, name)
            step = 1 if rows is None else max(1, len(split) // rows)
            split = split.take(slice(None, None, step))
            images = split.inputs.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
            images = torch.from_numpy((images - mean) / deviation)
            images = images.to(memory_format=torch.channels_last)
            found[name, task] = images, torch.from_numpy(split.targets[task])
    return found


def norms(kind: str, channels: int) -> nn.ModuleDict:
    """Give the normalisation of each data set: one for both, unless they have their own."""
    if kind == "own norms":
        return nn.ModuleDict({task: nn.BatchNorm2d(channels) for task in (FIRST, SECOND)})
    batch_norm = kind != "group norm"
    shared = nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(4, channels)
    return nn.ModuleDict({FIRST: shared, SECOND: shared})


class Block(nn.Module):
    """A residual block: two convolutions whose result is added to what came in."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = norms(kind, outputs), norms(kind, outputs)
        self.stride = stride

    def forward(self, x: Tensor, source: str) -> Tensor:
        """Give as many channels as the block has outputs."""
        hidden: Tensor = self.norm1[source](self.conv1(x)).relu()
        hidden = self.norm2[source](self.conv2(hidden))
        if self.stride > 1:  # every other place, and zeros as the new channels
            x = x[:, :, :: self.stride, :: self.stride]
            x = pad(x, (0, 0, 0, 0, 0, hidden.shape[1] - x.shape[1]))
        return (hidden + x).relu()


class ResNet(nn.Module):
    """A residual network of three stages with a linear head for each task."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, stride=2, padding=1, bias=False)
        self.norm = norms(kind, WIDTH)
        stages = ((1, 1), (1, 2), (2, 4))
        self.blocks = nn.ModuleList([Block(WIDTH * i, WIDTH * o, kind) for i, o in stages])
        self.heads = nn.ModuleDict({task.name: nn.Linear(4 * WIDTH, 10) for task in TASKS})

    def encode(self, images: Tensor, source: str) -> Tensor:
        """Give the features of images of one data set, normalised as that data set is."""
        x: Tensor = self.norm[source](self.conv(images)).relu()
        for block in self.blocks:
            x = block(x, source)
        return x.mean((2, 3))


class Linear(nn.Module):
    """No trunk: the heads read the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({task.name: nn.Linear(196, 10) for task in TASKS})

    def encode(self, images: Tensor, source: str) -> Tensor:
        """Give the pixels."""
        return images.flatten(1)


def arranged(order: str, steps: int) -> list[tuple[str, ...]]:
    """Say of which tasks each update has a batch; each task has half of `steps` in all."""
    if order == "mixed":
        return [(FIRST, SECOND)] * (steps // 2)
    if order == "alternating":
        return [(FIRST,), (SECOND,)] * (steps // 2)
    loader = min(LOADER, steps // 2)  # shorter in a smoke run
    turn: list[tuple[str, ...]] = [*[(FIRST,)] * loader, *[(SECOND,)] * loader]
    return (turn[::-1] if order == "loaders reversed" else turn) * (steps // (2 * loader))


def drawn(task: str, seed: int, images: int = IMAGES) -> Tensor:
    """Draw the images of a task that are labelled."""
    available = len(load(experiments.source())["train", task][1])
    generator = torch.Generator().manual_seed(1000 * seed + (task == SECOND))
    return torch.randperm(available, generator=generator)[:images]


def batches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """Go through the rows in batches, shuffled anew each time."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        yield from (part for part in shuffled.split(BATCH) if len(part) == min(BATCH, len(rows)))


def learn(
    model: ResNet | Linear,
    updates: list[tuple[str, ...]],
    rate: float,
    rows: dict[str, Tensor],
    seed: int,
    *,
    falling: bool = True,
    curve: dict[str, float] | None = None,
) -> None:
    """Train on these batches with Adam; on request measure after each stretch of one loader."""
    data = load(experiments.source())
    decks = {task: batches(own, seed) for task, own in rows.items()}
    adam = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    for step, tasks in enumerate(updates, start=1):
        for group in adam.param_groups if falling else []:
            group["lr"] = rate * (1 - (step - 1) / len(updates))
        picked = [next(decks[task]) for task in tasks]
        parts = [data["train", task] for task in tasks]
        images = torch.cat([x[own] for (x, _), own in zip(parts, picked, strict=True)])
        features = model.encode(images, tasks[0]).split([len(own) for own in picked])
        losses = [
            cross_entropy(model.heads[task](z), y[own])
            for task, z, (_, y), own in zip(tasks, features, parts, picked, strict=True)
        ]
        adam.zero_grad()
        torch.stack(losses).sum().backward()
        adam.step()
        if curve is not None and step % LOADER == 0:
            for task in (FIRST, SECOND):
                curve[f"{task}_after_{step // LOADER}"] = accuracy(model, task, "valid")
            model.train()


@torch.no_grad()
def accuracy(model: ResNet | Linear, task: str, part: str) -> float:
    """Give the share of right answers in per cent."""
    images, labels = load(experiments.source())[part, task]
    model.eval()
    right: Tensor = model.heads[task](model.encode(images, task)).argmax(1) == labels
    return 100 * float(right.float().mean())


@torch.no_grad()
def renewed(model: ResNet | Linear, source: str, *pools: Tensor) -> ResNet | Linear:
    """Give a copy whose batch norms have the statistics of batches with images of each pool."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    for parts in zip(*(images[:1280].split(BATCH) for images in pools), strict=True):
        model.encode(torch.cat(parts), source)
    return model


def train(condition: str, rate: float, seed: int, steps: int) -> dict[str, float]:
    """Train a network, or two, and measure both tasks in per cent."""
    torch.manual_seed(seed)
    order, _, kind = condition.partition(", ")
    rows = {task: drawn(task, seed) for task in (FIRST, SECOND)}
    found: dict[str, float] = {}
    model: ResNet | Linear = Linear()
    if order != "linear":
        model = ResNet(kind)
        # torch's types of Module.to leave memory formats out.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kind == "200 labels":
        if order == "fine-tuned":
            learn(model, [(FIRST,)] * (steps // 2), rate, rows, seed)
        rows = {SECOND: drawn(SECOND, seed, FEW)}
        learn(model, [(SECOND,)] * (steps // 4), rate, rows, seed)
        models = {SECOND: model}
    elif order == "apart":
        models = {FIRST: model, SECOND: copy.deepcopy(model)}
        for task, own in models.items():
            learn(own, [(task,)] * (steps // 2), rate, rows, seed)
    else:
        updates = arranged("mixed" if order == "linear" else order, steps)
        curve = found if condition in CURVES else None
        learn(model, updates, rate, rows, seed, falling=kind != "constant rate", curve=curve)
        models = {FIRST: model, SECOND: model}

    for part in ("valid", "test"):
        for task, own in models.items():
            found[f"{part}_{task}_accuracy"] = accuracy(own, task, part)
        each = [found[f"{part}_{task}_accuracy"] for task in models]
        if part == "valid" or len(each) == 2:
            found[f"{part}_mean_accuracy"] = sum(each) / len(each)
    if order != "linear" and kind in ("", "own norms", "constant rate"):
        data = load(experiments.source())
        pools = {task: data["train", task][0][own] for task, own in rows.items()}
        for task, own in models.items():
            seen = pools.values() if order == "mixed" else [pools[task]]
            anew = renewed(own, task, *seen)
            found[f"test_{task}_statistics_anew"] = accuracy(anew, task, "test")
    return found


if __name__ == "__main__":
    rates = [3e-3, 1e-2]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "apart": rates,
                "linear": [1e-2, 3e-2],
                "mixed": rates,
                "alternating": rates,
                "loaders": rates,
                "loaders reversed": rates,
                "loaders, constant rate": rates,
                "loaders, own norms": rates,
                "loaders, group norm": rates,
                "linear, 200 labels": [1e-2, 3e-2],
                "from scratch, 200 labels": rates,
                "fine-tuned, 200 labels": rates,
            },
            data=both,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=8 * LOADER,  # each loader four times
            smoke_steps=12,
            choose_by="valid_mean_accuracy",
            baseline="apart",
            primary=[
                ("loaders", "alternating", "test_digit_accuracy"),
                ("alternating", "mixed", "test_mean_accuracy"),
                ("loaders, own norms", "loaders", "test_digit_accuracy"),
                ("mixed", "apart", "test_mean_accuracy"),
            ],
        )
    )
