"""What helps an LSTM to read reviews: the domain, heads of their own, the framework's start.

The network is the article's: word vectors, an LSTM, a head on its last state. It reads two sets of
about 2,000 sentences: the real ones (Amazon, IMDb, Yelp), and reviews that a grammar wrote, in which
order decides ("the plot was clever but the film was boring") and some words change their sentiment
with the domain. Every network is judged by the sentiment, at the epoch that reads most validation
sentences right. The real sentences get half as many steps: there all networks soon overfit.

Named before it was run, each in accuracy of the sentiment:

1. real, with domain against real, alone: does a second head for the domain help?
2. real, Keras's start against real, alone: does the initialisation of LSTM and head matter?
3. reviews, three heads against reviews, three networks: each domain's sentiment a task of its own;
   does sharing the trunk help?
4. reviews, alone against reviews, three heads: one head for all domains; does it help to share that?

Beside them, on both sets: a bag of words and a bag of pairs of words (logistic regression), and the
same questions on the other set. "alone" is one network with one head for the sentiment of all
domains, begun as PyTorch does; "wide start" draws the word vectors from N(0, 1), PyTorch's default
for a table, where all others draw from U(-0.05, 0.05), Keras's.
"""

# A part that torch's modules hold is to mypy a tensor or a module, and a sum of losses perhaps 0:
# mypy: disable-error-code="union-attr, arg-type, operator, no-any-return"

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments, text
from mtl_tutorial.datasets import Dataset, sentiment
from mtl_tutorial.pytorch import TextLSTM

LENGTH, BATCH = 32, 128
EMBEDDING, UNITS, DROPOUT = 32, 32, 0.2
TASKS = ("sentiment", "domain")
EPOCH = 16  # steps: about 2,000 sentences in batches of 128
Sentences = dict[str, Tensor]  # ids, sentiment, domain


@cache
def load(source: str, seed: int) -> Dataset:
    """Give the sentences, split by the seed."""
    return sentiment(source, seed=seed)


@cache
def read(source: str, seed: int) -> tuple[int, dict[str, Sentences]]:
    """Give the size of the vocabulary of the training split, and the parts as numbers."""
    data = load(source, seed)
    words = text.vocabulary(data.train.inputs, min_count=2)
    parts = {}
    for name in ("train", "valid", "test"):
        split = getattr(data, name)
        parts[name] = {"ids": torch.from_numpy(text.encode(split.inputs, words, LENGTH))}
        parts[name] |= {task: torch.from_numpy(y) for task, y in split.targets.items()}
    return len(words), parts


def counted(data: Dataset, sentences: str, pairs: bool, strength: float) -> dict[str, float]:
    """Fit a logistic regression on which words occur, or also on which pairs of neighbours."""
    found = {}
    for task in TASKS:
        count = CountVectorizer(
            tokenizer=text.tokenize, token_pattern=None, binary=True, ngram_range=(1, 1 + pairs)
        )
        model = make_pipeline(count, LogisticRegression(C=strength, max_iter=1000))
        model.fit(data.train.inputs, data.train.targets[task])
        for name, part in (("valid", data.valid), ("test", data.test)):
            score = 100 * model.score(part.inputs, part.targets[task])
            found[f"{name}_{sentences}_{task}_accuracy"] = score
    return found | {"valid_accuracy": found[f"valid_{sentences}_sentiment_accuracy"]}


