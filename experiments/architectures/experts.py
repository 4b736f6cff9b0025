"""Do experts and gates help where two tasks are less alike? The data of the article on MMoE.

Two regressions of 100 numbers; p is the cosine between what they look at. Every condition trains
three networks side by side, for p = 0.5, 0.9 and 1.0, on 40,000 rows which each seed makes anew:

- alone: two networks, one a task, each as wide as the shared one; or of as many parameters together;
- hard: one layer for both tasks, as many parameters as MMoE with its gates; also with tuned weights;
- narrow: the same with 16 units, as many as one expert has, and an eighth of the parameters; also for
  each task alone;
- one gate: eight experts of 16 units, and one gate whose mixture both tasks read;
- MMoE: the same experts, and a gate for each task;
- PLE: the same experts, three of them the first task's own, three the second's, two shared;
- bad start: both gates of MMoE begin with nearly all weight on the first expert; also with dropout,
  which takes each expert away from a gate in one row of ten, or with a penalty for unequal use.

All have a tower of 8 units for each task, as in the article. An error is the share of a target's
variance that is left, in per cent, at the step that was best in validation.

Named before it was run, each in the error with p = 0.5, the mean of both tasks:

1. MMoE against hard: do experts and gates help, at equal parameters?
2. MMoE against narrow: or is it that an expert is small, and a small layer learns these data better?
3. MMoE against one gate: is it the experts, or that each task has its own gate?
4. PLE against MMoE: do experts of one's own help?

Beside them: linear regression, and a curve along what linear regression has found, which is nearly
how the data were made; the agreement of the tasks' gradients on what they share; how many experts a
gate uses, and how alike the mixtures of the two tasks are.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer
from torch import Tensor, nn

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, correlated_regressions

ALIKE = {"p50": 0.5, "p90": 0.9, "p100": 1.0}
FIRST, SECOND = TASKS = "first", "second"
ROWS = 40_000  # with 10,000 one that was tried had more error than the mean has
INPUTS, EXPERTS, UNITS, TOWER = 100, 8, 16, 8  # units of an expert, and of narrow
WIDE = 126  # 101 * 126 + 2 * (127 * 8 + 9) parameters with biases: as many as MMoE with its gates
BATCH, CHECK, LOOK = 128, 250, 50  # rows; steps between two validations, two looks at gradients
OWN = torch.tensor([[1, 1, 1, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]])  # which experts of PLE
HEAVY = 5.0  # what a bad start adds to the gate's logit of the first expert
DROPPED = 0.1  # of the experts, for a gate, in training
Parts = dict[str, tuple[Tensor, Tensor]]


def generated(source: str) -> Dataset:
    """Give the data with p = 0.5 of the first seed, which a program makes whatever the source."""
    return replace(correlated_regressions(ALIKE["p50"], ROWS, seed=20), source="generated")


@lru_cache(maxsize=2)
def load(seed: int) -> Parts:
    """Give inputs (N, 100) and targets (3, N, 2), of deviation 1, for the three cosines."""
    data = [correlated_regressions(cosine, ROWS, seed) for cosine in ALIKE.values()]
    parts = {}
    for name in ("train", "valid", "test"):
        splits = [getattr(each, name) for each in data]
        assert all(np.array_equal(s.inputs, splits[0].inputs) for s in splits)
        targets = np.stack([np.stack([s.targets[t] for t in TASKS], axis=1) for s in splits])
        parts[name] = torch.from_numpy(splits[0].inputs), torch.from_numpy(targets)
    mean = parts["train"][1].mean(1, keepdim=True)
    deviation = parts["train"][1].std(1, keepdim=True)
    return {name: (x, (y - mean) / deviation) for name, (x, y) in parts.items()}


def started(inputs: int, *shape: int) -> nn.Parameter:
    """Begin a layer as `nn.Linear` does."""
    bound = inputs**-0.5
    return nn.Parameter(torch.empty(len(ALIKE), *shape).uniform_(-bound, bound))


class Networks(nn.Module):
    """Three networks of one kind side by side, one for each cosine: experts, gates, towers.

    Without gates a task reads the sum of its experts, so that one expert for both tasks is hard
    sharing, and one for each is two networks.
    """

    def __init__(self, reads: Tensor, units: int, gates: int) -> None:
        super().__init__()
        experts = reads.shape[1]
        self.reads, self.units, self.gates = reads.bool(), units, gates
        self.experts = started(INPUTS, INPUTS, experts * units)
        self.experts_bias = started(INPUTS, 1, experts * units)
        if gates:
            self.gate = started(INPUTS, INPUTS, gates * experts)
            self.gate_bias = started(INPUTS, 1, gates * experts)
        self.tower = started(units, len(TASKS), units, TOWER)
        self.tower_bias = started(units, 1, len(TASKS), TOWER)
        self.last = started(TOWER, 1, len(TASKS), TOWER)
        self.last_bias = started(TOWER, 1, len(TASKS))

    def mixture(self, x: Tensor, dropped: float = 0.0) -> Tensor:
        """Give how much each expert counts for each task, (3, N, 2, E)."""
        if not self.gates:
            return self.reads.float().expand(len(ALIKE), len(x), *self.reads.shape)
        logits = (x @ self.gate + self.gate_bias).unflatten(2, (self.gates, -1))
        closed = ~self.reads.expand(*logits.shape[:2], *self.reads.shape)
        if dropped:
            away = torch.rand(closed.shape) < dropped
            closed = closed | (away & ~away.all(3, keepdim=True))
        mixture: Tensor = logits.expand(closed.shape).masked_fill(closed, -torch.inf).softmax(3)
        return mixture

    def forward(self, x: Tensor, mixture: Tensor | None = None) -> Tensor:
        """Give the predictions, (3, N, 2)."""
        hidden = (x @ self.experts + self.experts_bias).relu().unflatten(2, (-1, self.units))
        weights = self.mixture(x) if mixture is None else mixture
        features = weights @ hidden  # (3, N, 2, units)
        tower = torch.einsum("pntu,ptuh->pnth", features, self.tower) + self.tower_bias
        outputs: Tensor = (tower.relu() * self.last).sum(3) + self.last_bias
        return outputs


def build(condition: str) -> Networks:
    """Build the networks of a condition."""
    kind = condition.partition(", ")[0]
    if kind in ("alone", "hard"):
        reads = torch.eye(2) if kind == "alone" else torch.ones(2, 1)
        sizes = {"narrow": UNITS, "same parameters": WIDE // 2}
        return Networks(reads, sizes.get(condition.partition(", ")[2], WIDE), 0)
    reads = OWN if kind == "PLE" else torch.ones(2, EXPERTS)
    networks = Networks(reads, UNITS, gates=1 if kind == "one gate" else 2)
    if kind == "bad start":
        with torch.no_grad():
            networks.gate_bias[:, :, ::EXPERTS] += HEAVY
    return networks


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Go through the rows in batches, shuffled anew each time; all conditions see the same."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randperm(count, generator=generator)
        yield from rows.split(BATCH)[: count // BATCH]


def cosines(networks: Networks, losses: Tensor) -> Tensor:
    """Give the cosine of the two tasks' gradients on the experts that both read, for each p."""
    shared = networks.reads.all(0)
    gradients = []
    for own in losses.sum(0):
        (gradient,) = torch.autograd.grad(own, networks.experts, retain_graph=True)
        gradients.append(gradient.unflatten(2, (-1, networks.units))[:, :, shared].flatten(1))
    first, second = gradients
    return torch.cosine_similarity(first, second, dim=1)


