"""From the columns of a table to arrays: numbers of categories for embeddings, scaled quantities.

Both frameworks read the same arrays. What is learned (categories, means, scales) is learned from
the training rows alone, by scikit-learn's transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

UNKNOWN = 0


def encoder(
    columns: Any, categorical: Sequence[str] = (), numeric: Sequence[str] = ()
) -> "Encoder":
    """Learn from training rows how columns become arrays.

    Parameters
    ----------
    columns : mapping from name to array, shape (N,)
        The *training* rows: a dict of arrays, a pandas DataFrame, or anything else that gives a
        column when indexed by its name. Columns not named below are left out. None, NaN, what
        pandas calls missing and what a masked array hides are missing values.
    categorical : sequence of str
        Columns of texts, or of numbers that name something. Each category of the training rows gets
        a number from 1 on; 0 stands for a category that they lack and for a missing value. If no
        training row has a missing value, the embedding of 0 is never trained:
        ``padding_idx=0`` in PyTorch keeps it at zeros.
    numeric : sequence of str
        Columns of numbers: scaled to mean 0 and standard deviation 1, a missing value filled with
        the mean (0 after scaling). Each column with missing training values gets a second one, 1
        where the value is missing, else 0; in other columns a missing value is filled only.

    Returns
    -------
    Encoder
        Call it with any rows of the same columns.

    Raises
    ------
    ValueError
        A column is not there, is named twice, does not have N rows, holds one value alone or
        nothing but missing ones; a numeric one holds a text or an infinity, a categorical one
        texts and numbers. Or no column is named.

    Examples
    --------
    >>> train = {"city": ["Rome", "Oslo", "Rome"], "age": [20.0, 40.0, float("nan")]}
    >>> encode = encoder(train, categorical=["city"], numeric=["age"])
    >>> encode.cardinalities, encode.numeric
    ({'city': 3}, ('age', 'age is missing'))
    >>> arrays = encode({"city": ["Oslo", "Bonn"], "age": [30.0, 50.0]})
    >>> arrays["categorical"].tolist(), arrays["numeric"].tolist()
    ([[1], [0]], [[0.0, 0.0], [2.0, 0.0]])
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    for kind, names in (("categorical", categorical), ("numeric", numeric)):
        if isinstance(names, str):
            raise TypeError(f"{kind} is a list of column names; got the text {names!r}")
    names = [*categorical, *numeric]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(f"columns named twice: {twice}" if twice else "no column is named")

    table = _table(columns, names)
    for name, (values, missing) in table.items():
        there = values[~missing].tolist()
        if not there:
            raise ValueError(f"column {name!r} holds nothing but missing values: leave it out")
        if not missing.any() and all(value == there[0] for value in there):
            raise ValueError(
                f"column {name!r} holds {there[0]!r} in every training row, which tells nothing: "
                "leave it out"
            )
    texts = {name: _holds_texts(name, *table[name]) for name in categorical}
    ordinal = {
        name: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=UNKNOWN - 1).fit(
            table[name][0][~table[name][1], None]
        )
        for name in categorical
    }
    scaler, indicators = None, []
    if numeric:
        numbers = _numbers(table, numeric)
        fill = SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True)
        scaler = make_pipeline(StandardScaler(), fill).fit(numbers)
        indicators = [
            f"{name} is missing"
            for name, column in zip(numeric, numbers.T, strict=True)
            if np.isnan(column).any()
        ]
    return Encoder(
        cardinalities={name: 1 + len(each.categories_[0]) for name, each in ordinal.items()},
        numeric=(*numeric, *indicators),
        _texts=texts,
        _ordinal=ordinal,
        _scaler=scaler,
    )


