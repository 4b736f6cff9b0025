"""From sentences to rows of word numbers, without any framework.

The rules are those of Keras' ``TextVectorization`` as it comes: small letters, no punctuation, words
between spaces, number 0 for padding and 1 for a word that the vocabulary lacks. So either tool gives
the same numbers, and both frameworks read the same arrays.

>>> words = vocabulary(["Good phone.", "Good, good food!"])
>>> words
['', '[UNK]', 'good', 'phone', 'food']
>>> encode(["Good film"], words, length=4)
array([[2, 1, 0, 0]])
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

PADDING, UNKNOWN = 0, 1

# ASCII only, as in TensorFlow: other letters keep their case.
_CLEAN = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "abcdefghijklmnopqrstuvwxyz",
    "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'",
)
_SPACE = str.maketrans("\t\n\v\f\r", "     ")


def tokenize(text: str) -> list[str]:
    """Split a text into words: small letters, punctuation dropped, divided at white space.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
        Empty if the text holds no word.

    Raises
    ------
    TypeError
        If ``text`` is not a string: a missing text is often NaN or None.

    Examples
    --------
    >>> tokenize("It isn't GOOD, is it?")
    ['it', 'isnt', 'good', 'is', 'it']
    """
    if not isinstance(text, str):  # a caller may check no types
        raise TypeError(f"a text must be a str; got {text!r}")
    return [word for word in text.translate(_CLEAN).translate(_SPACE).split(" ") if word]


def vocabulary(texts: Iterable[str], size: int = 10_000, min_count: int = 1) -> list[str]:
    """List the words of some texts, the commonest first; give it the training split alone.

    Parameters
    ----------
    texts : iterable of str
    size : int
        The most entries, padding and unknown included; at least 3.
    min_count : int
        Rarer words are left out. With 2, a word that occurs once is read as unknown, so that the
        unknown word's vector is trained; with 1 it never is.

    Returns
    -------
    list of str, length at most ``size``
        The place of a word is its number: ``""`` (padding) is 0, ``"[UNK]"`` is 1. Words equally
        common stand in reversed alphabetical order, as in Keras.

    Raises
    ------
    ValueError
        If no word is common enough, or ``size`` is below 3.

    Examples
    --------
    >>> vocabulary(["good phone", "good food"], min_count=2)
    ['', '[UNK]', 'good']
    """
    if size < 3:
        raise ValueError(f"size counts padding and unknown, so it must be at least 3; got {size}")
    counts = Counter(word for text in texts for word in tokenize(text))
    common = [word for word, count in counts.items() if count >= min_count]
    if not common:
        raise ValueError(f"no word occurs {min_count} times in the texts")
    common.sort(key=lambda word: (counts[word], word), reverse=True)
    return ["", "[UNK]", *common[: size - 2]]


def encode(
    texts: Sequence[str] | npt.NDArray[np.str_], words: Sequence[str], length: int | None = None
) -> npt.NDArray[np.int64]:
    """Turn texts into rows of word numbers, padded with 0 at the end.

    Parameters
    ----------
    texts : sequence of str, length N
    words : sequence of str
        What :func:`vocabulary` gave.
    length : int, optional
        The width of the rows; longer texts lose their end. As wide as the longest text if not given.

    Returns
    -------
    ndarray of int64, shape (N, length)
        A text of unknown words only is a row of ones before the padding: a model answers from its
        length and the vector of the unknown word.

    Raises
    ------
    ValueError
        If a text holds no word at all, with its row: there is nothing to answer about. Also if there
        is no text, or ``length`` is below 1.
    TypeError
        If a text is not a string.

    Examples
    --------
    >>> words = vocabulary(["good phone", "good food"])
    >>> encode(["good good food", "phone"], words)
    array([[2, 2, 4],
           [3, 0, 0]])
    >>> encode(["good", "?!"], words)
    Traceback (most recent call last):
    ValueError: text 1 holds no word: '?!'
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of str, not one str; got {texts!r}")
    if length is not None and length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    number = {word: place for place, word in enumerate(words) if place > UNKNOWN}
    rows = [[number.get(word, UNKNOWN) for word in tokenize(text)] for text in texts]
    if not rows:
        raise ValueError("there is no text to encode")
    for place, row in enumerate(rows):
        if not row:
            raise ValueError(f"text {place} holds no word: {str(texts[place])!r}")
    encoded = np.full((len(rows), length or max(map(len, rows))), PADDING, dtype=np.int64)
    for place, row in enumerate(rows):
        kept = row[: encoded.shape[1]]
        encoded[place, : len(kept)] = kept
    return encoded


def lengths(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count the words of each row, padding left out.

    Parameters
    ----------
    ids : ndarray of int, shape (N, length)

    Returns
    -------
    ndarray of int64, shape (N,)

    Examples
    --------
    >>> lengths(np.array([[2, 2, 3], [4, 0, 0]]))
    array([3, 1])
    """
    return np.asarray((np.asarray(ids) != PADDING).sum(axis=1), dtype=np.int64)


def unknown_rate(ids: npt.NDArray[np.int64]) -> float:
    """Share of the words, padding left out, that the vocabulary lacks.

    Parameters
    ----------
    ids : ndarray of int, shape (N, length)

    Returns
    -------
    float
        Between 0 and 1; NaN if there is no word.

    Examples
    --------
    >>> unknown_rate(np.array([[2, 1, 0], [3, 5, 6]]))
    0.2
    """
    count = int(lengths(ids).sum())
    return float((np.asarray(ids) == UNKNOWN).sum() / count) if count else float("nan")
