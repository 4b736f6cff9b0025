"""Do measures of relatedness predict what a task gains from a partner? All pairs of eight tasks.

Eight questions about handwritten digits, chosen before any measure was taken, so that pairs share
much, little or nothing: three that are about the shape (digit, loops, parity), two about its geometry
(slant, width), one about the amount of ink, and two on images that the others do not see (turn: by
how many quarters is the image turned; sideways: the digit of images that are turned by a quarter).
Numbers are asked for as four classes of equal size, so every gain is in points of accuracy.

A task has labels on 100 images of its own, its partner on a pool of 3,200 others. A condition is a
partner: a run trains, for each of the eight tasks, two networks on two draws of its 100 images, all
as one stack. Alone, there is no partner; random is a partner whose labels are drawn at random; a task
as its own partner reads the pool's labels by another head, and shows what more cannot be had.

A measure is a condition, too, so that what it costs stands beside it; its numbers are its metrics,
named "task < partner", and are taken once. It sees the task's labels on the 100 images and the
partner's on the pool; information also reads the partner's labels of the 100 images, and features and
the two measures of gradients read the pool's labels of both. Higher: more related.

- information: how much of the task's label the partner's tells, above what chance tells;
- inputs: how alike the images are (minus MMD);
- features: CKA of two networks that learned the pool's labels of either;
- gradients: mean cosine in one network that learns all eight; look-ahead: how far a step for the
  partner lowers the task's loss there;
- transfer: a linear head on the partner's features, against one on pixels;
- few steps: the partner's network adapted to the task in a few steps, against one from scratch;
- short run: what training together gains in a tenth of the steps, on validation images.

Named before it was run, each against alone:

1. digit as partner, accuracy of loops: does a finer question about the shape help?
2. ink as partner, accuracy of the digit: does the amount help the shape?
3. sideways as partner, accuracy of the digit: does the same question about other images help?
4. random as partner, mean accuracy: do labels without meaning hurt?

What the page asks, the rank correlations of the measures with all 56 gains, is computed from these
runs by mtl_tutorial.relatedness, with intervals over tasks.
"""

from functools import cache
from itertools import combinations, permutations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments
from mtl_tutorial.datasets import mnist
from mtl_tutorial.pytorch import (
    HardSharing,
    batch_losses,
    linear_heads,
    lookahead_affinity,
    mlp,
    mtl_backward,
)
from mtl_tutorial.relatedness import cka, gradient_affinity, information, mmd, transfer_matrix
from mtl_tutorial.tasks import Classification
from mtl_tutorial.weighting import Recorded, Weighting

LOOPS = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])  # of the printed digits 0 to 9
TASKS = ["digit", "loops", "parity", "slant", "width", "ink", "turn", "sideways"]
MEASURES = ["information", "inputs", "features", "gradients"]
MEASURES += ["look-ahead", "transfer", "few steps", "short run"]
SYMMETRIC = ["inputs", "features", "gradients"]  # kept once a pair
FEW, POOL = 100, 3200  # labelled images of a task, and of its partner
DRAWS = 2  # of the 100 images, in each run
ROWS = {"train": 20_000, "valid": 1000, "test": 5000}  # images that choose the setting, or judge
WIDTH, CLASSES = 64, 10  # every head has ten outputs
BATCH = 32  # images of each task in a step
STEPS = 800
MEASURED = {"rate": 2e-3}  # of the networks of the measures

load = cache(mnist)


def tasks() -> list[str]:
    """Name the tasks; three are enough to try the script out."""
    return TASKS if experiments.source() == "real" else ["digit", "loops", "turn"]


