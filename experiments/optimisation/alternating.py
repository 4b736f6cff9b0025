"""Two data sets and one trunk: in which order, and how often each.

Clothing (Fashion-MNIST) and digits (MNIST), two sets of pictures of which no picture has both
labels. First with 16,000 pictures in each set: all updates of one task and then all of the other,
loader after loader (a whole set in turn), batch after batch in turn, or both in every batch. Each
task is updated as often as in the network that learns it alone. Then with 16,000 pictures of
clothing and 800 digits: the set of the next batch is drawn, or weights do the same work.

Named before it was run, in accuracy of the digit:

1. in turn against digit first: does the order matter, for the task that is learned first?
2. in turn against mixed: does it matter whether both tasks are in one batch?
3. tuned temperature against proportional sampling, 800 digits: does it pay to draw the small set
   more often?
4. tuned temperature against mixed batches with a tuned weight, 800 digits: can sampling do what a
   weight cannot?

A temperature stands for the same share of the objective in sampling and in weighting. Steps are
updates of a task: of unequal sets, twice as many updates are drawn.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, concatenate, fashion_mnist, mnist
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.sampling import joint, round_robin, sampling_probabilities, temperature_sampling
from mtl_tutorial.tasks import Classification

TASKS = [Classification("clothing", classes=10), Classification("digit", classes=10)]
NAMES = [task.name for task in TASKS]
LARGE, SMALL = 16_000, 800
BATCH = 64  # rows of a task in an update
VALID = 1000  # of each data set
ALWAYS = 1e6  # a temperature at which both sets are drawn equally often


@cache
def load(source: str) -> Dataset:
    """Give both data sets as one, pooled to 14 x 14 pixels; over all, mean 0 and deviation 1."""
    both = fashion_mnist(source), mnist(source)
    parts = {}
    for name in ("train", "valid", "test"):
        splits = [
            Split(own.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196), own.targets)
            for own in (getattr(data, name) for data in both)
        ]
        parts[name] = concatenate(splits, TASKS)
    mean, deviation = parts["train"].inputs.mean(), parts["train"].inputs.std()
    parts = {k: Split((own.inputs - mean) / deviation, own.targets) for k, own in parts.items()}
    return Dataset("Fashion-MNIST and MNIST", both[0].source, **parts)


@cache
def pictures(source: str, part: str, task: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the pictures and labels of one data set."""
    split = getattr(load(source), part)
    own = split.targets[NAMES[task]] >= 0
    return torch.from_numpy(split.inputs[own]), torch.from_numpy(split.targets[NAMES[task]][own])


