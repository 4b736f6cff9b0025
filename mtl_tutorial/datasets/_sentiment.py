"""Sentences with a sentiment and a domain."""

import os
from pathlib import Path

import numpy as np

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._fetch import locate, read_verified
from mtl_tutorial.datasets._reviews import write_reviews
from mtl_tutorial.datasets._sentences import lines
from mtl_tutorial.datasets._splits import Rows, hold_out
from mtl_tutorial.text import tokenize

FOLDER = "sentiment-labelled-sentences"
FILES = ("amazon_cells_labelled.txt", "imdb_labelled.txt", "yelp_labelled.txt")

Row = tuple[str, int, int]  # a sentence, its sentiment, its domain


def sentiment(
    source: str = "auto", folder: str | os.PathLike[str] | None = None, seed: int = 0
) -> Dataset:
    """Load sentences from three review sites, or made-up ones in their place.

    Two tasks: ``sentiment`` (0 negative, 1 positive) and ``domain`` (0 shop, 1 film,
    2 restaurant).

    Real: 3,000 sentences from Amazon, IMDb and Yelp, half of each positive. Sentences of the same
    words (as :func:`mtl_tutorial.text.tokenize` reads them) are one, kept where it is met first;
    2,969 remain. Embedded: 3,000 sentences that a small grammar writes, always the same, with
    negation, opposed clauses, words whose sentiment depends on the domain, misspellings and one
    wrong sentiment in twenty-five. In both, 400 rows to validate and 600 to test, stratified by
    both labels.

    Parameters
    ----------
    source : {"auto", "real", "embedded"}
        ``"auto"`` takes the real files where it finds them, otherwise the made-up sentences with
        one warning. ``"real"`` takes nothing else. ``"embedded"`` does not look at the disk,
        so that ``folder`` does not matter.
    folder : path, optional
        The only place to look for real files: it holds a folder ``sentiment-labelled-sentences``
        with the three official files. By default the folder that the environment variable
        ``MTL_TUTORIAL_DATA`` names, then the cache that ``make data`` fills.
    seed : int
        Decides which rows are for training, validation and test, and their order.

    Returns
    -------
    Dataset
        ``inputs`` str of shape (N,), as written; :mod:`mtl_tutorial.text` makes numbers of them.
        ``targets`` int64 of shape (N,). Its ``source`` is ``"real"`` or ``"embedded"``.

    Raises
    ------
    ValueError
        If ``source`` is none of the three, or a file is not the official one (by SHA-256).
    FileNotFoundError
        If ``folder`` lacks a file, or if ``source`` is ``"real"`` and nothing was found.

    References
    ----------
    Kotzias, Denil, de Freitas and Smyth, "From Group to Individual Labels Using Deep Features",
    KDD 2015; UCI Machine Learning Repository, data set 331, CC BY 4.0.

    Examples
    --------
    >>> data = sentiment(source="embedded")
    >>> data.name, data.source, len(data.train), sorted(data.test.targets)
    ('sentiment', 'embedded', 2000, ['domain', 'sentiment'])
    """
    root = locate(FOLDER, source, folder, instead="sentences that a small grammar writes")
    if root is None:
        rows = write_reviews(3000, np.random.default_rng(0))
        return _split("embedded", rows, seed)
    return _split("real", distinct(read_files(root)), seed)


def read_files(root: Path) -> list[Row]:
    """Read and verify the three files of a data folder."""
    return [
        row
        for domain, file in enumerate(FILES)
        for row in parse_sentences(read_verified(root, f"{FOLDER}/{file}"), domain)
    ]


def parse_sentences(content: bytes, domain: int) -> list[Row]:
    r"""Parse the content of a file, ``b"sentence\tlabel\n…"``.

    The label stands after the last tab; quotation marks are part of the sentence.

    Raises
    ------
    ValueError
        A line has no tab, or its label is neither 0 nor 1.
    """
    rows = []
    for number, line in lines(content, FILES[domain]):
        text, tab, label = line.rpartition("\t")
        if not tab or label.strip() not in {"0", "1"}:
            raise ValueError(f"line {number} is not a sentence, a tab, and 0 or 1: {line!r}")
        rows.append((text.strip(), int(label), domain))
    return rows


def distinct(rows: list[Row]) -> list[Row]:
    """Keep the first of the rows whose words are the same, so that none is in two splits."""
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        first.setdefault(tuple(tokenize(row[0])), row)
    return list(first.values())


def _split(source: str, rows: list[Row], seed: int) -> Dataset:
    inputs = np.array([text for text, _, _ in rows])
    labels = np.array([row[1:] for row in rows], dtype=np.int64)
    groups = 3 * labels[:, 0] + labels[:, 1]

    generator = np.random.default_rng(seed)
    rest, test = hold_out(groups, 600, generator)
    train, valid = hold_out(groups[rest], 400, generator)

    def split(chosen: Rows) -> Split:
        return Split(inputs[chosen], {"sentiment": labels[chosen, 0], "domain": labels[chosen, 1]})

    return Dataset("sentiment", source, split(rest[train]), split(rest[valid]), split(test))