def geometry(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measure slant, width against height, and ink of each image."""
    mass = images.sum((1, 2))
    y, x = np.mgrid[: images.shape[1], : images.shape[2]].astype(np.float32)
    x, y = (v - ((images * v).sum((1, 2)) / mass)[:, None, None] for v in (x, y))
    xx, yy, xy = ((images * v).sum((1, 2)) / mass for v in (x * x, y * y, x * y))
    return {"slant": xy / yy, "width": xx / yy, "ink": mass}


@cache
def quarters(source: str) -> dict[str, np.ndarray]:
    """Give what parts the training images into four classes of equal size."""
    images = load(source).train.inputs[: ROWS["train"]]
    found = geometry(images.reshape(-1, 14, 2, 14, 2).mean((2, 4)))
    return {name: np.quantile(values, [0.25, 0.5, 0.75]) for name, values in found.items()}


@cache
def data(source: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give the images of each task, pooled to 14 x 14 pixels, as rows, and its labels."""
    split = getattr(load(source), name)
    images, digits = split.inputs[: ROWS[name]], split.targets["digit"][: ROWS[name]]
    small = images.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    labels = {"digit": digits, "loops": LOOPS[digits], "parity": digits % 2}
    for question, values in geometry(small).items():
        labels[question] = np.searchsorted(quarters(source)[question], values)
    draw = np.random.default_rng(len(digits))
    turns = draw.integers(4, size=len(digits))
    each = [np.rot90(small, k, axes=(1, 2)) for k in range(4)]
    seen = dict.fromkeys([*labels, "random"], small)
    seen |= {"sideways": each[1], "turn": np.stack(each)[turns, np.arange(len(turns))]}
    labels |= {"sideways": digits, "turn": turns, "random": draw.integers(3, size=len(digits))}
    return {t: (np.ascontiguousarray(seen[t]).reshape(-1, 196), labels[t]) for t in labels}


@cache
def drawn(source: str, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw the rows that are labelled, ten of each digit, for each draw, and a pool of others."""
    digits = data(source, "train")["digit"][1]
    order = np.random.default_rng(seed).permutation(len(digits))
    each = [order[digits[order] == d] for d in range(10)]
    few = [np.concatenate([rows[10 * k : 10 * k + 10] for rows in each]) for k in range(DRAWS)]
    return few, np.setdiff1d(order, np.concatenate(few), assume_unique=True)[:POOL]


class Networks(nn.Module):
    """Networks of one architecture as one: two layers, a head for the task and one for the partner."""

    def __init__(self, count: int) -> None:
        super().__init__()
        sizes = [(196, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES), (WIDTH, CLASSES)]
        uniform = [(2 * torch.rand(count, 1 + i, o) - 1) / i**0.5 for i, o in sizes]  # as nn.Linear
        self.weights = nn.ParameterList([each[:, 1:].contiguous() for each in uniform])
        self.biases = nn.ParameterList([each[:, :1].contiguous() for each in uniform])

    def layer(self, number: int, x: Tensor) -> Tensor:
        """Give what a layer makes of inputs of shape (networks, images, ...)."""
        return torch.baddbmm(self.biases[number], x, self.weights[number])

    def encode(self, x: Tensor) -> Tensor:
        """Give the features; one network's images are another's where the first axis is 1."""
        x = x.expand(len(self.weights[0]), -1, -1)
        return self.layer(1, self.layer(0, x).relu()).relu()


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the networks' losses, each a mean over its images."""
    found: Tensor = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return found / labels.shape[1]


def own(seed: int, draws: int = DRAWS, part: str = "train") -> tuple[Tensor, Tensor]:
    """Give images and labels of each task's own networks, one a task and draw."""
    source = experiments.source()
    rows = drawn(source, seed)[0][:draws] if part == "train" else [slice(None)] * draws
    each = [data(source, part)[task] for task in tasks()]
    x = np.stack([images[few] for images, _ in each for few in rows])
    return torch.from_numpy(x), torch.from_numpy(
        np.stack([y[few] for _, y in each for few in rows])
    )


def pool(task: str, seed: int) -> tuple[Tensor, Tensor]:
    """Give the pool's images as a task sees them, and their labels."""
    source = experiments.source()
    images, labels = data(source, "train")[task]
    rows = drawn(source, seed)[1]
    return torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])


def learn(
    partner: str, seed: int, steps: int, setting: dict[str, float], draws: int = DRAWS
) -> Networks:
    """Train a network for each task and draw, together with the partner."""
    rate, weight = setting["rate"], setting.get("weight", 1.0)
    torch.manual_seed(seed)
    x, y = own(seed, draws)
    networks, draw = Networks(len(x)), torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(networks.parameters(), lr=rate, fused=True)
    others = None if partner == "alone" else pool(partner, seed)
    for _ in range(steps):
        rows = torch.randint(x.shape[1], (BATCH,), generator=draw)
        loss = entropy(networks.layer(2, networks.encode(x[:, rows])), y[:, rows])
        if others is not None:
            rows = torch.randint(len(others[0]), (BATCH,), generator=draw)
            logits = networks.layer(3, networks.encode(others[0][rows][None]))
            loss = loss + weight * entropy(logits, others[1][rows].expand(len(x), -1))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return networks


