"""Where do several tasks gain on a table, and where does a network earn its place beside trees.

The rows are those of a census. Income (above 50,000 dollars?) and never_married are predicted from
ten columns, by AUC in per cent, from one network a task (alone) or one for both: hard sharing and
MMoE, at equal numbers of parameters unless the name says otherwise (the widths below). Gains and
losses of capital are categories for every model, though they are dollars: single amounts tell much
(tried with one seed that is not among those here; as quantities, after a logarithm, they cost a
network two points, trees little). Three supplies of labels:

- all: both labels on 20,000 rows, drawn anew for each seed;
- 200 labels: income is known on 200 rows, never_married on all the others;
- late labels: income comes late, so it is known on 1,000 early rows only, most of them of the young;
  never_married is known on all the others. The test is on everyone.

With few labels the settings are chosen, and training is stopped, by as few validation rows, drawn in
the same way. Every model is kept as it was best on validation rows, trees too.

Named before it was run:

1. hard against alone, mean AUC: does sharing help where both labels are plenty?
2. MMoE against hard, mean AUC: do experts help?
3. hard, 200 labels against alone, 200 labels, AUC of income: does sharing help where one is scarce?
4. hard, 200 labels against trees with a guess, 200 labels, AUC of income: is a network needed for it?

Trees with a guess are gradient-boosted trees to which other trees, trained on the rows that have the
other label, give one more column: how likely this row was never married. It is the cheapest way for a
task to learn from another. Beside them: logistic regression, trees without the guess, tuned static
weights, two networks of half the size, never_married on the same 200 rows only, and late labels that
are read as "no" until they come.
"""

import copy
from functools import cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mtl_tutorial import experiments
from mtl_tutorial.datasets import census
from mtl_tutorial.pytorch import HardSharing, MMoE, TableEmbedding, linear_heads, mlp
from mtl_tutorial.tabular import encoder
from mtl_tutorial.tasks import Binary

MAIN, OTHER = "income", "never_married"
CATEGORICAL = ["workclass", "occupation", "race", "sex", "native-country"]
CATEGORICAL += ["capital-gain", "capital-loss"]
NUMERIC = ["age", "education-num", "hours-per-week"]
ROWS = 20_000  # to train, of 27,514
VALID = 2000  # rows, where both labels are plenty
FEW = {"200 labels": 200, "late labels": 1000}  # rows whose income is known
EARLY = 12.0  # years: an age is so much less likely among the early rows, by a factor of e
BATCH = 256
LOOKS = 16  # at the validation rows
# Hidden units of each of two layers. Both tasks together have about 10,420 parameters in "hard", in
# "alone, half size" (two networks) and in MMoE (four experts).
WIDTHS = {"alone, half size": 31, "MMoE": 23}
WIDTH = 64  # of all the others
GUESSING = 400  # a quarter of it: how many trees make the guess

Labels = dict[str, np.ndarray]


class Part(NamedTuple):
    """Rows for networks (categories, quantities), for trees, and for logistic regression."""

    inputs: dict[str, Tensor]
    columns: np.ndarray
    one_hot: np.ndarray
    age: np.ndarray
    labels: Labels


@cache
def load(source: str) -> tuple[dict[str, Part], list[int]]:
    """Give the three parts, and the cardinalities of the categorical columns."""
    data = census(source)
    tables = {}
    for name in ("train", "valid", "test"):
        tables[name] = getattr(data, name).inputs
    encode = encoder(tables["train"], CATEGORICAL, NUMERIC)
    sizes = list(encode.cardinalities.values())
    parts = {}
    for name, table in tables.items():
        arrays = encode(table)
        categories, numeric = arrays["categorical"], arrays["numeric"]
        hot = [
            np.eye(size, dtype=np.float32)[own]
            for size, own in zip(sizes, categories.T, strict=True)
        ]
        parts[name] = Part(
            {key: torch.from_numpy(values) for key, values in arrays.items()},
            np.hstack([categories.astype(np.float32), numeric]),
            np.hstack([*hot, numeric]),
            np.asarray(table["age"]),
            getattr(data, name).targets,
        )
    return parts, sizes


class Supply(NamedTuple):
    """Which training rows have the label of which task, and which rows validate."""

    known: dict[str, np.ndarray]
    valid: np.ndarray


