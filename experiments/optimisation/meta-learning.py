"""What to start a new task from: a start that was learned as such, or multi-task features.

Three families of tasks. *Sines*: a curve of random height and phase, from 10 points. *Groups*: five
of the ten digits belong to the group, the others do not; which is said by 20 pictures. All tasks
look at the same digits, so what they need is shared. *Pairs*: tell two classes of digits or clothing
apart, from 20 pictures; the classes of new tasks are in no task for training.

A network learns from the training tasks by one of five rules. *joint*: one output for all tasks.
*Reptile*, *first-order* (MAML) and *MAML*. *multi-task*: a head for each task. Then it meets new
tasks: the first four are adapted by gradient descent. Multi-task keeps its trunk, and fits a new
head by ridge regression (*multi-task, fine-tuned*: all of it is adapted, from a head of zeros).
*untrained*, and *random trunk* with a new head, have learned nothing; *no network* is the ridge
regression on the pixels, or on bumps along the x-axis.

Named before it was run, in the share of the variance that is explained, or of right answers:

1. sines, MAML against joint.
2. sines, multi-task against MAML.
3. groups, multi-task against MAML.
4. pairs, multi-task against no network: do the features serve new classes?

Every step of every rule takes the gradients of as many examples, from as many tasks as fit; only
MAML's second derivatives come on top. How a new task is learned (rate and number of steps, or
penalty) is chosen on 25 validation tasks, for each network anew.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, concatenate, fashion_mnist, mnist
from mtl_tutorial.tasks import Classification

Tasks = tuple[Tensor, Tensor]  # inputs and targets, each of shape (tasks, points, ...)
NUMBER = {"train": 60, "valid": 25, "test": 41}  # of tasks
SHOTS = {"sines": 10, "groups": 20, "pairs": 20}  # examples that a new task is learned from
POINTS = {"sines": 40, "groups": 400, "pairs": 400}  # examples of a training task
JUDGED = 40  # examples that a new task is judged on
RATES = (0.01, 0.03, 0.1)
STEPS = (1, 8, 32)
PENALTIES = [10.0**n for n in range(-3, 4)]
NAMES = ("digit", "clothing")


@cache
def load(source: str) -> Dataset:
    """Give digits and clothing as one data set, pooled to 14 x 14 pixels."""
    tasks = [Classification(name, classes=10) for name in NAMES]
    both = mnist(source), fashion_mnist(source)
    parts = {}
    for name in NUMBER:
        splits = [
            Split(own.inputs.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196), own.targets)
            for own in (getattr(data, name) for data in both)
        ]
        parts[name] = concatenate(splits, tasks)
    return Dataset("MNIST and Fashion-MNIST", both[0].source, **parts)


def sides(problem: str, seed: int, part: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Give for each task the classes on its two sides; 10 to 19 are clothing."""
    draw = np.random.default_rng([seed, 1])
    number = NUMBER[part]
    if problem == "groups":
        halves = [own for own in combinations(range(10), 5) if 0 in own]
        both = [(own, tuple({*range(10)} - {*own})) for own in halves]
        start = {"train": 0, "valid": 60, "test": 85}[part]
        found = [both[i] for i in draw.permutation(len(both))[start : start + number]]
    else:
        deal = {"train": slice(10), "valid": slice(10, 14), "test": slice(14, 20)}
        classes = [int(c) for c in draw.permutation(20)[deal[part]]]
        pairs = [((a,), (b,)) for a, b in combinations(classes, 2)]
        found = [pairs[i % len(pairs)] for i in range(number)]
    return [(b, a) if draw.random() < 0.5 else (a, b) for a, b in found]


