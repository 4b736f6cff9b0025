"""A recommender in PyTorch: click, purchase and retention, by hand and with the library.

``python examples/recommender_pytorch.py`` takes well under a minute. The data and its truth are
described in ``recommender_data.py``. The loop written by hand and ``fit`` with equal weights take the
same steps; another weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import numpy as np
import torch
import torch.nn.functional as F
from recommender_data import Log, linear_scores, make, true_scores
from results import show
from torch import Tensor, nn

from mtl_tutorial.pytorch import evaluate, fit
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE = 512, 3e-3


class Recommender(nn.Module):
    """Who the user is, then how user and item match: two features, the second made of the first."""

    def __init__(self, items: int, cardinalities: dict[str, int], numeric: int, width: int = 8):
        super().__init__()
        self.item = nn.Embedding(items + 1, width, padding_idx=0)
        self.categorical = nn.ModuleList(nn.Embedding(n, width) for n in cardinalities.values())
        inputs = width * (1 + len(cardinalities)) + numeric
        self.user = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Dropout(0.2))
        self.taste = nn.Linear(32, width)
        self.match = nn.Sequential(nn.Linear(32 + 2 * width, 32), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(32, 1) for name in ("click", "purchase", "retention")}
        )
        for table in (self.item, *self.categorical):
            nn.init.normal_(table.weight, std=0.1)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give both features, each of shape (N, 32)."""
        history, item = self.item(inputs["history"]), self.item(inputs["item"])
        columns = inputs["categorical"].unbind(1)
        own = [table(c) for table, c in zip(self.categorical, columns, strict=True)]
        user = self.user(torch.cat([history.mean(dim=1), *own, inputs["numeric"]], dim=1))
        both = torch.cat([user, item, item * self.taste(user)], dim=1)
        return {"user": user, "match": self.match(both)}

    def decode(self, features: dict[str, Tensor], tasks: list[str] | None = None):
        """Give logits, shape (N, 1); whether a user comes back does not depend on this item."""
        return {
            name: self.heads[name](features["user" if name == "retention" else "match"])
            for name in (self.heads if tasks is None else tasks)
        }

    def shared_parameters(self) -> list[nn.Parameter]:
        """Give all but the heads."""
        return [p for name, p in self.named_parameters() if not name.startswith("heads")]


def build(log: Log) -> Recommender:
    """Give the network, the same each time."""
    torch.manual_seed(0)
    encode = log.encode
    items = int(max(split.inputs["item"].max() for split in (log.train, log.valid, log.test)))
    return Recommender(items, encode.cardinalities, len(encode.numeric))


def by_hand(log: Log, epochs: int) -> Recommender:
    """Train with the loop that ``fit`` replaces."""
    model = build(log)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    inputs = {name: torch.from_numpy(array) for name, array in log.train.inputs.items()}
    targets = {name: torch.from_numpy(array) for name, array in log.train.targets.items()}
    balance = {task.name: torch.tensor(task.pos_weight) for task in log.tasks}
    generator = np.random.default_rng(0)
    for _ in range(epochs):
        model.train()
        order = torch.from_numpy(generator.permutation(len(log.train)))
        for rows in order.split(BATCH):
            outputs = model.decode(model.encode({n: array[rows] for n, array in inputs.items()}))
            loss = torch.zeros(())
            for name, output in outputs.items():
                labels = targets[name][rows]
                known = labels >= 0
                if known.any():  # the mean of nothing is NaN
                    loss = loss + F.binary_cross_entropy_with_logits(
                        output[known, 0], labels[known].float(), pos_weight=balance[name]
                    )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def with_library(log: Log, epochs: int, weighting) -> Recommender:
    """Train the same network in the same order, with any weighting."""
    model = build(log)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    fit(
        model, log.tasks, log.train, log.valid, epochs=epochs, batch_size=BATCH,
        optimizer=optimizer, weighting=weighting, device="cpu",
    )  # fmt: skip
    return model


def main(users: int = 1920, epochs: int = 5) -> dict[str, dict[str, float]]:
    """Train in three ways, print the metrics of the test rows, and give them."""
    log = make(users)
    columns = {"logistic regression": linear_scores(log)}
    columns["by hand"] = evaluate(by_hand(log, epochs), log.tasks, log.test)
    for weighting in (Equal(), UPGrad()):
        model = with_library(log, epochs, weighting)
        columns[type(weighting).__name__] = evaluate(model, log.tasks, log.test)
    columns["the truth"] = true_scores(log)
    show("test", columns, list(columns["the truth"]))
    return columns


if __name__ == "__main__":
    main()