def order(
    condition: str, setting: dict[str, float], lengths: list[int], steps: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield the rows of each update, numbered over both sets: of one task, or of both."""
    draw = np.random.default_rng([seed, 1])
    if condition.startswith("mixed"):
        yield from joint(lengths, 2 * BATCH, draw, steps=steps)
        return
    if lengths[0] != lengths[1]:
        heat = {"proportional": 1.0, "uniform": ALWAYS}
        temperature = heat.get(condition.partition(",")[0], setting.get("temperature", 1.0))
        yield from temperature_sampling(
            lengths, BATCH, draw, temperature=temperature, steps=2 * steps
        )
        return
    turns = list(round_robin(lengths, BATCH, draw, steps=2 * steps))
    stretch = {"in turn": 1, "loader after loader": -(-lengths[0] // BATCH)}.get(condition, steps)
    stacks = [turns[1::2], turns[::2]] if condition == "digit first" else [turns[::2], turns[1::2]]
    for start in range(0, steps, stretch):
        for stack in stacks:
            yield from stack[start : start + stretch]


def weights(condition: str, setting: dict[str, float], lengths: list[int]) -> np.ndarray:
    """Give the weights of the two losses, of mean 1 over the updates."""
    if "weight" not in condition:
        return np.ones(2)
    wanted = sampling_probabilities(lengths, setting["temperature"])
    sampled = [0.5, 0.5] if condition.startswith("mixed") else sampling_probabilities(lengths)
    return wanted / sampled


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one network, each task for so many updates, and measure it, in per cent."""
    source = experiments.source()
    few = "800" in condition
    sets = [pictures(source, "train", task) for task in range(2)]
    generator = np.random.default_rng(seed)
    lengths = [min(LARGE, len(sets[0][0]) // 2), min(SMALL, len(sets[1][0]) // 8)]
    if not few:
        lengths[1] = lengths[0]
    chosen = [generator.permutation(len(x))[:n] for (x, _), n in zip(sets, lengths, strict=True)]
    x = torch.cat([own[rows] for (own, _), rows in zip(sets, chosen, strict=True)])
    y = torch.cat([own[rows] for (_, own), rows in zip(sets, chosen, strict=True)])

    torch.manual_seed(seed)
    if condition.startswith("linear"):
        model = HardSharing(nn.Identity(), linear_heads(TASKS, features=196))
    else:
        model = HardSharing(mlp(196, 64, 64), linear_heads(TASKS, features=64))
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    alone = [k for k, name in enumerate(NAMES) if condition.startswith(f"{name} alone")]
    plan = "mixed" if alone or condition.startswith("linear") else condition
    w = weights(condition, setting, lengths)
    for rows in order(plan, setting, lengths, steps, seed):
        losses = []
        for k, own in enumerate((rows[rows < lengths[0]], rows[rows >= lengths[0]])):
            if len(own) and k in (alone or (0, 1)):
                index = torch.from_numpy(own)
                outputs = model.heads[NAMES[k]](model.trunk(x[index]))
                losses.append(w[k] * cross_entropy(outputs, y[index]))
        adam.zero_grad()  # to None: Adam leaves the head of an absent task as it is
        sum(losses).backward()
        adam.step()
    return measured(model, alone or [0, 1], source)


@torch.no_grad()
def measured(model: HardSharing, tasks: list[int], source: str) -> dict[str, float]:
    """Give the share of right answers of each task, and for validation their mean."""
    found = {}
    for part, some in (("valid", slice(VALID)), ("test", slice(None))):
        for k in tasks:
            x, y = pictures(source, part, k)
            right = model.heads[NAMES[k]](model.trunk(x[some])).argmax(1) == y[some]
            found[f"{part}_{NAMES[k]}_accuracy"] = 100 * right.double().mean().item()
    own = [found[f"valid_{NAMES[k]}_accuracy"] for k in tasks]
    return found | {"valid_accuracy": sum(own) / len(own)}


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (1e-3, 4e-3)]
    steep = [{"rate": rate} for rate in (4e-3, 1.6e-2)]
    tuned = [{"rate": r, "temperature": t} for r in (1e-3, 4e-3) for t in (2, 4, 16)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "in turn": rates,
                "mixed": rates,
                "clothing first": rates,
                "digit first": rates,
                "loader after loader": rates,
                "clothing alone": rates,
                "digit alone": rates,
                "linear": steep,
                "proportional, 800 digits": rates,
                "uniform, 800 digits": rates,
                "tuned temperature, 800 digits": tuned,
                "proportional, tuned weight, 800 digits": tuned,
                "mixed, tuned weight, 800 digits": tuned,
                "digit alone, 800 digits": rates,
                "linear, 800 digits": steep,
            },
            data=load,
            seeds=range(10),
            steps=1000,
            smoke_steps=10,
            choose_by="valid_accuracy",
            baseline="in turn",
            primary=[
                ("in turn", "digit first", "test_digit_accuracy"),
                ("in turn", "mixed", "test_digit_accuracy"),
                (
                    "tuned temperature, 800 digits",
                    "proportional, 800 digits",
                    "test_digit_accuracy",
                ),
                (
                    "tuned temperature, 800 digits",
                    "mixed, tuned weight, 800 digits",
                    "test_digit_accuracy",
                ),
            ],
        )
    )
