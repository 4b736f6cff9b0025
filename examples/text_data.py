r"""Sentences from a small grammar: the kind of each word, and whether the writer likes the thing.

Each sentence is put together from the rules below, so the truth is known. It says something of a
thing, perhaps not, perhaps with a second half that begins with *but*:

    the/DET light/NOUN is/VERB not/ADV very/ADV good/ADJ but/CONJ i/PRON do/VERB like/VERB it/PRON

- *tag* of each word, one of seven. Some words are of several kinds (*light*, *sound*, *work*, *like*):
  only the words around tell. One word in ten was not tagged (-1), and so is the padding, to twelve
  words;
- *mood* of the sentence, 1 where it is good news. A *not* turns what follows it; after a *but*, the
  second half counts. One sentence in five has no mood (-1).

One sentence in twenty is marked with the wrong mood, so no model reaches an accuracy above 0.95, on
average.
"""

from dataclasses import dataclass

import numpy as np

from mtl_tutorial.datasets import Split
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Binary, Classification
from mtl_tutorial.text import encode, vocabulary

TAGS = ["DET", "ADJ", "NOUN", "VERB", "ADV", "CONJ", "PRON"]
LENGTH = 12
TASKS = [
    Classification("tag", classes=len(TAGS), metrics=["accuracy", "f1"]),
    Binary("mood", metrics=["accuracy", "auc"]),
]
WORDS = {
    kind: words.split()
    for kind, words in {
        "DET": "the this that my every a",
        "NOUN": "light sound work play look phone film book lamp chair watch screen",
        "ADJ": "light sound new old small green plain heavy red young",
        "ADV": "very really so quite",
        "good": "good great fine lovely superb solid handy bright",
        "bad": "bad poor awful dull weak cheap broken slow",
        "like": "like love enjoy praise",
        "dislike": "hate regret return avoid",
        "do": "work play look sound",
        "well": "well fine superbly nicely",
        "badly": "badly poorly slow strangely",
    }.items()
}


@dataclass(frozen=True)
class Sentences:
    """Three splits of word numbers, shape (N, 12), and the words that they number."""

    train: Split
    valid: Split
    test: Split
    words: list[str]


def make(sentences: int = 4096, seed: int = 0) -> Sentences:
    """Make sentences: half of them to train on, an eighth to choose by, the rest to report."""
    draw = np.random.default_rng(seed)
    texts, tags, moods = [], np.full((sentences, LENGTH), -1), np.full(sentences, -1)
    for row in range(sentences):
        half, mood = _clause(draw)
        if draw.random() < 0.35:
            second, mood = _clause(draw, short=True)
            half = [*half[:6], ("but", "CONJ"), *second]
        texts.append(" ".join(word for word, _ in half))
        tags[row, : len(half)] = [TAGS.index(tag) for _, tag in half]
        moods[row] = mood ^ int(draw.random() < 0.05)
    tags[draw.random(tags.shape) < 0.1] = -1
    moods[draw.random(sentences) < 0.2] = -1
    a, b = sentences // 2, sentences * 5 // 8
    words = vocabulary(texts[:a])
    whole = Split(encode(texts, words, LENGTH), {"tag": tags, "mood": moods})
    return Sentences(*(whole.take(rows) for rows in (slice(a), slice(a, b), slice(b, None))), words)


def _clause(draw: np.random.Generator, short: bool = False) -> tuple[list[tuple[str, str]], int]:
    """Give words with their tags, and whether it is good news; a short one has at most five."""

    def pick(kind: str, tag: str = "") -> tuple[str, str]:
        return str(draw.choice(WORDS[kind])), tag or kind

    good, turned = bool(draw.integers(2)), draw.random() < 0.35
    thing = [("it", "PRON")] if short else [pick("DET"), pick("NOUN")]
    if not short and draw.random() < 0.5:
        thing.insert(1, pick("ADJ"))
    kind = draw.integers(3)
    if kind == 0:  # the thing is (not) (very) good
        said = [("is", "VERB"), *[("not", "ADV")] * turned]
        said += [pick("ADV")] * bool(draw.integers(2)) + [pick("good" if good else "bad", "ADJ")]
        clause = thing + said
    elif kind == 1:  # the thing does (not) work well
        said = [("does", "VERB"), *[("not", "ADV")] * turned, pick("do", "VERB")]
        clause = [*thing, *said, pick("well" if good else "badly", "ADV")]
    else:  # i do (not) like the thing
        said = [("do", "VERB"), *[("not", "ADV")] * turned]
        clause = [("i", "PRON"), *said, pick("like" if good else "dislike", "VERB"), *thing]
    return clause, int(good != turned)


def simple_scores(data: Sentences) -> dict[str, float]:
    """Metrics of the simplest models: each word's commonest tag, and a bag of words."""
    from sklearn.linear_model import LogisticRegression

    size = len(data.words)
    counts = np.zeros((size, len(TAGS)))
    known = data.train.targets["tag"] >= 0
    np.add.at(counts, (data.train.inputs[known], data.train.targets["tag"][known]), 1)

    def bag(split: Split) -> np.ndarray:
        return (split.inputs[:, :, None] == np.arange(1, size)).sum(axis=1)

    rows = data.train.targets["mood"] >= 0
    model = LogisticRegression().fit(bag(data.train)[rows], data.train.targets["mood"][rows])
    outputs = {
        "tag": counts[data.test.inputs],
        "mood": model.decision_function(bag(data.test))[:, None],
    }
    return scores(TASKS, outputs, data.test.targets)
