r"""A shop's log of what it showed: clicks, purchases, and who came back.

The log is made, so the truth is known. The taste :math:`p_u` of a user is that of the country plus
one's own; an item is like its category, plus something of its own. Every user is shown one item a
day, and with :math:`\sigma` the logistic function

- *click*: :math:`\sigma(\langle p_u, q_i \rangle + b_i - 2.3)`, taste and popularity: about one
  impression in seven;
- *purchase*, given a click: :math:`\sigma(\langle p_u, q'_i \rangle - c_i + w_u - 1.5)`, the item's
  other side, its price and the user's means. Without a click nobody knows whether the user would have
  bought: the label is missing (-1), not 0. So the model learns the purchase *given a click*, and is
  measured on clicked impressions, as the shop would use it: P(click) P(purchase | click);
- *retention*, whether the user is back within the week:
  :math:`\sigma(r_u + 10 (f - 0.15) - 0.3)`, with :math:`f` the share of the last ten items that the user
  clicked. For the last days of the training log it is not known yet, so it is missing.

The inputs say who a user is by the columns and the history; there is no number of the user, which
with some thirty impressions each would be learned by heart. Train, validation and test rows follow
each other in time.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtl_tutorial.datasets import Split
from mtl_tutorial.metrics import scores
from mtl_tutorial.tabular import Encoder, encoder
from mtl_tutorial.tasks import Binary

HISTORY = 10
UNKNOWN_DAYS = 3  # at the end of the training log nobody knows yet who comes back


@dataclass(frozen=True)
class Log:
    """The log in three splits, the encoder of its columns, and the truth of the test rows."""

    train: Split
    valid: Split
    test: Split
    encode: Encoder
    truth: dict[str, np.ndarray]
    """Of each task the true log-odds of the test rows: no model can do better on average."""

    @property
    def tasks(self) -> list[Binary]:
        """Click, purchase, retention; each yes counts as much as there are no for it."""
        metrics = ["auc", "average_precision"]
        found = []
        for name, labels in self.train.targets.items():
            balance = float((labels == 0).sum() / (labels == 1).sum())
            found.append(Binary(name, pos_weight=balance, metrics=metrics))
        return found


def make(users: int = 1920, items: int = 300, days: int = 40, seed: int = 0) -> Log:
    """Make the log: ``users * days`` impressions; inputs are a dict of four arrays.

    ``"item"``, shape (N,), and ``"history"``, (N, 10): numbers of items from 1, 0 for none. The
    history holds those the user clicked among the last ten shown. ``"categorical"``, (N, 3):
    country, device, category; and ``"numeric"``, (N, 3): price, age of the account, share of clicks.
    """
    draw = np.random.default_rng(seed)
    country, category = draw.integers(0, 8, users), draw.integers(0, 12, items)
    taste = draw.normal(size=(8, 4))[country] + 0.5 * draw.normal(size=(users, 4))
    looks, use = 0.6 * draw.normal(size=(2, 12, 4))[:, category] + 0.2 * draw.normal(
        size=(2, items, 4)
    )
    popularity, price = draw.normal(size=(2, items)) * 0.5
    means = 0.4 * draw.normal(size=8)[country] + 0.4 * draw.normal(size=users)
    loyalty = 0.5 * draw.normal(size=users)
    joined = draw.integers(0, 1000, users)

    rows = []
    shown = np.zeros((users, HISTORY), int)  # the last items, number 0 where there was none
    clicked = np.zeros((users, HISTORY), int)
    for day in range(days):
        item = draw.integers(0, items, users)
        rate = clicked.mean(axis=1)
        logits = {
            "click": (taste * looks[item]).sum(1) + popularity[item] - 2.3,
            "purchase": (taste * use[item]).sum(1) - price[item] + means - 1.5,
            "retention": loyalty + 10 * (rate - 0.15) - 0.3,
        }
        labels = {n: (draw.random(users) < 1 / (1 + np.exp(-z))) * 1 for n, z in logits.items()}
        labels["purchase"] = np.where(labels["click"] == 1, labels["purchase"], -1)
        columns = {
            "country": country, "device": draw.integers(0, 3, users),
            "category": category[item], "price": price[item], "account": joined + day, "rate": rate,
        }  # fmt: skip
        rows.append((item + 1, np.where(clicked, shown, 0), columns, labels, logits))
        shown = np.c_[shown[:, 1:], item + 1]
        clicked = np.c_[clicked[:, 1:], labels["click"]]

    edges = [0, days * 7 // 10, days * 8 // 10, days]
    parts = [rows[a:b] for a, b in pairwise(edges)]
    for _, _, _, labels, _ in parts[0][-UNKNOWN_DAYS:]:
        labels["retention"][:] = -1
    known = _joined([row[2] for row in parts[0]])
    encode = encoder(known, ["country", "device", "category"], ["price", "account", "rate"])
    splits = [
        Split(
            {
                "item": np.concatenate([row[0] for row in part]),
                "history": np.concatenate([row[1] for row in part]),
                **encode(_joined([row[2] for row in part])),
            },
            _joined([row[3] for row in part]),
        )
        for part in parts
    ]
    return Log(*splits, encode, _joined([row[4] for row in parts[2]]))


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def true_scores(log: Log) -> dict[str, float]:
    """Metrics of the truth itself on the test rows."""
    return scores(log.tasks, {name: z[:, None] for name, z in log.truth.items()}, log.test.targets)


def linear_scores(log: Log) -> dict[str, float]:
    """Metrics of the simplest model: a logistic regression a task, on one-hot item and columns."""
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    def columns(split: Split) -> np.ndarray:
        return np.c_[split.inputs["item"], split.inputs["categorical"]]

    one_hot = OneHotEncoder(handle_unknown="ignore").fit(columns(log.train))
    train, test = (
        hstack([one_hot.transform(columns(split)), split.inputs["numeric"]]).tocsr()
        for split in (log.train, log.test)
    )
    outputs = {}
    for name, labels in log.train.targets.items():
        model = LogisticRegression(C=0.1, max_iter=200).fit(train[labels >= 0], labels[labels >= 0])
        outputs[name] = model.decision_function(test)[:, None]
    return scores(log.tasks, outputs, log.test.targets)
