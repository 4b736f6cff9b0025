"""Four small experiments at the frontier: clients as tasks, free labels, learned weights, bought labels.

Digits of 14 x 14 pixels; every network has a trunk of two layers. Accuracy in per cent.

- federated: eight clients, each with 60 labelled digits of its own, and each sorts digits into five
  folders of its own, two digits in each. A client takes 10 steps by itself ("rare rounds": 50), then
  a server averages what it may: all of the network, or the trunk without the heads. Accuracy is the
  mean over the clients. "in one place" gathers all pictures: one trunk and eight heads.
- self-supervised: turned digits, 300 of them with a label, 10,000 without. The second task needs no
  label: what is in the hidden half, or by how many quarters was the picture turned? It is learned
  together with the digit, or first, in half of the steps.
- auxiliary: 100 labelled digits. Two auxiliary tasks have labels for 10,000 others: "loops" (how many
  closed loops has it?) and "noise" (a number drawn at random, in a large unit). How much should each
  count? Both alike; a tuned grid; the cosine gate (a task counts in a step while its gradient on the
  trunk and the digit's have a positive product); weights that are learned by a look one step ahead,
  at the loss of the training labels or of 20 labels that are held out.
- active: turned digits; two tasks, which digit, and is it turned left, right, or neither? 600 labels
  are bought in five rounds, the first at random; after each the network is trained anew. "pictures"
  buys both labels of each, "labels" one at a time, where the network's answer is the least sure.

Named before it was run:

1. federated, personal heads against alone: does it help a client to share its trunk?
2. self-supervised, hidden half together against alone: does a task without labels help?
3. auxiliary, learned, held-out labels against tuned grid: are learned weights better than tried ones?
4. active, pictures by both tasks against pictures at random: does asking the network pay?

Beside them: linear models; everything averaged; all labels. The 500 validation pictures that choose a
setting are more than the labelled ones in three of the four, a luxury. Designs and rates were tried
with seeds from 100 on: clothing in the place of turned digits (a linear model was better than every
network), two folders, learned weights without a fixed sum (they grew without an end).
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import (
    avg_pool2d,
    cross_entropy,
    mse_loss,
    softmax,
)

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, mnist, rotated
from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Classification, Regression, Task

ROWS = {"train": 12_000, "valid": 500, "test": 5000}
POOL = 10_000
WIDTH, BATCH = 64, 64
CLIENTS, OWN, FOLDERS, LOCAL = 8, 60, 5, 10  # clients, pictures of each, steps between two rounds
FEW, SOME = 100, 300  # labelled pictures
LOOPS = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])  # closed loops of the digits 0 to 9
NOISE = 10.0  # the deviation of the number without meaning
HELD = 20  # of the labelled pictures, to steer the weights
ROUNDS, BOUGHT = 5, 120  # labels bought in each round
DEGREES = 30.0

Setting = dict[str, float]
Metrics = dict[str, float]


@cache
def pictures(source: str) -> Dataset:
    """Give digits, and the same turned, all small."""
    digits, parts = mnist(source), {}
    for seed, (name, most) in enumerate(ROWS.items()):
        upright = getattr(digits, name).take(slice(most))
        turned = rotated(upright, DEGREES, seed)
        inputs = {"digits": small(upright.inputs), "turned": small(turned.inputs)}
        turn = np.digitize(turned.targets["angle"], [-DEGREES / 3, DEGREES / 3])
        parts[name] = Split(inputs, {"digit": upright.targets["digit"], "turn": turn})
    return Dataset("MNIST, upright and turned", digits.source, **parts)


def small(images: np.ndarray) -> np.ndarray:
    """Give pictures of 28 x 28 pixels as rows of 14 x 14."""
    return avg_pool2d(torch.from_numpy(images)[:, None], 2).flatten(1).numpy()


@cache
def part(name: str, images: str, *labels: str) -> tuple[Tensor, ...]:
    """Give pictures of training, validation or test, and labels of them."""
    split = getattr(pictures(experiments.source()), name)
    return tuple(
        map(torch.from_numpy, [split.inputs[images], *(split.targets[own] for own in labels)])
    )


def drawn(labels: Tensor, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures to be labelled, as many of each class, and a pool of others."""
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.numpy()[order]
    few = np.concatenate([order[classes == own][: count // 10] for own in range(10)])
    return few, np.setdiff1d(order, few, assume_unique=True)[:POOL]


def network(tasks: list[Task], seed: int) -> HardSharing:
    """Build a trunk and a head for each task."""
    torch.manual_seed(seed)
    return HardSharing(mlp(196, WIDTH, WIDTH), linear_heads(tasks, features=WIDTH))


def batch_of(rows: np.ndarray, draw: np.random.Generator) -> Tensor:
    """Draw some of the rows."""
    return torch.from_numpy(draw.choice(rows, BATCH))


def percent(right: Tensor | np.ndarray) -> float:
    """Give the share of what is right."""
    return 100 * float(np.asarray(right, dtype=float).mean())


def linear(x: Tensor, y: Tensor, setting: Setting) -> LogisticRegression:
    """Fit logistic regression."""
    return LogisticRegression(C=setting["C"], max_iter=1000).fit(x.numpy(), y.numpy())


# Federated --------------------------------------------------------------------------------------


def federated(condition: str, setting: Setting, seed: int, steps: int) -> Metrics:
    """Train the clients side by side: the first axis of every tensor is the client."""
    x, digit = part("train", "digits", "digit")
    draw = np.random.default_rng(seed)
    folder = torch.from_numpy(
        np.stack(
            [draw.permutation(10) % FOLDERS for _ in range(CLIENTS)]
        )  # of each client's digits
    )
    rows = torch.from_numpy(draw.permutation(len(x))[: CLIENTS * OWN].reshape(CLIENTS, OWN))
    every = torch.arange(CLIENTS)[:, None]
    own_x, own_y = x[rows], folder[every, digit[rows]]
    if condition == "linear":
        models = [linear(*own, setting) for own in zip(own_x, own_y, strict=True)]
        return clients_measured(
            lambda x: torch.stack([torch.from_numpy(own.decision_function(x)) for own in models]),
            folder,
        )
    torch.manual_seed(seed)
    trunk = [torch.nn.Linear(196, WIDTH), torch.nn.Linear(WIDTH, WIDTH)]
    shared = [
        own.detach().reshape(1, -1, WIDTH)
        for layer in trunk
        for own in (layer.weight.mT, layer.bias)
    ]
    heads = [torch.nn.Linear(WIDTH, FOLDERS) for _ in range(CLIENTS)]
    matrix = torch.stack([own.weight.detach().mT for own in heads])
    copies = 1 if condition == "in one place" else CLIENTS
    stacks = [own.repeat(copies, 1, 1) for own in shared]
    stacks += [matrix, torch.zeros(CLIENTS, 1, FOLDERS)]
    averaged = {"alone": 0, "in one place": 0, "everything averaged": 6}.get(condition, 4)
    between = 50 if condition.endswith("rare rounds") else LOCAL

    def answers(x: Tensor) -> Tensor:
        first, bias1, second, bias2, head, bias3 = stacks
        return ((x @ first + bias1).relu() @ second + bias2).relu() @ head + bias3

    for own in stacks:
        own.requires_grad_()
    adam = torch.optim.Adam(stacks, lr=setting["rate"], fused=True)  # number by number
    for step in range(1, steps + 1):
        batch = torch.from_numpy(draw.integers(OWN, size=(CLIENTS, BATCH // 2)))
        said, label = answers(own_x[every, batch]), own_y[every, batch]
        adam.zero_grad()
        (CLIENTS * cross_entropy(said.flatten(0, 1), label.flatten())).backward()
        adam.step()
        if step % between == 0 or step == steps:
            with torch.no_grad():
                for own in stacks[:averaged]:
                    own.copy_(own.mean(0, keepdim=True).expand_as(own))
    with torch.no_grad():
        return clients_measured(answers, folder)


def clients_measured(answers: Callable[[Tensor], Tensor], folder: Tensor) -> Metrics:
    """Ask every client's question of all pictures."""
    found: Metrics = {}
    for name in ("valid", "test"):
        x, digit = part(name, "digits", "digit")
        each = [percent(own) for own in answers(x).argmax(2) == folder[:, digit]]
        found |= {f"{name}_clients": float(np.mean(each)), f"{name}_worst_client": min(each)}
    return {"valid_accuracy": found["valid_clients"], **found}


# Self-supervised --------------------------------------------------------------------------------


def quarters(x: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Turn pictures by quarters; the label is how many."""
    label = torch.from_numpy(draw.integers(4, size=len(x)))
    ways = torch.stack([x.view(-1, 14, 14).rot90(k, (1, 2)).flatten(1) for k in range(4)])
    return ways[label, torch.arange(len(x))], label


def hidden(x: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Hide one half of each picture; the label is what was there, and NaN where it is seen."""
    near = torch.arange(14) < 7
    sides = torch.stack([near.repeat(14, 1), ~near.repeat(14, 1)])
    halves = torch.cat([sides, sides.mT]).flatten(1)
    hide = halves[torch.from_numpy(draw.integers(4, size=len(x)))]
    return x.where(~hide, 0), x.where(hide, torch.nan)


def self_supervised(condition: str, setting: Setting, seed: int, steps: int) -> Metrics:
    """Train on some labelled pictures, and on many without a label."""
    x, y = part("train", "turned", "digit")
    few, pool = drawn(y, SOME, seed)
    name, _, how = condition.rpartition(" ")  # "hidden half together"
    if condition == "linear":
        model = linear(x[few], y[few], setting)
        return unaided(lambda x: torch.from_numpy(model.decision_function(x.numpy())))
    if condition == "linear on components":  # of all pictures, with a label or without
        components = PCA(50, random_state=seed).fit(x[pool].numpy())
        seen = torch.from_numpy(components.transform(x[few].numpy()))
        model = linear(seen, y[few], setting)
        return unaided(
            lambda x: torch.from_numpy(model.decision_function(components.transform(x.numpy())))
        )
    free = quarters if name == "quarters" else hidden
    second = Classification("free", 4) if name == "quarters" else Regression("free", outputs=196)
    model = network([Classification("digit", classes=10), second], seed)
    draw = np.random.default_rng(seed)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    labelled = np.concatenate([few, pool]) if condition == "all labels" else few
    for step in range(steps):
        loss = torch.zeros(())
        before = step < steps // 2
        if how != "first" or not before:
            own = batch_of(labelled, draw)
            loss = cross_entropy(model.heads["digit"](model.trunk(x[own])), y[own])
        if how == "together" or (how == "first" and before):
            shown, label = free(x[batch_of(pool, draw)], draw)
            said = model.heads["free"](model.trunk(shown))
            there = ~label.isnan()
            error = (
                cross_entropy(said, label)
                if name == "quarters"
                else mse_loss(said[there], label[there])
            )
            loss = loss + setting.get("weight", 1.0) * error
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return unaided(lambda x: model(x)["digit"])


def unaided(answers: Callable[[Tensor], Tensor]) -> Metrics:
    """Measure the answers of the main task."""
    found: Metrics = {}
    for name in ("valid", "test"):
        x, y = part(name, "turned", "digit")
        found[f"{name}_turned_digit"] = percent(answers(x).argmax(1) == y)
    return {"valid_accuracy": found["valid_turned_digit"], **found}


# Auxiliary weights ------------------------------------------------------------------------------

AUXILIARY: list[Task] = [
    Classification("digit", classes=10),
    Classification("loops", classes=3),
    Regression("noise"),
]


def auxiliary(condition: str, setting: Setting, seed: int, steps: int) -> Metrics:
    """Train the digit with a helpful and a harmful task, and weigh these by some rule."""
    x, digit = part("train", "digits", "digit")
    few, pool = drawn(digit, FEW, seed)
    draw = np.random.default_rng(seed)
    if condition == "linear":
        model = linear(x[few], digit[few], setting)
        return digit_measured(lambda x: torch.from_numpy(model.decision_function(x.numpy())), [])
    loops = torch.from_numpy(LOOPS)[digit]
    noise = NOISE * torch.from_numpy(draw.standard_normal((len(x), 1))).float()
    model = network(AUXILIARY, seed)
    trunk = list(model.trunk.parameters())
    held, kept = few[:0], few
    if condition.endswith("held-out labels"):
        draw.shuffle(few)
        held, kept = few[:HELD], few[HELD:]
    weights = np.array([setting.get("loops", 1.0), setting.get("noise", 1.0)])
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    counted = np.zeros(2)

    def main_loss(own: Tensor) -> Tensor:
        return cross_entropy(model.heads["digit"](model.trunk(x[own])), digit[own])

    def gradient(loss: Tensor) -> Tensor:
        rows = torch.autograd.grad(loss, trunk, retain_graph=True)
        return torch.cat([own.flatten() for own in rows])

    for _ in range(steps):
        first, other = batch_of(kept, draw), batch_of(pool, draw)
        features = model.trunk(x[torch.cat([first, other])])
        losses = [
            cross_entropy(model.heads["digit"](features[:BATCH]), digit[first]),
            cross_entropy(model.heads["loops"](features[BATCH:]), loops[other]),
            mse_loss(model.heads["noise"](features[BATCH:]), noise[other]),
        ]
        if condition.startswith(("gate", "learned")):
            steer = main_loss(torch.from_numpy(held)) if len(held) else losses[0]
            aim = gradient(steer)
            pulls = [gradient(loss) for loss in losses[1:]]
            if condition == "gate":
                weights = np.array([float(aim @ pull > 0) for pull in pulls])
            else:  # one step of the trunk along an auxiliary's gradient changes the loss by this
                gains = np.array([float(aim @ pull / pull.norm()) for pull in pulls])
                weights = weights * np.exp(setting["speed"] * gains)
                weights *= 2 / weights.sum()  # what one gains, the other loses
        counted += weights
        adam.zero_grad()
        (losses[0] + weights[0] * losses[1] + weights[1] * losses[2]).backward()
        adam.step()
    with torch.no_grad():
        return digit_measured(lambda x: model(x)["digit"], (counted / steps).tolist())


def digit_measured(answers: Callable[[Tensor], Tensor], weights: list[float]) -> Metrics:
    """Measure the main task; also give the mean weight of each auxiliary task."""
    found: Metrics = {}
    for name in ("valid", "test"):
        x, y = part(name, "digits", "digit")
        found[f"{name}_digit"] = percent(answers(x).argmax(1) == y)
    means = dict(zip(("loops_weight", "noise_weight"), weights, strict=False))
    return {"valid_accuracy": found["valid_digit"], **found, **means}


# Active -----------------------------------------------------------------------------------------

BOTH: list[Task] = [Classification("digit", classes=10), Classification("turn", classes=3)]
NAMES = [task.name for task in BOTH]


def active(condition: str, setting: Setting, seed: int, steps: int) -> Metrics:
    """Buy labels in rounds, and train anew after each."""
    x, *truth = part("train", "turned", *NAMES)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(x))
    has = np.zeros((len(x), 2), bool)  # which labels were bought
    if condition == "all labels":
        has[:] = True
        return both_measured(learned(has, setting, seed, steps))
    random = condition.endswith("at random")
    for number in range(ROUNDS):
        unsure = draw.uniform(size=has.shape)
        if number and not random:
            unsure = uncertainty(learned(has, setting, seed, steps)(x))
        if condition.startswith("labels") and number:
            unsure[has] = -1
            best = np.argsort(-unsure, axis=None)[:BOUGHT]
            has.ravel()[best] = True
            continue
        worth = unsure[:, 0] if condition.endswith("by the digit") else unsure.sum(1)
        worth = np.where(has.any(1), -1, worth)
        has[np.argsort(-worth)[: BOUGHT // 2] if number else order[: BOUGHT // 2]] = True
    if condition.startswith("linear"):
        models = [
            linear(x[own], labels[own], setting) for own, labels in zip(has.T, truth, strict=True)
        ]
        return both_measured(
            lambda x: [torch.from_numpy(model.decision_function(x.numpy())) for model in models]
        )
    return both_measured(learned(has, setting, seed, steps)) | {
        "bought_digits": int(has[:, 0].sum())
    }


def learned(
    has: np.ndarray, setting: Setting, seed: int, steps: int
) -> Callable[[Tensor], list[Tensor]]:
    """Train a network on the labels that were bought."""
    x, *truth = part("train", "turned", *NAMES)
    model, draw = network(BOTH, seed), np.random.default_rng([seed, 1])
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    there = [np.flatnonzero(own) for own in has.T]
    for _ in range(steps):
        batches = [batch_of(rows, draw) for rows in there]
        features = model.trunk(x[torch.cat(batches)]).split(BATCH)
        losses = [
            cross_entropy(model.heads[name](z), labels[batch])
            for name, z, labels, batch in zip(NAMES, features, truth, batches, strict=True)
        ]
        adam.zero_grad()
        torch.stack(losses).sum().backward()
        adam.step()

    @torch.no_grad()
    def answers(x: Tensor) -> list[Tensor]:
        said = model(x)
        return [said[name] for name in NAMES]

    return answers


def uncertainty(answers: list[Tensor]) -> np.ndarray:
    """Give the entropy of each answer, as a share of the largest that it could have."""
    shares = [softmax(own, dim=1).clamp_min(1e-12) for own in answers]
    columns = [-(p * p.log()).sum(1) / np.log(p.shape[1]) for p in shares]
    return torch.stack(columns, dim=1).numpy()


def both_measured(answers: Callable[[Tensor], list[Tensor]]) -> Metrics:
    """Measure both tasks."""
    found: Metrics = {}
    for name in ("valid", "test"):
        x, *truth = part(name, "turned", *NAMES)
        each = [percent(own.argmax(1) == y) for own, y in zip(answers(x), truth, strict=True)]
        found |= {f"{name}_both": float(np.mean(each))}
        found |= {f"{name}_of_{task}": own for task, own in zip(NAMES, each, strict=True)}
    return {"valid_accuracy": found["valid_both"], **found}


EXPERIMENTS: dict[str, Callable[[str, Setting, int, int], Metrics]] = {
    "federated": federated,
    "self-supervised": self_supervised,
    "auxiliary": auxiliary,
    "active": active,
}


def train(condition: str, setting: Setting, seed: int, steps: int) -> Metrics:
    """Train once, in one of the four experiments."""
    which, _, own = condition.partition(", ")
    found = EXPERIMENTS[which](own, setting, seed, steps)
    return {
        name: value
        for name, value in found.items()
        if name == "valid_accuracy" or not name.startswith("valid_")
    }


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (1e-3, 4e-3)]
    inverse = [{"C": c} for c in (0.1, 1.0, 10.0)]
    free = [{"rate": rate, "weight": weight} for rate in (1e-3, 4e-3) for weight in (3, 10, 30)]
    turns = [{"rate": rate, "weight": weight} for rate in (1e-3, 4e-3) for weight in (0.1, 0.3, 1)]
    one = {"rate": 2e-3}  # of all that weigh auxiliary tasks
    grid = [{**one, "loops": w, "noise": v} for w in (1, 3, 10) for v in (0, 0.1, 1)]
    speeds = [{**one, "speed": speed} for speed in (0.03, 0.1, 0.3)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "federated, alone": rates,
                "federated, personal heads": rates,
                "federated, personal heads, rare rounds": rates,
                "federated, everything averaged": rates,
                "federated, in one place": rates,
                "federated, linear": inverse,
                "self-supervised, alone": rates,
                "self-supervised, hidden half together": free,
                "self-supervised, hidden half first": rates,
                "self-supervised, quarters together": turns,
                "self-supervised, quarters first": rates,
                "self-supervised, all labels": rates,
                "self-supervised, linear": inverse,
                "self-supervised, linear on components": inverse,
                "auxiliary, alone": [{**one, "loops": 0, "noise": 0}],
                "auxiliary, both alike": [one],
                "auxiliary, tuned grid": grid,
                "auxiliary, gate": [one],
                "auxiliary, learned, training labels": speeds,
                "auxiliary, learned, held-out labels": speeds,
                "auxiliary, linear": inverse,
                "active, pictures at random": rates,
                "active, pictures by the digit": rates,
                "active, pictures by both tasks": rates,
                "active, labels at random": rates,
                "active, labels least sure": rates,
                "active, all labels": rates,
                "active, linear, pictures at random": inverse,
            },
            data=pictures,
            seeds=range(10, 20),
            steps=800,
            smoke_steps=8,
            choose_by="valid_accuracy",
            baseline="federated, alone",
            primary=[
                ("federated, personal heads", "federated, alone", "test_clients"),
                (
                    "self-supervised, hidden half together",
                    "self-supervised, alone",
                    "test_turned_digit",
                ),
                (
                    "auxiliary, learned, held-out labels",
                    "auxiliary, tuned grid",
                    "test_digit",
                ),
                ("active, pictures by both tasks", "active, pictures at random", "test_both"),
            ],
        )
    )