@lru_cache(maxsize=3)
def tasks(source: str, problem: str, seed: int, part: str) -> Tasks:
    """Give the tasks of a part; targets of pictures are 1 and -1 in turn."""
    draw = np.random.default_rng([seed, *part.encode()])
    number = NUMBER[part]
    points = POINTS[problem] if part == "train" else SHOTS[problem] + JUDGED
    if problem == "sines":
        height = draw.uniform(0.1, 5, (number, 1, 1))
        phase = draw.uniform(0, 2 * np.pi, (number, 1, 1))
        x = draw.uniform(-5, 5, (number, points, 1))
        y = height * np.sin(x + phase)
    else:
        split = getattr(load(source), part)
        labels = np.maximum(split.targets["digit"], split.targets["clothing"] + 10)
        labels = np.where(split.targets["digit"] >= 0, split.targets["digit"], labels)
        x = np.empty((number, points, 196))
        for own, both in zip(x, sides(problem, seed, part), strict=True):
            for side, classes in enumerate(both):
                rows = np.flatnonzero(np.isin(labels, classes))
                few = len(rows) < points // 2  # only of the embedded data
                own[side::2] = split.inputs[draw.choice(rows, points // 2, replace=few)]
        y = np.tile([[1.0], [-1.0]], (number, points // 2, 1))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def begin(inputs: int, seed: int) -> list[Tensor]:
    """Give the parameters of a network with two hidden layers."""
    width = 40 if inputs == 1 else 64
    draw = np.random.default_rng([seed, 2])
    theta = []
    for a, b in ((inputs, width), (width, width), (width, 1)):
        for shape in ((a, b), (1, b)):
            p = draw.uniform(-1, 1, shape) / np.sqrt(a)
            theta.append(torch.from_numpy(p).float().requires_grad_())
    return theta


def trunk(theta: Sequence[Tensor], x: Tensor) -> Tensor:
    """Give the features; a leading axis of the parameters is a network for each task."""
    for weight, bias in zip(theta[:-2:2], theta[1:-2:2], strict=True):
        x = torch.tanh(x @ weight + bias)
    return x


def loss(theta: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Add the tasks' mean squared errors: so each task's own network gets its own gradient."""
    outputs = trunk(theta, x) @ theta[-2] + theta[-1]
    return (outputs - y).square().mean((1, 2)).sum()


def copies(theta: Sequence[Tensor], number: int) -> list[Tensor]:
    """Give each task a network of its own."""
    return [p.detach().expand(number, *p.shape).clone().requires_grad_() for p in theta]


def adapt(own: Sequence[Tensor], x: Tensor, y: Tensor, rate: float, exact: bool) -> list[Tensor]:
    """Take one step of gradient descent in each task's network."""
    gradient = torch.autograd.grad(loss(own, x, y), own, create_graph=exact)
    return [p - rate * g for p, g in zip(own, gradient, strict=True)]


def gradient(
    rule: str, theta: Sequence[Tensor], x: Tensor, y: Tensor, inner: float
) -> list[Tensor]:
    """Give what a rule goes down: x and y hold some batches of each of some tasks."""
    number, batches = x.shape[:2]
    if rule == "joint":
        return list(torch.autograd.grad(loss(theta, x[:, 0], y[:, 0]) / number, theta))
    start = own = copies(theta, number)
    if rule == "Reptile":
        for batch in range(batches):
            own = adapt(own, x[:, batch], y[:, batch], inner, exact=False)
            own = [p.detach().requires_grad_() for p in own]
        return [(p - q).detach().mean(0) for p, q in zip(start, own, strict=True)]
    own = adapt(own, x[:, 0], y[:, 0], inner, exact=rule == "MAML")
    total = loss(own, x[:, 1], y[:, 1]) / number
    return [g.sum(0) for g in torch.autograd.grad(total, start)]


def learned(
    rule: str, setting: dict[str, float], problem: str, seed: int, steps: int
) -> list[Tensor]:
    """Train a network on the training tasks."""
    x, y = tasks(experiments.source(), problem, seed, "train")
    theta, draw = begin(x.shape[-1], seed), np.random.default_rng([seed, 3])
    some, batches = {"joint": (16, 1), "multi-task": (16, 1), "Reptile": (4, 4)}.get(rule, (8, 2))
    shots = SHOTS[problem]
    if rule == "multi-task":
        heads = [torch.zeros(len(x), *p.shape, requires_grad=True) for p in theta[-2:]]
        theta = [*theta[:-2], *heads]
    adam = torch.optim.Adam(theta, lr=setting["rate"], fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = setting["rate"] * (1 - step / steps)
        k = torch.from_numpy(draw.permutation(len(x))[:some])
        first = 2 * draw.integers(x.shape[1] // 2)  # with the next in turn, both sides alike
        rows = torch.from_numpy((first + np.arange(batches * shots)) % x.shape[1])
        own_x = x[k[:, None], rows].unflatten(1, (batches, shots))
        own_y = y[k[:, None], rows].unflatten(1, (batches, shots))
        adam.zero_grad()
        if rule == "multi-task":
            mine = [*theta[:-2], *(p[k] for p in theta[-2:])]
            (loss(mine, own_x[:, 0], own_y[:, 0]) / some).backward()
        else:
            found = gradient(rule, theta, own_x, own_y, setting.get("inner", 0.0))
            for p, g in zip(theta, found, strict=True):
                p.grad = g
        adam.step()
    return theta


def fine_tuned(theta: Sequence[Tensor], x: Tensor, y: Tensor, new: Tensor) -> dict[str, Tensor]:
    """Give the answers to new inputs after adaptation, by rate and number of steps."""
    answers = {}
    for rate in RATES:
        own = copies(theta, len(x))
        for step in range(1, max(STEPS) + 1):
            own = [p.detach().requires_grad_() for p in adapt(own, x, y, rate, exact=False)]
            if step in STEPS:
                answers[f"{rate}, {step}"] = (trunk(own, new) @ own[-2] + own[-1]).detach()
    return answers


def new_head(
    features: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, new: Tensor
) -> dict[str, Tensor]:
    """Give the answers of a head fitted by ridge regression, by penalty."""
    with torch.no_grad():
        one = torch.nn.functional.pad
        z, new_z = (one(features(each), (0, 1), value=1.0).double() for each in (x, new))
        products = z @ z.mT
        return {
            f"{penalty}": new_z
            @ z.mT
            @ torch.linalg.solve(products + penalty * torch.eye(x.shape[1]), y.double())
            for penalty in PENALTIES
        }


def score(answers: Tensor, y: Tensor) -> float:
    """Give the share of the variance explained, or of right answers, in per cent."""
    if y.abs().eq(1).all():
        return 100 * (answers * y > 0).double().mean().item()
    return 100 * (1 - (answers - y).square().mean() / y.square().mean()).item()


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Learn from the training tasks, then learn new ones, and measure that in per cent."""
    problem, _, rule = condition.partition(", ")
    source, shots = experiments.source(), SHOTS[problem]
    rule, _, tuned = rule.partition(", ")
    inputs = tasks(source, problem, seed, "valid")[0].shape[-1]
    if rule in ("untrained", "random trunk", "no network"):
        theta = begin(inputs, seed)
    else:
        theta = learned(rule, setting, problem, seed, steps)
    if tuned:
        theta = [*theta[:-2], *(p[0] * 0 for p in theta[-2:])]

    def features(x: Tensor) -> Tensor:
        if rule != "no network":
            return trunk(theta, x)
        bumps = torch.linspace(-5, 5, 41)
        return x if inputs > 1 else torch.exp(-((x - bumps) ** 2) / (2 * setting["width"] ** 2))

    answers, targets = {}, {}
    for part in ("valid", "test"):
        x, y = tasks(source, problem, seed, part)
        known, targets[part] = (x[:, :shots], y[:, :shots], x[:, shots:]), y[:, shots:]
        if rule in ("multi-task", "random trunk", "no network") and not tuned:
            answers[part] = new_head(features, *known)
        else:
            answers[part] = fine_tuned(theta, *known)
    scores = {plan: score(own, targets["valid"]) for plan, own in answers["valid"].items()}
    plan = max(scores, key=lambda each: scores[each] if np.isfinite(scores[each]) else -np.inf)
    metric = "test_explained" if problem == "sines" else "test_accuracy"
    return {
        "valid_score": scores[plan],
        "chosen_plan": float(list(scores).index(plan)),
        metric: score(answers["test"][plan], targets["test"]),
    }


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (3e-3, 1e-2)]
    slow = [{"rate": 1e-2, "inner": inner} for inner in (0.01, 0.05)]
    fast = [{"rate": 1e-2, "inner": inner} for inner in (0.05, 0.2)]
    nothing = [{"rate": 0.0}]
    conditions = {
        "sines, no network": [{"width": width} for width in (0.5, 1.0, 2.0)],
        "pairs, no network": nothing,
        "pairs, MAML": fast,
        "pairs, multi-task": rates,
    }
    for problem, settings in (("sines", slow), ("groups", fast)):
        conditions[f"{problem}, untrained"] = nothing
        conditions[f"{problem}, joint"] = rates
        for rule in ("Reptile", "first-order", "MAML"):
            conditions[f"{problem}, {rule}"] = settings
        conditions[f"{problem}, multi-task"] = rates
        conditions[f"{problem}, multi-task, fine-tuned"] = rates
        conditions[f"{problem}, random trunk"] = nothing
    conditions["groups, no network"] = nothing
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            conditions,
            data=load,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=600,
            smoke_steps=5,
            choose_by="valid_score",
            baseline="groups, multi-task",
            primary=[
                ("sines, MAML", "sines, joint", "test_explained"),
                ("sines, multi-task", "sines, MAML", "test_explained"),
                ("groups, multi-task", "groups, MAML", "test_accuracy"),
                ("pairs, multi-task", "pairs, no network", "test_accuracy"),
            ],
        )
    )