@torch.no_grad()
def errors(networks: Networks, part: tuple[Tensor, Tensor]) -> Tensor:
    """Give the share of the variance that is left, in per cent, (3, 2)."""
    inputs, targets = part
    left: Tensor = 100 * (networks(inputs) - targets).square().mean(1)
    return left


def uneven(mixture: Tensor) -> Tensor:
    """Give what a penalty for unequal use sums over the gates: 0 where all experts count alike."""
    mean = mixture.mean(1)  # of the rows, (3, 2, E)
    return (mean.shape[2] * mean.square().sum(2) - 1).sum()


@torch.no_grad()
def use(networks: Networks, inputs: Tensor) -> dict[str, float]:
    """Say how many experts a gate uses, and how alike the mixtures of the two tasks are."""
    weights = networks.mixture(inputs)  # (3, N, 2, E)
    mean = weights.mean(1)
    used = (-(mean * mean.clamp(min=1e-12).log()).sum(2)).exp().mean(1)  # 1 to the number there
    overlap = 100 * weights.min(2).values.sum(2).mean(1)
    found = {f"experts_{tag}": float(used[i]) for i, tag in enumerate(ALIKE)}
    return found | {f"overlap_{tag}": float(overlap[i]) for i, tag in enumerate(ALIKE)}


def named(valid: Any, test: Any) -> dict[str, float]:
    """Name the errors, both of shape (3, 2); of the single tasks those with p = 0.5 only."""
    found = {"valid_error": float(valid.mean())}
    found |= {f"test_{tag}_error": float(test[i].mean()) for i, tag in enumerate(ALIKE)}
    return found | {f"test_p50_{task}_error": float(test[0, k]) for k, task in enumerate(TASKS)}


