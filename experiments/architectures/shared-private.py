"""Shared and private features: what is left of a domain in them, what an adversary drives out.

Sentences from three review sites; the sentiment in each domain is a task of its own. A network reads
which words a sentence has, and every encoder is one layer of units:

- alone: three networks, each with all the units that a head of shared-private reads; or of as many
  parameters together;
- hard: one encoder, a head for each domain; as many parameters as shared-private, and, as encoders
  cost nearly all of a step, as much time; also with a tuned weight of the films;
- shared-private: a shared encoder and a private one for each domain; a discriminator looks on, and
  changes nothing;
- reversal: its gradient comes back reversed, of one of two strengths, and it takes a step whenever
  the encoder does;
- adversary: the same, and after each step of the encoder it takes five more to catch up;
- orthogonal: shared and private features are kept from saying the same, by one of two penalties;
  both: by one between them, with the adversary;
- strong: an adversary ten times as strong as its tasks; also with a strength that rises from 0.

When a network is trained, its shared features are frozen, and a probe, a new network like the
discriminator, learns the domain from them. Hidden is the share of test sentences whose domain it gets
wrong, 67 per cent where it can but guess. What is left of the sentiment, and what private features
say of the domain, is read by logistic regression.

Named before it was run:

1. shared-private against hard, accuracy of the sentiment, mean of the domains.
2. reversal against shared-private, hidden: does a gradient that is turned round drive the domain out?
3. adversary against shared-private, hidden: does it where the discriminator keeps up?
4. adversary against shared-private, accuracy: does that help?

Beside them: logistic regression on the same words, a model a domain or one for all.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import exp
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtl_tutorial import experiments, text
from mtl_tutorial.datasets import sentiment
from mtl_tutorial.pytorch import HardSharing, SharedPrivate, SoftSharing, linear_heads, task_loss
from mtl_tutorial.tasks import Binary

DOMAINS = "shop", "film", "restaurant"
TASKS = [Binary(domain) for domain in DOMAINS]
UNITS, WIDE, HALF = 16, 64, 21  # of an encoder; of the one of hard; of each of three as small
BATCH = 32  # sentences of each domain
PATIENT, JUDGED = 5, 1e-2  # steps of the adversary for one of the encoder, and their rate
PROBE = 300  # steps of a probe
DROPOUT = 0.5  # of the words
STRENGTHS = {"strong": 10.0, "strong, rising": 10.0}


class Part(NamedTuple):
    """Sentences as words that are there, of length 1, with their domain and sentiment."""

    words: Tensor
    domain: Tensor
    sentiment: Tensor


@lru_cache(maxsize=2)
def load(source: str, seed: int) -> dict[str, Part]:
    """Give the sentences, split by the seed, over the words that occur twice in training."""
    data = sentiment(source, seed=seed)
    count = CountVectorizer(
        tokenizer=text.tokenize, token_pattern=None, binary=True, min_df=2, dtype=np.float32
    )
    count.fit(data.train.inputs)
    parts = {}
    for name in ("train", "valid", "test"):
        split = getattr(data, name)
        words = count.transform(split.inputs).toarray()
        words /= np.maximum(1, np.sqrt(words.sum(axis=1, keepdims=True)))
        labels = (torch.from_numpy(split.targets[task]) for task in ("domain", "sentiment"))
        parts[name] = Part(torch.from_numpy(words), *labels)
    return parts


def rows_of(part: Part, domain: str) -> Tensor:
    """Say which sentences a domain has."""
    return (part.domain == DOMAINS.index(domain)).nonzero()[:, 0]


def encoder(words: int, units: int) -> nn.Sequential:
    """Build an encoder of one layer."""
    return nn.Sequential(nn.Linear(words, units), nn.ReLU())


def judge(outputs: int) -> nn.Sequential:
    """Build what looks at shared features: the discriminator, or a probe."""
    return nn.Sequential(nn.Linear(UNITS, 32), nn.ReLU(), nn.Linear(32, outputs))


def build(kind: str, words: int, strength: float, penalty: float) -> Any:
    """Build the model of a condition; in training all leave out some words."""
    if kind.startswith("alone"):
        units = HALF if "same parameters" in kind else 2 * UNITS
        heads = linear_heads(TASKS, units)
        return SoftSharing(
            lambda: nn.Sequential(nn.Dropout(DROPOUT), encoder(words, units)), heads, 0
        )
    if kind.startswith("hard"):
        trunk = nn.Sequential(nn.Dropout(DROPOUT), encoder(words, WIDE))
        return HardSharing(trunk, linear_heads(TASKS, WIDE))
    return SharedPrivate(
        lambda: encoder(words, UNITS),
        linear_heads(TASKS, 2 * UNITS),
        judge(len(DOMAINS)),
        reversal=strength,
        orthogonality=penalty,
        bottom=nn.Dropout(DROPOUT),
    )


def batches(rows: Sequence[Tensor], seed: int) -> Iterator[list[Tensor]]:
    """Give a batch of each domain, each drawn from rows that are shuffled anew when they end."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(own: Tensor) -> Iterator[Tensor]:
        while True:
            shuffled = own[torch.randperm(len(own), generator=generator)]
            yield from shuffled.split(BATCH)[: max(1, len(own) // BATCH)]

    yield from map(list, zip(*map(drawn, rows), strict=True))


def learn(
    model: Any,
    rows: Sequence[Tensor],
    setting: dict[str, float],
    seed: int,
    steps: int,
    *,
    rising: bool,
    patient: int,
) -> None:
    """Train on a batch of each domain a step; the rate falls to 0."""
    part = load(experiments.source(), seed)["train"]
    weights = {domain: setting.get(domain, 1.0) for domain in DOMAINS}
    strength = getattr(model, "reversal", 0.0)
    adam = torch.optim.Adam(model.parameters(), lr=setting["rate"], fused=True)
    catching_up = None
    if patient:
        catching_up = torch.optim.Adam(model.discriminator.parameters(), lr=JUDGED, fused=True)
    for step, picked in zip(range(steps), batches(rows, seed), strict=False):
        for group in adam.param_groups:
            group["lr"] = setting["rate"] * (1 - step / steps)
        if rising:
            model.reversal = strength * (2 / (1 + exp(-10 * step / steps)) - 1)
        every = torch.cat(picked)
        sites = part.domain[every]
        targets = {
            domain: torch.where(sites == number, part.sentiment[every], -1)
            for number, domain in enumerate(DOMAINS)
        }
        features = model.encode(part.words[every])
        outputs = model.decode(features)
        losses = [
            weights[task.name] * task_loss(task, outputs[task.name], targets[task.name])
            for task in TASKS
        ]
        loss = torch.stack(losses).sum()
        if isinstance(model, SharedPrivate):
            loss = loss + model.extra_loss(features, targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if catching_up is not None:
            with torch.no_grad():
                seen = model.encode(part.words[every])["shared"]
            for _ in range(patient):
                judged = cross_entropy(model.discriminator(seen), sites)
                catching_up.zero_grad()
                judged.backward()
                catching_up.step()
    model.eval()


@torch.no_grad()
def accuracies(model: Any, part: Part) -> dict[str, float]:
    """Give the share of sentences of each domain whose sentiment is read right, in per cent."""
    outputs = model(part.words)
    found = {}
    for domain in DOMAINS:
        rows = rows_of(part, domain)
        right = (outputs[domain][rows, 0] > 0) == (part.sentiment[rows] == 1)
        found[domain] = 100 * float(right.float().mean())
    return found


def probed(features: dict[str, Tensor], labels: dict[str, Tensor], seed: int) -> float:
    """Train a new judge on frozen features, and give its accuracy on test sentences, in per cent."""
    torch.manual_seed(seed)
    mean, deviation = features["train"].mean(0), features["train"].std(0) + 1e-6
    inputs = {name: (own - mean) / deviation for name, own in features.items()}
    probe = judge(len(DOMAINS))
    adam = torch.optim.Adam(probe.parameters(), lr=1e-2, weight_decay=1e-3, fused=True)
    for _ in range(PROBE if experiments.source() == "real" else 3):
        loss = cross_entropy(probe(inputs["train"]), labels["train"])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return 100 * float((probe(inputs["test"]).argmax(1) == labels["test"]).float().mean())


def read(features: dict[str, Tensor], labels: dict[str, Tensor]) -> float:
    """Fit a logistic regression to frozen features, and give its accuracy in test, in per cent."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    probe.fit(features["train"].numpy(), labels["train"].numpy())
    return 100 * float(probe.score(features["test"].numpy(), labels["test"].numpy()))


def alike(one: Tensor, other: Tensor) -> float:
    """Say how much of one set of features is in another, linearly: 0 to 100, whatever their size."""
    one, other = one - one.mean(0), other - other.mean(0)
    size = (one.T @ one).norm() * (other.T @ other).norm()
    return 100 * float((one.T @ other).square().sum() / size.clamp(min=1e-12))


def inspected(model: SharedPrivate, parts: dict[str, Part], seed: int) -> dict[str, float]:
    """Say what is in shared and private features."""
    with torch.no_grad():
        encoded = {name: model.encode(parts[name].words) for name in ("train", "test")}
        assert model.discriminator is not None
        said = model.discriminator(encoded["test"]["shared"]).argmax(1)
    domains = {name: parts[name].domain for name in encoded}
    sentiments = {name: parts[name].sentiment for name in encoded}
    shared = {name: own["shared"] for name, own in encoded.items()}
    private = [{name: own["private"][d] for name, own in encoded.items()} for d in DOMAINS]
    return {
        "test_hidden": 100 - probed(shared, domains, seed),
        "test_shared_sentiment_accuracy": read(shared, sentiments),
        "private_hidden": float(np.mean([100 - read(own, domains) for own in private])),
        "fooled": 100 * float((said != parts["test"].domain).float().mean()),
        "size": float(shared["test"].square().sum(1).mean().sqrt()),
        "alike": float(np.mean([alike(shared["test"], own["test"]) for own in private])),
    }


def named(valid: dict[str, float], test: dict[str, float]) -> dict[str, float]:
    """Name the accuracies, and their mean over the domains."""
    found = {f"test_{domain}_accuracy": each for domain, each in test.items()}
    found["test_accuracy"] = float(np.mean([*test.values()]))
    return found | {"valid_accuracy": float(np.mean([*valid.values()]))}


def counted(
    parts: dict[str, Part], rows: Sequence[Tensor], for_all: bool, strength: float
) -> dict[str, float]:
    """Fit a logistic regression to the words, one a domain or one for all."""
    pools = [torch.cat([*rows])] * len(DOMAINS) if for_all else rows
    found: dict[str, dict[str, float]] = {"valid": {}, "test": {}}
    for domain, own in zip(DOMAINS, pools, strict=True):
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(parts["train"].words[own].numpy(), parts["train"].sentiment[own].numpy())
        for name, values in found.items():
            part, there = parts[name], rows_of(parts[name], domain)
            score = model.score(part.words[there].numpy(), part.sentiment[there].numpy())
            values[domain] = 100 * score
    return named(found["valid"], found["test"])


def train(condition: str, setting: dict[str, float], seed: int, steps: int) -> dict[str, float]:
    """Train a model and measure it, in per cent."""
    parts = load(experiments.source(), seed)
    rows = [rows_of(parts["train"], domain) for domain in DOMAINS]
    if condition.startswith("words"):
        return counted(parts, rows, "all domains" in condition, setting["C"])
    torch.manual_seed(seed)
    strength = STRENGTHS.get(condition, setting.get("strength", 0.0))
    penalty = setting.get("penalty", 0.0)
    model = build(condition, parts["train"].words.shape[1], strength, penalty)
    patient = PATIENT if condition.startswith(("adversary", "both", "strong")) else 0
    learn(model, rows, setting, seed, steps, rising="rising" in condition, patient=patient)
    found = named(accuracies(model, parts["valid"]), accuracies(model, parts["test"]))
    if isinstance(model, SharedPrivate):
        found |= inspected(model, parts, seed)
    return found


if __name__ == "__main__":
    rates = [{"rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    rate = {"rate": 3e-3}
    fought = [{**rate, "strength": strength} for strength in (0.3, 1.0)]
    fought += [{"rate": 1e-2, "strength": strength} for strength in (0.3, 1.0)]
    bag = [{"C": strength} for strength in (0.3, 1, 3, 10, 30)]
    raise SystemExit(
        experiments.main(
            __file__,
            train,
            {
                "shared-private": rates,
                "words, each domain": bag,
                "words, all domains": bag,
                "alone": rates,
                "alone, same parameters": rates,
                "hard": rates,
                "hard, tuned weight": [{**rate, "film": weight} for weight in (0.5, 1, 2)],
                "reversal": fought,
                "adversary": fought,
                "orthogonal": [{**rate, "penalty": penalty} for penalty in (0.01, 1.0)],
                "both": [{**own, "penalty": 0.1} for own in fought[:2]],
                "strong": [rate],
                "strong, rising": [rate],
            },
            data=sentiment,
            seeds=range(20, 30),
            steps=300,
            smoke_steps=3,
            choose_by="valid_accuracy",
            baseline="shared-private",
            primary=[
                ("shared-private", "hard", "test_accuracy"),
                ("reversal", "shared-private", "test_hidden"),
                ("adversary", "shared-private", "test_hidden"),
                ("adversary", "shared-private", "test_accuracy"),
            ],
        )
    )
