"""A third task: what labels of the intent and of every word do for the topic.

Requests to a customer service that a grammar wrote, each with a topic, an intent, and a tag for every
word. The topic is known of 100 requests. The partners, intent and tags, are known of the same 100, or
of all 2,000. Each step sees 32 requests with a topic and, if there are partners, 32 with theirs. A
network is judged at the step at which it reads most validation topics right.

Named before it was run, each in accuracy of the topic with 100 labelled requests:

1. LSTM, same requests against LSTM, alone: do two more heads help where they bring no new request?
2. LSTM, pool against LSTM, alone: do they help where they bring 1,900 more requests?
3. LSTM, pool against bag of words: is that network better than counting words?
4. LSTM, pool against bag of product words: is it better than counting with the same labels?

"bag of words" is a logistic regression on which words occur. "bag of product words" is given the
partners' labels, too: it looks only at the words that were tagged as a product more often than not in
the 2,000 requests. Beside them: a Transformer in the LSTM's place, each task alone with the labels of
all requests, and what the topic would be with all its labels.
"""

from functools import cache

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments, text
from mtl_tutorial.datasets import Dataset, customer_requests
from mtl_tutorial.pytorch import TextHead, TextLSTM, TextTransformer

CLASSES = {"topic": 3, "intent": 4, "tags": 4}
PRODUCT = 1  # among the tags
FEW, UNITS = 100, 32  # requests with a topic; width of every encoder
BATCH = 32  # of requests with a topic, and as many with the partners' labels
CHECK = 20  # steps between two looks at the validation requests
HIDDEN = 0.05  # of the words are read as unknown in training, so that this vector is trained

Part = dict[str, Tensor]  # ids and the targets, by name


@cache
def load(seed: int) -> Dataset:
    """Give the requests, split by the seed: the first FEW to train on have a topic."""
    return customer_requests(seed)


def as_evidence(source: str) -> Dataset:
    """Give the requests for the hash: a grammar writes them, there are no others."""
    data = load(0)
    return Dataset(data.name, "generated", data.train, data.valid, data.test)


@cache
def read(seed: int, pool: bool) -> tuple[int, int, dict[str, Part]]:
    """Give the number of known words, the longest request, and the parts as numbers."""
    data = load(seed)
    train = data.train if pool else data.train.take(slice(FEW))
    words, longest = text.vocabulary(train.inputs), data.train.targets["tags"].shape[1]
    parts = {}
    for name, split in (("train", train), ("valid", data.valid), ("test", data.test)):
        parts[name] = {"ids": torch.from_numpy(text.encode(split.inputs, words, longest))}
        parts[name] |= {task: torch.from_numpy(y) for task, y in split.targets.items()}
    return len(words), longest, parts


def products(data: Dataset) -> list[str]:
    """List the words that are tagged as a product more often than not."""
    tags: dict[str, list[bool]] = {}
    for request, row in zip(data.train.inputs, data.train.targets["tags"], strict=True):
        for word, tag in zip(request.split(), row, strict=False):
            tags.setdefault(word, []).append(tag == PRODUCT)
    return [word for word, own in tags.items() if np.mean(own) > 0.5]


def counted(condition: str, strength: float, seed: int) -> dict[str, float]:
    """Fit a logistic regression on which words occur in the requests."""
    data, found = load(seed), {}
    rows = data.train if condition.startswith("bag of words, ") else data.train.take(slice(FEW))
    task = "intent" if condition.endswith("only intent") else "topic"
    count = CountVectorizer(tokenizer=text.tokenize, token_pattern=None, binary=True)
    count.fit(products(data) if condition == "bag of product words" else rows.inputs)
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(count.transform(rows.inputs), rows.targets[task])
    for name, part in (("valid", data.valid), ("test", data.test)):
        found[name] = 100 * model.score(count.transform(part.inputs), part.targets[task])
    return {"valid_accuracy": found["valid"], f"test_{task}_accuracy": found["test"]}


