"""Who would buy, learned from those who clicked: sample-selection bias, and ESMM.

A made-up shop shows items to users. Some are clicked; of those some are bought. Whether a row that
nobody clicked would have been bought, if clicked, is not known, but it is what a recommender asks
for. As the data are made up, the test knows. Items that promise much are clicked more and bought less
(bait), so that those who clicked are unlike the rest. All networks have one table of vectors for
users and items, and a tower for each task:

- clicked only: one tower, for purchases, on the rows that were clicked;
- not clicked is no: the same on all rows, as if none of the others would have been bought;
- shared: two towers on the one table; clicks on all rows, purchases on clicked ones;
- inverse propensity: shared, a clicked row weighted by one over its predicted chance of a click;
- ESMM: shared, with two losses on all rows: of the click, and of click and purchase, whose
  probability is the product of both towers'.

Named before it was run, in AUC of the purchase on all test rows, in per cent:

1. ESMM against clicked only: does it mend the bias?
2. ESMM against shared: is it the product, or the shared table?
3. shared against clicked only: do the clicks help, unchanged?
4. inverse propensity against clicked only.

Beside them: logistic regression on the clicked rows, tuned static weights, and a shop without bait.
Settings are chosen, and networks kept, by what a shop can see: AUC of the purchase on clicked rows.
"""

import copy
from functools import cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, logsigmoid

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split, clicks_and_purchases
from mtl_tutorial.pytorch import HardSharing, TableEmbedding, mlp

CLICK, PURCHASE = "click", "purchase"
BATCH = 256
LOOKS = 16  # at the validation rows
WIDTH = 32
RAREST = 0.05  # a chance of a click below this counts as this: one row should not outweigh all


def shop(source: str) -> Dataset:
    """Give the first shop; there is no real one."""
    return clicks_and_purchases()


@cache
def load(source: str, bait: float, seed: int) -> dict[str, Split]:
    """Give the parts of the shop of one seed; a small one in a smoke run."""
    rows = 20_000 if source == "real" else 2000
    data = clicks_and_purchases(rows, bait, seed)
    return {"train": data.train, "valid": data.valid, "test": data.test}


def tower(width: int) -> nn.Module:
    """Build a task's own layers."""
    return nn.Sequential(mlp(width, WIDTH, WIDTH), nn.Linear(WIDTH, 1))


def tensors(split: Split) -> dict[str, Tensor]:
    """Give the inputs of rows."""
    return {name: torch.from_numpy(values) for name, values in split.inputs.items()}


def loss(kind: str, outputs: dict[str, Tensor], labels: dict[str, Tensor], weight: float) -> Tensor:
    """Give the loss of a batch, from logits and labels of shape (N,)."""
    click, bought = labels[CLICK], labels[PURCHASE].clamp(min=0)
    said = outputs[PURCHASE]
    if kind == "not clicked is no":
        return binary_cross_entropy_with_logits(said, bought)
    if kind == "ESMM":
        both = (logsigmoid(outputs[CLICK]) + logsigmoid(said)).exp()
        second = binary_cross_entropy(both.clamp(1e-7, 1 - 1e-7), bought)
    else:
        counts = click
        if kind == "inverse propensity":
            counts = click / outputs[CLICK].sigmoid().detach().clamp(min=RAREST)
        each = binary_cross_entropy_with_logits(said, bought, weight=counts, reduction="sum")
        second = each / counts.sum().clamp(min=1)
    if kind == "clicked only":
        return second
    return weight * binary_cross_entropy_with_logits(outputs[CLICK], click) + second