@torch.no_grad()
def accuracies(networks: Networks, part: str, draws: int = DRAWS) -> np.ndarray:
    """Give the share of right answers to each task in per cent, the mean over the draws."""
    x, y = own(0, draws, part)
    right = networks.layer(2, networks.encode(x)).argmax(2) == y
    found: np.ndarray = 100 * right.float().mean(1).reshape(-1, draws).mean(1).numpy()
    return found


def named(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Give accuracies their names, and the mean that chooses the setting."""
    metrics = {"valid_accuracy": float(found["valid"].mean())}
    for task, value in zip(tasks(), found["test"], strict=True):
        metrics[f"test_{task}"] = float(value)
    metrics["test_mean"] = float(found["test"].mean())
    return {name: round(value, 1) for name, value in metrics.items()}


def linear(strength: float, seed: int) -> dict[str, float]:
    """Fit a logistic regression to each task's 100 images."""
    x, y = (each.numpy() for each in own(seed))
    found = {}
    for part in ("valid", "test"):
        unseen = own(0, 1, part)
        scores = []
        for k, (images, labels) in enumerate(zip(x, y, strict=True)):
            model = LogisticRegression(C=strength, max_iter=1000).fit(images, labels)
            scores.append(model.score(unseen[0][k // DRAWS].numpy(), unseen[1][k // DRAWS].numpy()))
        found[part] = 100 * np.reshape(scores, (-1, DRAWS)).mean(axis=1)
    return named(found)


def partners(seed: int, steps: int) -> Networks:
    """Train a network for each task on the pool, as its partner; the other head is not trained."""
    torch.manual_seed(seed)
    each = [pool(task, seed) for task in tasks()]
    x, y = torch.stack([images for images, _ in each]), torch.stack([labels for _, labels in each])
    networks, draw = Networks(len(x)), torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(networks.parameters(), lr=MEASURED["rate"], fused=True)
    for _ in range(steps):
        rows = torch.randint(x.shape[1], (BATCH,), generator=draw)
        adam.zero_grad()
        entropy(networks.layer(3, networks.encode(x[:, rows])), y[:, rows]).backward()
        adam.step()
    return networks


class Sum(Weighting):
    """The sum of the losses, whose Gramian is looked at."""

    needs_losses, needs_gramian = False, True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give ones."""
        return np.ones(len(losses))


def together(seed: int, steps: int, look_ahead: bool) -> np.ndarray:
    """Train one network on the pools of all tasks; give the mean of what is seen in every tenth step."""
    torch.manual_seed(seed)
    questions = [Classification(task, classes=CLASSES) for task in tasks()]
    each = [pool(task, seed) for task in tasks()]
    x, y = torch.stack([images for images, _ in each]), torch.stack([labels for _, labels in each])
    model = HardSharing(mlp(196, WIDTH, WIDTH), linear_heads(questions, features=WIDTH))
    adam = torch.optim.Adam(model.parameters(), lr=MEASURED["rate"], fused=True)
    draw = torch.Generator().manual_seed(seed)
    recorded, seen = Recorded(Sum()), []
    for step in range(steps):
        rows = torch.randint(x.shape[1], (BATCH,), generator=draw)
        images = x[:, rows].flatten(0, 1)
        labels = {}  # of its own images alone
        for k, task in enumerate(tasks()):
            labels[task] = torch.full((len(tasks()), BATCH), -1)
            labels[task][k] = y[k, rows]
            labels[task] = labels[task].flatten()
        if look_ahead and step % 10 == 0:
            seen.append(lookahead_affinity(model, questions, images, labels, lr=0.1))
        features = model.encode(images)
        losses = batch_losses(questions, model.decode(features), labels)
        adam.zero_grad()
        if look_ahead or step % 10:
            torch.stack([loss for loss in losses.values() if loss is not None]).sum().backward()
        else:
            mtl_backward(losses, features, recorded, shared_parameters=model.trunk.parameters())
        adam.step()
    return np.mean(seen, axis=0) if look_ahead else gradient_affinity(recorded.steps)


@torch.no_grad()
def features_of(networks: Networks, x: Tensor) -> np.ndarray:
    """Give every network's features of the images, shape (networks, images, features)."""
    found: np.ndarray = networks.encode(x[None]).numpy()
    return found


def adapted(start: Networks, seed: int, steps: int) -> np.ndarray:
    """Go on from each network with each task's 100 images; accuracy on validation images.

    Entry [i, j]: of task j from network i.
    """
    x, y = own(seed, 1)
    matrix = []
    for i in range(len(start.weights[0])):
        networks = Networks(len(x))
        with torch.no_grad():
            for old, new in zip(start.weights[:2], networks.weights, strict=False):
                new.copy_(old[i].expand_as(new))
            for old, new in zip(start.biases[:2], networks.biases, strict=False):
                new.copy_(old[i].expand_as(new))
        adam = torch.optim.Adam(networks.parameters(), lr=MEASURED["rate"], fused=True)
        for _ in range(steps):
            adam.zero_grad()
            entropy(networks.layer(2, networks.encode(x)), y).backward()
            adam.step()
        matrix.append(accuracies(networks, "valid", draws=1))
    return np.array(matrix)


def measured(name: str, seed: int, steps: int) -> np.ndarray:
    """Take a measure of all pairs; entry [i, j]: of task i as a partner of task j."""
    names, count = tasks(), len(tasks())
    pairs, matrix = list(permutations(range(count), 2)), np.zeros((count, count))
    if name in ("gradients", "look-ahead"):
        return together(seed, steps, name == "look-ahead")
    x, y = own(seed, 1)
    if name == "information":
        for i, j in pairs:
            found = information(y[j].numpy(), y[i].numpy(), permutations=100, seed=seed)
            matrix[i, j] = (found.value - found.chance) / (1 - found.chance)
    elif name == "inputs":
        seen = [pool(task, seed)[0][:300].numpy() for task in names]
        for i, j in pairs:
            matrix[i, j] = -mmd(seen[j], seen[i], permutations=1).value
    elif name == "short run":
        few = max(1, steps // 10)
        nothing = accuracies(learn("alone", seed, few, MEASURED, draws=1), "valid", draws=1)
        for i, partner in enumerate(names):
            networks = learn(partner, seed, few, MEASURED, draws=1)
            matrix[i] = accuracies(networks, "valid", draws=1) - nothing
    else:
        start = partners(seed, steps)
        unseen, truth = own(0, 1, "valid")
        if name == "few steps":
            few = max(1, steps // 50)
            matrix[:] = adapted(start, seed, few) - adapted(Networks(1), seed, few)
            return matrix
        if name == "features":  # of the same digits, each as its task sees them
            seen = [features_of(start, unseen[k])[k] for k in range(count)]
            for i, j in pairs:
                matrix[i, j] = cka(seen[j], seen[i])
            return matrix
        for j, task in enumerate(names):
            theirs = features_of(start, unseen[j])
            fitted = {"pixels": x[j].numpy()} | dict(
                zip(names, features_of(start, x[j]), strict=True)
            )
            judged = {"pixels": unseen[j].numpy()} | dict(zip(names, theirs, strict=True))
            labels = {task: y[j].numpy()}, {task: truth[j].numpy()}
            scores = transfer_matrix(fitted, labels[0], judged, labels[1])[:, 0]
            matrix[:, j] = scores[1:] - scores[0]
    return matrix


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train all tasks' networks with one partner, and test them; or take a measure of all pairs."""
    if condition == "linear":
        return linear(setting["C"], seed)
    if condition not in MEASURES:
        partner = condition.partition(",")[0]
        networks = learn(partner, seed, steps, setting)
        return named({part: accuracies(networks, part) for part in ("valid", "test")})
    chosen = {"valid_accuracy": 0.0}  # there is no setting to choose
    if setting["steps"] == steps or experiments.source() == "embedded":
        names, matrix = tasks(), measured(condition, seed, steps)
        both = combinations if condition in SYMMETRIC else permutations
        for j, i in both(range(len(names)), 2):
            chosen[f"{names[j]} < {names[i]}"] = float(f"{matrix[i, j]:.2g}")
    return chosen


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (1e-3, 4e-3)]
    weighted = [{"rate": 4e-3, "weight": w} for w in (0.3, 3)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "alone": rates,
                "linear": [{"C": c} for c in (0.1, 1)],
                **dict.fromkeys([*TASKS, "random"], rates),
                "digit, other weights": weighted,
                **{measure: [{"steps": STEPS}] for measure in MEASURES},
            },
            data=mnist,
            seeds=range(10),
            steps=STEPS,
            smoke_steps=20,
            choose_by="valid_accuracy",
            baseline="alone",
            primary=[
                ("digit", "alone", "test_loops"),
                ("ink", "alone", "test_digit"),
                ("sideways", "alone", "test_digit"),
                ("random", "alone", "test_mean"),
            ],
        )
    )