def supplied(labels: str, seed: int) -> Supply:
    """Draw the rows of one seed."""
    parts, _ = load(experiments.source())
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(parts["train"].age))[:ROWS]
    valid = np.arange(len(parts["valid"].age))
    if not labels:
        return Supply({MAIN: order, OTHER: order}, valid[:VALID])
    few = min(FEW[labels], len(order) // 2)
    found = []
    for name, rows, count in (("train", order, few), ("valid", valid, min(few, len(valid) // 2))):
        odds = np.ones(len(rows))
        if labels == "late labels":
            odds = np.exp(-parts[name].age[rows] / EARLY)
        found.append(draw.choice(rows, count, replace=False, p=odds / odds.sum()))
    return Supply({MAIN: found[0], OTHER: np.setdiff1d(order, found[0])}, found[1])


def network(condition: str, kind: str, tasks: list[str]) -> nn.Module:
    """Build a network for these tasks."""
    _, sizes = load(experiments.source())
    embed = TableEmbedding(sizes, len(NUMERIC))
    width = WIDTHS.get(condition, WIDTHS.get(kind, WIDTH))
    heads = linear_heads([Binary(task) for task in tasks], width)
    if kind == "MMoE":
        gate = partial(nn.Linear, embed.width)
        return MMoE(lambda: mlp(embed.width, width, width), gate, heads, bottom=embed)
    return HardSharing(nn.Sequential(embed, mlp(embed.width, width, width)), heads)


def taken(part: str, rows: Any) -> dict[str, Tensor]:
    """Give some rows as a network reads them."""
    inputs = load(experiments.source())[0][part].inputs
    return {name: values[rows] for name, values in inputs.items()}


def learn(
    model: nn.Module,
    known: dict[str, np.ndarray],
    labels: Labels,
    judged: tuple[list[str], np.ndarray],
    *,
    setting: dict[str, float],
    seed: int,
    steps: int,
) -> None:
    """Train with Adam, its rate falling to 0; keep what validates best, mean AUC of judged tasks."""
    tasks, valid = judged
    weights = {OTHER: setting.get("weight", 1.0)}
    targets = {task: torch.from_numpy(own).float()[:, None] for task, own in labels.items()}
    same = len({id(rows) for rows in known.values()}) == 1
    validation = taken("valid", torch.from_numpy(valid))
    draw = np.random.default_rng(seed)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    best, kept = -np.inf, model.state_dict()
    for step in range(1, steps + 1):
        if same:  # a row brings the labels of all tasks
            picked = dict.fromkeys(known, draw.choice(next(iter(known.values())), BATCH))
            rows, places = next(iter(picked.values())), dict.fromkeys(known, slice(None))
        else:
            picked = {task: draw.choice(own, BATCH) for task, own in known.items()}
            rows = np.concatenate(list(picked.values()))
            places = {task: slice(i * BATCH, (i + 1) * BATCH) for i, task in enumerate(known)}
        outputs = model(taken("train", torch.from_numpy(rows)))
        losses = [
            weights.get(task, 1.0)
            * binary_cross_entropy_with_logits(outputs[task][places[task]], targets[task][own])
            for task, own in picked.items()
        ]
        adam.param_groups[0]["lr"] = setting["rate"] * (1 - (step - 1) / steps)
        adam.zero_grad()
        torch.stack(losses).sum().backward()
        adam.step()
        if step % max(1, steps // LOOKS) == 0:
            with torch.no_grad():
                outputs = model(validation)
            truth = load(experiments.source())[0]["valid"].labels
            now = np.mean([area(truth[task][valid], outputs[task][:, 0].numpy()) for task in tasks])
            if now > best:
                best, kept = float(now), copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)


def area(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Give the AUC in per cent; 50 where it does not exist, in a smoke run."""
    return 100 * float(roc_auc_score(truth, outputs)) if 0 < truth.mean() < 1 else 50.0


def measured(
    outputs: dict[str, dict[str, np.ndarray]], supply: Supply, labels: str
) -> dict[str, float]:
    """Give the AUC of each task, from outputs by part and task for all rows of the part."""
    parts, _ = load(experiments.source())
    found = {}
    for part, own in outputs.items():
        rows = supply.valid if part == "valid" else np.arange(len(parts[part].age))
        for task, scores in own.items():
            found[f"{part}_{task}_auc"] = area(parts[part].labels[task][rows], scores[rows])
    found["valid_auc"] = found[f"valid_{MAIN}_auc"]
    if not labels:
        for part in outputs:
            found[f"{part}_mean_auc"] = (
                sum(found[f"{part}_{task}_auc"] for task in (MAIN, OTHER)) / 2
            )
        found["valid_auc"] = found.pop("valid_mean_auc")
    return found


def boosted(
    setting: dict[str, float], fit: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray],
    others: dict[str, np.ndarray], steps: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Train trees, take as many as are best on validation rows, and give their outputs on others."""
    trees = HistGradientBoostingClassifier(
        learning_rate=setting["rate"], max_leaf_nodes=int(setting["leaves"]), max_iter=max(1, steps // 4),
        categorical_features=list(range(len(CATEGORICAL))), early_stopping=False, random_state=0,
    )  # fmt: skip
    trees.fit(*fit)
    areas = [area(valid[1], said[:, 1]) for said in trees.staged_predict_proba(valid[0])]
    last = int(np.argmax(areas))
    return {
        part: next(islice(trees.staged_predict_proba(columns), last, None))[:, 1]
        for part, columns in others.items()
    }


def without_network(
    kind: str, setting: dict[str, float], supply: Supply, tasks: list[str], steps: int
) -> dict[str, dict[str, np.ndarray]]:
    """Give the outputs of logistic regression or of trees."""
    parts, _ = load(experiments.source())
    outputs: dict[str, dict[str, np.ndarray]] = {"valid": {}, "test": {}}
    columns = {name: part.columns for name, part in parts.items()}
    if kind == "trees with a guess":
        rows, truth = supply.known[OTHER], parts["train"].labels[OTHER]
        every = np.arange(len(columns["valid"]))[:VALID]
        guess = boosted(
            {"rate": 0.1, "leaves": 15}, (columns["train"][rows], truth[rows]),
            (columns["valid"][every], parts["valid"].labels[OTHER][every]), columns, min(steps, GUESSING),
        )  # fmt: skip
        columns = {name: np.hstack([own, guess[name][:, None]]) for name, own in columns.items()}
    for task in tasks:
        rows, truth = supply.known[task], parts["train"].labels[task]
        if kind == "linear":
            linear = LogisticRegression(C=setting["C"], max_iter=500)
            linear.fit(parts["train"].one_hot[rows], truth[rows])
            said = {name: linear.decision_function(parts[name].one_hot) for name in outputs}
        else:
            valid = columns["valid"][supply.valid], parts["valid"].labels[task][supply.valid]
            others = {name: columns[name] for name in outputs}
            said = boosted(setting, (columns["train"][rows], truth[rows]), valid, others, steps)
        for name, scores in said.items():
            outputs[name][task] = scores
    return outputs


@torch.no_grad()
def gates_apart(model: MMoE) -> float:
    """Give how much the two tasks' gates differ on a row, in per cent: 100 if they share no expert."""
    gates = model.gate_weights(load(experiments.source())[0]["test"].inputs)
    return 50 * float((gates[MAIN] - gates[OTHER]).abs().sum(dim=1).mean())


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model, or one a task, and give each task's AUC in per cent."""
    words = condition.split(", ")
    labels = words[-1] if words[-1] in FEW else ""
    kind, supply = words[0], supplied(labels, seed)
    parts, _ = load(experiments.source())
    judged = [MAIN] if labels else [MAIN, OTHER]
    if kind in ("linear", "trees", "trees with a guess"):
        found = without_network(kind, setting, supply, judged, steps)
        return measured(found, supply, labels)

    known, truth = dict(supply.known), parts["train"].labels
    if "same rows" in words:
        known[OTHER] = known[MAIN]
    if kind == "pending is no":  # every row has an answer, and most of these are wrong
        told = np.zeros_like(truth[MAIN])
        told[known[MAIN]] = truth[MAIN][known[MAIN]]
        truth = truth | {MAIN: told}
        known = {MAIN: np.concatenate([*known.values()])}
    alone = kind in ("alone", "pending is no")
    found = {"valid": {}, "test": {}}
    apart = None
    for tasks in [[task] for task in judged] if alone else [[MAIN, OTHER]]:
        torch.manual_seed(seed)
        model = network(condition, kind, tasks)
        own = {task: known[task] for task in tasks}
        learned = [task for task in tasks if task in judged]
        judge = learned, supply.valid
        learn(model, own, truth, judge, setting=setting, seed=seed, steps=steps)
        for name in found:
            with torch.no_grad():
                outputs = model(parts[name].inputs)
            found[name] |= {task: outputs[task][:, 0].numpy() for task in tasks}
        if isinstance(model, MMoE):
            apart = gates_apart(model)
    result = measured(found, supply, labels)
    return result if apart is None else result | {"gates_apart": apart}


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (3e-3, 1e-2, 3e-2)]
    weighted = [{"rate": 1e-2, "weight": weight} for weight in (0.1, 0.3, 3.0)]
    slow = [{"rate": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-4)]
    slow_weighted = [{"rate": 3e-3, "weight": weight} for weight in (0.1, 0.3, 3.0)]
    inverse = [{"C": c} for c in (0.01, 0.1, 1.0, 10.0, 100.0)]
    many = [{"rate": 0.1, "leaves": leaves} for leaves in (7, 15, 31)]
    small = [{"rate": rate, "leaves": leaves} for rate in (0.03, 0.1) for leaves in (3, 15)]
    small += [{"rate": 0.1, "leaves": 2}]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "alone": rates,
                "alone, half size": rates,
                "hard": rates,
                "hard, tuned weights": weighted,
                "MMoE": rates,
                "linear": inverse[1:],
                "trees": many,
                "alone, 200 labels": slow,
                "hard, 200 labels": slow,
                "hard, tuned weights, 200 labels": slow_weighted,
                "hard, same rows, 200 labels": slow[:3],
                "linear, 200 labels": inverse[:4],
                "trees, 200 labels": small,
                "trees with a guess, 200 labels": small,
                "alone, late labels": slow[:3],
                "hard, late labels": slow[:3],
                "pending is no, late labels": slow[:3],
                "linear, late labels": inverse[:4],
                "trees, late labels": small[:4],
                "trees with a guess, late labels": small[:4],
            },
            data=census,
            seeds=range(20, 30),  # others than those it was tried out with
            steps=600,
            smoke_steps=8,
            choose_by="valid_auc",
            baseline="alone",
            primary=[
                ("hard", "alone", "test_mean_auc"),
                ("MMoE", "hard", "test_mean_auc"),
                ("hard, 200 labels", "alone, 200 labels", "test_income_auc"),
                ("hard, 200 labels", "trees with a guess, 200 labels", "test_income_auc"),
            ],
        )
    )