class Reader(nn.Module):
    """Trunks and heads, one for all domains or one each; `start` says how they begin."""

    def __init__(self, words: int, trunks: int, heads: int, start: str) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(
            TextLSTM(words, EMBEDDING, UNITS, DROPOUT) for _ in range(trunks)
        )
        self.heads = nn.ModuleList(nn.Linear(UNITS, 2) for _ in range(heads))
        self.domain = nn.Linear(UNITS, 3)
        if start == "wide start":
            nn.init.normal_(self.trunks[0].embedding.weight)
        if start == "Keras's start":
            lstm = self.trunks[0].lstm
            nn.init.xavier_uniform_(lstm.weight_ih_l0)
            nn.init.orthogonal_(lstm.weight_hh_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            forget = (torch.arange(4 * UNITS) // UNITS == 1).float()  # its bias begins at 1
            lstm.bias_ih_l0.data.copy_(forget)
            for head in (*self.heads, self.domain):
                nn.init.xavier_uniform_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, ids: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Give the logits of the sentiment, read by each domain's own parts, and of the domain."""
        features = by_domain(self.trunks, ids, domain)
        return by_domain(self.heads, features, domain), self.domain(features)


def by_domain(layers: nn.ModuleList, inputs: Tensor, domain: Tensor) -> Tensor:
    """Send each row through the layer of its domain; through the only one, if there is one."""
    if len(layers) == 1:
        return layers[0](inputs)
    own = [(domain == number).nonzero()[:, 0] for number in range(len(layers))]
    outputs = [layer(inputs[rows]) for layer, rows in zip(layers, own, strict=True) if len(rows)]
    return torch.cat(outputs)[torch.cat(own).argsort()]


def epochs(ids: Tensor, draw: np.random.Generator) -> Iterator[Tensor]:
    """Give rows without end: in each epoch all, sentences of like length in one batch."""
    length = (ids != 0).sum(1).numpy()
    while True:
        order = np.argsort(length + draw.uniform(0, 4, len(ids)))
        starts = np.arange(0, len(order), BATCH)
        for start in draw.permutation(starts):
            yield torch.from_numpy(order[start : start + BATCH])


@torch.no_grad()
def right(model: Reader, part: Sentences) -> dict[str, float]:
    """Give the share of right answers to either question, in per cent."""
    model.eval()
    outputs = model(part["ids"], part["domain"])
    model.train()
    return {
        task: 100 * (output.argmax(1) == part[task]).float().mean().item()
        for task, output in zip(TASKS, outputs, strict=True)
    }


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model and measure it, in per cent."""
    sentences, kind = condition.split(", ")
    source = experiments.source() if sentences == "real" else "embedded"
    if kind.startswith("bag"):
        return counted(load(source, seed), sentences, kind == "bag of pairs", setting["C"])

    steps = steps // 2 if sentences == "real" else steps
    torch.manual_seed(seed)
    words, parts = read(source, seed)
    trunks = 3 if kind == "three networks" else 1
    model = Reader(words, trunks, 3 if kind.startswith("three") else 1, kind)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    part, draw = parts["train"], np.random.default_rng(seed)
    weights = {"domain alone": (0.0, 1.0), "with domain": (1.0, setting.get("weight", 0.0))}
    learned = ["domain"] if kind == "domain alone" else ["sentiment"]
    learned += ["domain"] if kind == "with domain" else []
    found = {"valid_accuracy": 0.0, "epoch": 0.0}
    for step, rows in zip(range(1, steps + 1), epochs(part["ids"], draw), strict=False):
        outputs = model(part["ids"][rows], part["domain"][rows])
        loss = sum(
            weight * cross_entropy(output, part[task][rows])
            for task, output, weight in zip(
                TASKS, outputs, weights.get(kind, (1.0, 0.0)), strict=True
            )
            if weight
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % EPOCH and step < steps:
            continue
        if step == 2 * EPOCH:
            early = right(model, parts["test"])[learned[0]]
            found[f"test_{sentences}_{learned[0]}_early_accuracy"] = early
        valid = right(model, parts["valid"])[learned[0]]
        if valid > found["valid_accuracy"]:
            test = right(model, parts["test"])
            found |= {f"test_{sentences}_{task}_accuracy": test[task] for task in learned}
            found |= {"valid_accuracy": valid, "epoch": step / EPOCH}
    return found


if __name__ == "__main__":

    def rates(*rates: float) -> list[dict[str, float]]:
        """Give a setting for each rate."""
        return [{"rate": rate} for rate in rates]

    def weighted(*rates: float) -> list[dict[str, float]]:
        """Give a setting for each rate and weight of the domain."""
        return [{"rate": rate, "weight": weight} for rate in rates for weight in (0.1, 0.3, 1)]

    strengths = [{"C": c} for c in (0.1, 0.3, 1, 3, 10)]
    slow, fast = (3e-3, 1e-2), (1e-2, 2e-2)
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "real, alone": rates(*slow),
                "real, bag of words": strengths,
                "real, bag of pairs": strengths,
                "real, with domain": weighted(*slow),
                "real, domain alone": rates(1e-2),
                "real, Keras's start": rates(*slow),
                "real, wide start": rates(*slow),
                "real, three heads": rates(*slow),
                "real, three networks": rates(*slow),
                "reviews, alone": rates(*fast),
                "reviews, bag of words": strengths,
                "reviews, bag of pairs": strengths,
                "reviews, with domain": weighted(*fast),
                "reviews, Keras's start": rates(*fast),
                "reviews, three heads": rates(*fast),
                "reviews, three networks": rates(*fast),
            },
            data=sentiment,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=16 * EPOCH,
            smoke_steps=4,
            choose_by="valid_accuracy",
            baseline="real, alone",
            primary=[
                ("real, with domain", "real, alone", "test_real_sentiment_accuracy"),
                ("real, Keras's start", "real, alone", "test_real_sentiment_accuracy"),
                (
                    "reviews, three heads",
                    "reviews, three networks",
                    "test_reviews_sentiment_accuracy",
                ),
                ("reviews, alone", "reviews, three heads", "test_reviews_sentiment_accuracy"),
            ],
        )
    )