class Encoder(nn.Module):
    """An encoder of texts and words, and a head for each task."""

    def __init__(self, kind: str, words: int, longest: int) -> None:
        super().__init__()
        self.trunk: nn.Module
        if kind == "LSTM":
            self.trunk = TextLSTM(words, UNITS, UNITS, every_word=True)
        else:
            self.trunk = TextTransformer(words, UNITS, layers=1, longest=longest, every_word=True)
        level = {"tags": "word"}
        self.heads = nn.ModuleDict(
            {name: TextHead(UNITS, n, level.get(name, "text")) for name, n in CLASSES.items()}
        )

    def losses(self, part: Part, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the loss of each task on its own rows; one pass of the trunk for all."""
        together, place = torch.cat([*rows.values()]).unique(return_inverse=True)
        ids = part["ids"][together]
        ids = torch.where((ids > 0) & (torch.rand(ids.shape) < HIDDEN), text.UNKNOWN, ids)
        features = self.trunk(ids)[place].split([len(own) for own in rows.values()])
        return {
            task: cross_entropy(
                self.heads[task](own), part[task][rows[task]].flatten(), ignore_index=-1
            )
            for task, own in zip(rows, features, strict=True)
        }

    @torch.no_grad()
    def right(self, part: Part, tasks: list[str]) -> dict[str, float]:
        """Give the share of right answers, padding left out, in per cent."""
        self.eval()
        features, found = self.trunk(part["ids"]), {}
        for task in tasks:
            answers, truth = self.heads[task](features).argmax(1), part[task].flatten()
            found[task] = 100 * (answers == truth)[truth >= 0].float().mean().item()
        self.train()
        return found


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train one model and measure it, in per cent."""
    kind, _, what = condition.partition(", ")
    if "bag" in condition:
        return counted(condition, setting["C"], seed)
    tasks, partners = ["topic"], ["intent", "tags"]
    if what in {"alone", "all topics"}:
        partners = []
    elif what.startswith("only "):
        tasks, partners = [], [what.removeprefix("only ")]
    pool = what not in {"alone", "same requests"}
    main = (tasks or partners)[0]

    torch.manual_seed(seed)
    words, longest, parts = read(seed, pool)
    model = Encoder(kind, words, longest)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    draw, part = np.random.default_rng(seed), parts["train"]
    labelled = len(part["ids"]) if what == "all topics" else FEW
    found = {"valid_accuracy": 0.0, "step": 0.0}
    for step in range(1, steps + 1):
        few = torch.from_numpy(draw.choice(labelled, BATCH))
        others = torch.from_numpy(draw.choice(len(part["ids"]), BATCH))
        losses = model.losses(part, dict.fromkeys(tasks, few) | dict.fromkeys(partners, others))
        weights = {task: setting.get("weight", 1.0) for task in partners if tasks}
        loss = torch.stack([weights.get(task, 1.0) * own for task, own in losses.items()]).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % CHECK and step < steps:
            continue
        valid = model.right(parts["valid"], [main])[main]
        if valid > found["valid_accuracy"]:
            test = model.right(parts["test"], tasks + partners)
            found |= {f"test_{task}_accuracy": value for task, value in test.items()}
            found |= {"valid_accuracy": valid, "step": float(step)}
    return found


if __name__ == "__main__":
    strengths = [{"C": c} for c in (0.1, 0.3, 1, 3, 10)]
    rates = [{"rate": 5e-3}, {"rate": 1e-2}]
    weighted = [{"rate": 1e-2, "weight": w} for w in (0.1, 0.3, 1)]
    weighted.append({"rate": 5e-3, "weight": 0.3})
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "LSTM, alone": rates,
                "LSTM, same requests": weighted,
                "LSTM, pool": weighted,
                "LSTM, all topics": [{"rate": 1e-2}],
                "LSTM, only intent": [{"rate": 1e-2}],
                "LSTM, only tags": [{"rate": 1e-2}],
                "Transformer, alone": [{"rate": 3e-3}],
                "Transformer, pool": [{"rate": 3e-3, "weight": 1}],
                "bag of words": strengths,
                "bag of product words": strengths,
                "bag of words, all topics": strengths,
                "bag of words, only intent": strengths,
            },
            data=as_evidence,
            seeds=range(10, 20),  # others than those it was tried out with
            steps=300,
            smoke_steps=4,
            choose_by="valid_accuracy",
            baseline="LSTM, alone",
            primary=[
                ("LSTM, same requests", "LSTM, alone", "test_topic_accuracy"),
                ("LSTM, pool", "LSTM, alone", "test_topic_accuracy"),
                ("LSTM, pool", "bag of words", "test_topic_accuracy"),
                ("LSTM, pool", "bag of product words", "test_topic_accuracy"),
            ],
        )
    )