def area(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Give the AUC in per cent."""
    return 100 * float(roc_auc_score(truth, outputs))


def measured(split: Split, name: str, outputs: dict[str, np.ndarray]) -> dict[str, float]:
    """Give AUCs of logits: of the purchase where clicked and everywhere, of the click, of both."""
    click, purchase = split.targets[CLICK], split.targets[PURCHASE]
    said, clicked = outputs[PURCHASE], click == 1
    found = {f"{name}_clicked_auc": area(purchase[clicked], said[clicked])}
    if CLICK in outputs:
        found[f"{name}_click_auc"] = area(click, outputs[CLICK])
        both = -np.logaddexp(0, -outputs[CLICK]) - np.logaddexp(0, -said)
        found[f"{name}_bought_auc"] = area(click * (purchase == 1), both)
    if name == "test":
        found[f"{name}_everyone_auc"] = area(purchase, said)
    return found


def one_hot(split: Split) -> np.ndarray:
    """Give rows for logistic regression."""
    user, item = split.inputs["categorical"].T
    hot = [np.eye(61, dtype=np.float32)[user], np.eye(81, dtype=np.float32)[item]]
    return np.hstack([*hot, split.inputs["numeric"]])


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model on the shop of this seed, and measure it."""
    kind, _, rest = condition.partition(", ")
    parts = load(experiments.source(), 0.0 if rest == "no bait" else 2.0, seed)
    own = parts["train"]
    clicked = np.flatnonzero(own.targets[CLICK])
    found: dict[str, float] = {}
    if kind == "linear":
        linear = LogisticRegression(C=setting["C"], max_iter=500)
        linear.fit(one_hot(own)[clicked], own.targets[PURCHASE][clicked])
        for name in ("valid", "test"):
            said = linear.decision_function(one_hot(parts[name]))
            found |= measured(parts[name], name, {PURCHASE: said})
        return found

    torch.manual_seed(seed)
    embed = TableEmbedding([61, 81], numeric=2)
    tasks = [PURCHASE] if kind in ("clicked only", "not clicked is no") else [CLICK, PURCHASE]
    model = HardSharing(embed, {task: tower(embed.width) for task in tasks})
    inputs, valid = tensors(own), tensors(parts["valid"])
    labels = {task: torch.from_numpy(values).float() for task, values in own.targets.items()}
    draw = np.random.default_rng(seed)
    pool = clicked if kind == "clicked only" else np.arange(len(own))
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    best, kept = -np.inf, model.state_dict()
    for step in range(1, steps + 1):
        rows = torch.from_numpy(draw.choice(pool, BATCH))
        outputs = model({name: values[rows] for name, values in inputs.items()})
        logits = {task: values[:, 0] for task, values in outputs.items()}
        truth = {task: values[rows] for task, values in labels.items()}
        adam.param_groups[0]["lr"] = setting["rate"] * (1 - (step - 1) / steps)  # down to 0
        adam.zero_grad()
        loss(kind, logits, truth, setting.get("weight", 1.0)).backward()
        adam.step()
        if step % max(1, steps // LOOKS) == 0:
            now = measured(parts["valid"], "valid", answers(model, valid))["valid_clicked_auc"]
            if now > best:
                best, kept = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    for name in ("valid", "test"):
        found |= measured(parts[name], name, answers(model, tensors(parts[name])))
    return found


@torch.no_grad()
def answers(model: HardSharing, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Give the logits of each task, shape (N,)."""
    return {task: values[:, 0].numpy() for task, values in model(inputs).items()}


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (5e-3, 1.5e-2, 4e-2)]
    weighted = [{"rate": 4e-2, "weight": weight} for weight in (0.3, 3.0)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "clicked only": rates,
                "linear": [{"C": c} for c in (0.1, 1.0, 10.0)],
                "not clicked is no": rates,
                "shared": rates,
                "shared, tuned weights": weighted,
                "inverse propensity": rates,
                "ESMM": rates,
                "ESMM, tuned weights": weighted,
                "clicked only, no bait": rates,
                "ESMM, no bait": rates,
            },
            data=shop,
            seeds=range(20, 30),  # others than those it was tried out with
            steps=1000,
            smoke_steps=6,
            choose_by="valid_clicked_auc",
            baseline="clicked only",
            primary=[
                ("ESMM", "clicked only", "test_everyone_auc"),
                ("ESMM", "shared", "test_everyone_auc"),
                ("shared", "clicked only", "test_everyone_auc"),
                ("inverse propensity", "clicked only", "test_everyone_auc"),
            ],
        )
    )
