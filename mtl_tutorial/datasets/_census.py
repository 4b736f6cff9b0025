"""Rows of a census, with an income and a marital status to predict."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._fetch import locate, read_verified
from mtl_tutorial.datasets._people import write_people
from mtl_tutorial.datasets._splits import Rows, hold_out

FILES = ("adult/adult.data", "adult/adult.test")
FIELDS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = ("workclass", "occupation", "race", "sex", "native-country")

Person = tuple[str, ...]  # one text a field


def census(
    source: str = "auto", folder: str | os.PathLike[str] | None = None, seed: int = 0
) -> Dataset:
    """Load the census of 1994 known as *Adult*, or made-up people in its place.

    Two tasks: ``income`` (1 if above 50,000 dollars a year) and ``never_married`` (1 if so).

    Left out is what would answer for a network. ``marital-status`` is what ``never_married`` is made
    of, and ``relationship`` (husband, wife, own child) says it again. ``fnlwgt`` says how many people a
    row stands for, and ``education`` names in words what ``education-num`` counts.

    Real: the official 16,281 rows to test. Of the 32,561 to train, those that are there twice or are
    test rows too (alike in all fields) are left out; of the others 5,000 validate, stratified by
    both tasks. Embedded: 6,000 people that a small program makes up, always the same, in columns of
    the same names; 1,000 to validate, 1,000 to test.

    Parameters
    ----------
    source : {"auto", "real", "embedded"}
        ``"auto"`` takes the real files where it finds them, otherwise the made-up people with one
        warning. ``"real"`` takes nothing else. ``"embedded"`` does not look at the disk, so that
        ``folder`` does not matter.
    folder : path, optional
        The only place to look for real files: it holds a folder ``adult`` with the two official
        files. By default the folder that the environment variable ``MTL_TUTORIAL_DATA`` names, then
        the cache that ``make data`` fills.
    seed : int
        Decides which rows are for training and which for validation, and their order.

    Returns
    -------
    Dataset
        ``inputs`` a dict of columns of shape (N,): float32 for quantities, str for categories, where
        "?" means that nobody knows; :func:`mtl_tutorial.tabular.encoder` makes arrays of them.
        ``targets`` int64 of shape (N,). Its ``source`` is ``"real"`` or ``"embedded"``.

    Raises
    ------
    ValueError
        If ``source`` is none of the three, or a file is not the official one (by SHA-256).
    FileNotFoundError
        If ``folder`` lacks a file, or if ``source`` is ``"real"`` and nothing was found.

    References
    ----------
    Becker and Kohavi, "Adult", UCI Machine Learning Repository, data set 2, 1996, CC BY 4.0.

    Examples
    --------
    >>> data = census(source="embedded")
    >>> data.name, data.source, len(data.train), sorted(data.test.targets)
    ('census', 'embedded', 4000, ['income', 'never_married'])
    >>> list(data.train.inputs)[:3]
    ['age', 'education-num', 'capital-gain']
    """
    root = locate("adult", source, folder, instead="people that a small program makes up")
    if root is None:
        people = columns(write_people(6000, np.random.default_rng(0)))
        train, test = people.take(slice(5000)), people.take(slice(5000, None))
        return _split("embedded", train, test, 1000, seed)
    known, tested = read_files(root)
    return _split("real", columns(known), columns(tested), min(5000, len(known) // 4), seed)


def read_files(root: Path) -> tuple[list[Person], list[Person]]:
    """Read and verify both files; give the rows to train, each once and not in the test, and to test."""
    train, test = (parse_people(read_verified(root, file), file) for file in FILES)
    seen = set(test)
    return [person for person in dict.fromkeys(train) if person not in seen], test


def parse_people(content: bytes, name: str) -> list[Person]:
    r"""Parse the content of a file, ``b"39, State-gov, …, <=50K\n…"``.

    In the test file a first line says what it is (it begins with "|"), and a dot follows each income.

    Raises
    ------
    ValueError
        A line does not have 15 fields, a quantity is no number, or the income is none of the two.
    """
    people = []
    for number, line in enumerate(content.decode("ascii").splitlines(), 1):
        if not line.strip() or line.startswith("|"):
            continue
        *fields, income = (field.strip() for field in line.split(","))
        person = (*fields, income.removesuffix("."))
        wrong = len(person) != len(FIELDS) or person[-1] not in {"<=50K", ">50K"}
        if wrong or not all(person[FIELDS.index(column)].isdecimal() for column in NUMERIC):
            raise ValueError(
                f"{name}, line {number} is not a person of {len(FIELDS)} fields: {line!r}"
            )
        people.append(person)
    return people


def columns(people: list[Person]) -> Split:
    """Put rows of texts into columns, and make both tasks' labels."""
    table = dict(zip(FIELDS, np.array(people).T, strict=True))
    inputs: dict[str, npt.NDArray[Any]] = {name: table[name].astype(np.float32) for name in NUMERIC}
    # A width of its own for each column: texts of equal length whatever the other columns hold.
    inputs |= {name: np.array(table[name].tolist()) for name in CATEGORICAL}
    return Split(
        inputs,
        {
            "income": (table["income"] == ">50K").astype(np.int64),
            "never_married": (table["marital-status"] == "Never-married").astype(np.int64),
        },
    )


def _split(source: str, known: Split, test: Split, count: int, seed: int) -> Dataset:
    groups = 2 * known.targets["income"] + known.targets["never_married"]
    parts: tuple[Rows, Rows] = hold_out(groups, count, np.random.default_rng(seed))
    train, valid = (known.take(rows) for rows in parts)
    return Dataset("census", source, train, valid, test)