def without_network(curve: bool, setting: dict[str, float], parts: Parts) -> dict[str, float]:
    """Fit each target by linear regression, or by a curve along what linear regression found."""
    arrays = {name: (x.double().numpy(), y.double().numpy()) for name, (x, y) in parts.items()}
    x, y = arrays["train"]
    found = {name: np.empty(y[:, 0].shape) for name in ("valid", "test")}
    for place in np.ndindex(*found["test"].shape):
        column = place[0], slice(None), place[1]
        line = Ridge(alpha=setting["penalty"]).fit(x, y[column])
        if curve:
            spline = SplineTransformer(int(setting["knots"]), extrapolation="linear")
            bent = make_pipeline(spline, Ridge(alpha=1e-3))
            bent.fit(line.predict(x)[:, None], y[column])
        for name, own in found.items():
            inputs, targets = arrays[name]
            outputs = line.predict(inputs)
            if curve:
                outputs = bent.predict(outputs[:, None])
            own[place] = 100 * np.square(outputs - targets[column]).mean()
    return named(found["valid"], found["test"])


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train three networks, for the three cosines, and measure them in per cent."""
    parts = load(seed)
    if condition in ("linear", "curve"):
        return without_network(condition == "curve", setting, parts)
    torch.manual_seed(seed)
    networks = build(condition)
    inputs, targets = parts["train"]
    adam = torch.optim.Adam(networks.parameters(), lr=setting["rate"], fused=True)
    ratio = setting.get("weight", 1.0)  # how much more the first task counts
    weights = torch.tensor([2 * ratio, 2.0]) / (1 + ratio)
    dropped = DROPPED if "dropout" in condition else 0.0
    balance = setting.get("balance", 0.0)
    alone = condition.startswith("alone")
    best = test = lowest = torch.full((len(ALIKE), len(TASKS)), torch.inf)
    agreement = []
    for step, rows in zip(range(1, steps + 1), batches(len(inputs), seed), strict=False):
        for group in adam.param_groups:
            group["lr"] = setting["rate"] * (1 - (step - 1) / steps)
        mixture = networks.mixture(inputs[rows], dropped)
        losses = (networks(inputs[rows], mixture) - targets[:, rows]).square().mean(1)
        if step % LOOK == 1 and not alone:
            agreement.append(cosines(networks, losses))
        adam.zero_grad()
        loss = (losses * weights).sum()
        if balance:
            loss = loss + balance * uneven(mixture)
        loss.backward()
        adam.step()
        if step % CHECK == 0 or step == steps:
            valid = errors(networks, parts["valid"])
            score = valid if alone else valid.mean(1, keepdim=True).expand_as(valid)
            better = score < lowest  # of two networks alone each has its own best step
            lowest = torch.where(better, score, lowest)
            best = torch.where(better, valid, best)
            test = torch.where(better, errors(networks, parts["test"]), test)
    found = named(best, test)
    if networks.gates:
        found |= use(networks, parts["test"][0])
    if agreement:
        seen = torch.stack(agreement)
        found |= {f"cosine_{tag}": float(seen[:, i].mean()) for i, tag in enumerate(ALIKE)}
        against = 100 * (seen < 0).float().mean(0)
        found |= {f"conflict_{tag}": float(against[i]) for i, tag in enumerate(ALIKE)}
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (5e-3, 1e-2, 2e-2)]
    rate = {"rate": 1e-2}
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "alone": rates,
                "alone, same parameters": rates,
                "alone, narrow": rates,
                "linear": [{"penalty": penalty} for penalty in (1.0, 100.0)],
                "curve": [{"penalty": 1.0, "knots": knots} for knots in (10, 20, 40)],
                "hard": rates,
                "hard, tuned weights": [{**rate, "weight": w} for w in (0.5, 2.0)],
                "hard, narrow": rates,
                "one gate": rates,
                "MMoE": rates,
                "PLE": rates,
                "bad start": [rate],
                "bad start, dropout": [rate],
                "bad start, balance": [{**rate, "balance": b} for b in (0.01, 0.1)],
            },
            data=generated,
            seeds=range(20, 30),
            steps=1000,
            smoke_steps=4,
            choose_by="valid_error",
            baseline="alone",
            primary=[
                ("MMoE", "hard", "test_p50_error"),
                ("MMoE", "hard, narrow", "test_p50_error"),
                ("MMoE", "one gate", "test_p50_error"),
                ("PLE", "MMoE", "test_p50_error"),
            ],
        )
    )