@dataclass(frozen=True, eq=False)
class Encoder:
    """What :func:`encoder` learned; called with columns, it gives arrays.

    Attributes
    ----------
    cardinalities : dict of str to int
        For each categorical column, in order, how many numbers it may become, 0 included: the
        first size of its ``Embedding``.
    numeric : tuple of str, length K
        What stands in the columns of the numeric array.
    """

    cardinalities: dict[str, int]
    numeric: tuple[str, ...]
    _texts: dict[str, bool]
    _ordinal: dict[str, Any]
    _scaler: Any

    def __repr__(self) -> str:
        return f"Encoder(cardinalities={self.cardinalities}, numeric={self.numeric})"

    def __call__(self, columns: Any) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays of some rows, the ``inputs`` of a :class:`~mtl_tutorial.datasets.Split`.

        Parameters
        ----------
        columns : mapping from name to array, shape (N,)
            All columns that were named to :func:`encoder`, training rows or others.

        Returns
        -------
        dict of str to numpy.ndarray
            ``"categorical"``, int64, shape (N, C), and ``"numeric"``, float32, shape (N, K); a kind
            without columns is left out.

        Raises
        ------
        ValueError
            As by :func:`encoder`, but a column may hold one value alone; or a categorical column
            holds texts where the training rows had numbers, or the reverse; or a scaled number is
            too large for float32.
        """
        numeric = self.numeric[: self._scaler.n_features_in_] if self._scaler is not None else ()
        table = _table(columns, [*self._ordinal, *numeric])
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self._ordinal:
            rows = len(next(iter(table.values()))[0])
            numbers = np.full((rows, len(self._ordinal)), UNKNOWN, np.int64)
            for place, (name, ordinal) in enumerate(self._ordinal.items()):
                values, missing = table[name]
                if missing.all():
                    continue
                if _holds_texts(name, values, missing) != self._texts[name]:
                    now, then = ("numbers", "texts")[:: 1 if self._texts[name] else -1]
                    raise ValueError(
                        f"column {name!r} holds {now}, but the training rows had {then}: "
                        "no category would be known"
                    )
                found = np.asarray(ordinal.transform(values[~missing, None]))
                numbers[~missing, place] = 1 + found[:, 0].astype(np.int64)
            arrays["categorical"] = numbers
        if numeric:
            with np.errstate(over="ignore"):  # told below, by name
                scaled = np.asarray(self._scaler.transform(_numbers(table, numeric)), np.float32)
            if not np.isfinite(scaled).all():
                row, place = np.argwhere(~np.isfinite(scaled))[0].tolist()
                raise ValueError(
                    f"row {row} of column {self.numeric[place]!r} is too far from the training rows: "
                    "scaled, it is too large for float32"
                )
            arrays["numeric"] = scaled
        return arrays


Column = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]


def _table(columns: Any, names: Sequence[str]) -> dict[str, Column]:
    """Give values and what is missing of each column, all of one length."""
    table: dict[str, Column] = {}
    for name in names:
        try:
            column = columns[name]
        except (KeyError, ValueError, IndexError, TypeError):
            known = f"; there are {list(columns.keys())}" if hasattr(columns, "keys") else ""
            raise ValueError(f"there is no column {name!r}{known}") from None
        values: npt.NDArray[Any] = np.asarray(column)
        if values.ndim != 1:
            raise ValueError(f"column {name!r} has shape {values.shape}, not (N,)")
        first = next(iter(table), name)
        rows = len(table[first][0]) if table else len(values)
        if len(values) != rows:
            raise ValueError(
                f"column {name!r} has {len(values)} rows, but column {first!r} has {rows}"
            )
        if not rows:
            raise ValueError(f"there are no rows: column {name!r} is empty")
        table[name] = values, _missing(column, values)
    return table


def _missing(column: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Give where a column has no value."""
    if hasattr(column, "isna"):  # pandas knows its own marks
        return np.asarray(column.isna(), dtype=bool)
    if values.dtype.kind == "O":
        missing = np.array([value is None or value != value for value in values], bool)  # noqa: PLR0124  # NaN
    else:
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    return missing | np.ma.getmaskarray(column) if np.ma.isMaskedArray(column) else missing


def _holds_texts(name: str, values: npt.NDArray[Any], missing: npt.NDArray[np.bool_]) -> bool:
    """Whether categories are texts or numbers; they are one of the two."""
    if values.dtype.kind in "Ubiuf":
        return values.dtype.kind == "U"
    there = values[~missing].tolist()
    kinds = {
        "texts" if isinstance(v, str) else "numbers" if isinstance(v, Real) else type(v).__name__
        for v in there
    }
    if kinds not in ({"texts"}, {"numbers"}):
        raise ValueError(
            f"the categories of column {name!r} must be texts or numbers, all of one kind; "
            f"it holds {' and '.join(sorted(kinds))}: make texts of them"
        )
    return kinds == {"texts"}


def _numbers(table: dict[str, Column], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Give numeric columns side by side, NaN where a value is missing; shape (N, len(names))."""
    result = np.full((len(table[names[0]][0]), len(names)), np.nan)
    for place, name in enumerate(names):
        values, missing = table[name]
        wrong = ~missing
        if values.dtype.kind == "O":
            wrong &= np.array([not isinstance(value, Real) for value in values], dtype=bool)
        elif values.dtype.kind in "biuf":
            wrong[:] = False
        if not wrong.any():
            result[~missing, place] = values[~missing].astype(float)
            wrong = np.abs(result[:, place]) > np.finfo(np.float32).max
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"row {row} of column {name!r} holds {values[row : row + 1].tolist()[0]!r}, not a "
                "finite number of float32: convert it, or name the column as categorical"
            )
    return result
