"""Sentences from a text file, one a line."""

import codecs
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtl_tutorial.datasets._dataset import Split
from mtl_tutorial.tasks import Binary, Boxes, Classification, Task, check_targets


def read_sentences(
    path: str | os.PathLike[str], tasks: Sequence[Task] = (), encoding: str = "utf-8"
) -> Split:
    r"""Read sentences of your own: one a line, behind it the label of each task, after a tab each.

    With ``tasks=[Binary("sentiment"), Classification("domain", classes=3)]`` a line is
    ``"The soup was cold.\t0\t2"``. The labels stand after the last tabs, so a sentence may hold tabs
    of its own; an empty label is missing. Empty lines are passed over.

    Parameters
    ----------
    path : path
    tasks : sequence of Task
        In the order of the labels; none, for a file of sentences alone.
    encoding : str
        In which the file was saved, such as ``"cp1252"`` or ``"utf-16"``.

    Returns
    -------
    Split
        ``inputs`` str of shape (N,), as written; :mod:`mtl_tutorial.text` makes numbers of them.
        ``targets`` of shape (N,): int64, or float32 for quantities.

    Raises
    ------
    OSError
        There is no such file, or it is a folder.
    ValueError
        The file has another encoding, a line lacks its sentence or a label, or a label is none that
        its task allows, with file and line; or there is no sentence at all.
    TypeError
        A task is one of boxes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.txt"
    ...     _ = path.write_text("Good phone.\t1\nIt broke.\t0\nIt is blue.\t\n")
    ...     data = read_sentences(path, [Binary("sentiment")])
    >>> data.inputs.tolist(), data.targets["sentiment"].tolist()
    (['Good phone.', 'It broke.', 'It is blue.'], [1, 0, -1])
    """
    path = Path(path)
    for task in tasks:
        if isinstance(task, Boxes):
            raise TypeError(f"task {task.name!r}: a sentence has one number a task, and no boxes")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file in it that holds the sentences")
    texts, labels, known = [], [], {}
    for number, line in lines(path.read_bytes(), path, encoding):
        text, *fields = line.rsplit("\t", len(tasks)) if tasks else [line]
        if len(fields) != len(tasks) or not text.strip():
            raise ValueError(
                f"{path}, line {number} is not a sentence and, each after a tab, {len(tasks)} "
                f"labels: {line!r}"
            )
        row = []
        for task, field in zip(tasks, map(str.strip, fields), strict=True):
            if (task.name, field) not in known:
                known[task.name, field] = _label(task, field, f"{path}, line {number}")
            row.append(known[task.name, field])
        texts.append(text.strip())
        labels.append(row)
    if not texts:
        raise ValueError(f"{path} holds no sentence")
    columns = np.array(labels, dtype=float).reshape(len(texts), len(tasks)).T
    return Split(
        np.array(texts),
        {
            task.name: column.astype(
                np.int64 if isinstance(task, Classification | Binary) else np.float32
            )
            for task, column in zip(tasks, columns, strict=True)
        },
    )


def lines(
    content: bytes, name: str | os.PathLike[str], encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    r"""Give the lines of a text file that are not empty, each with its number.

    A line ends at "\n" and nowhere else (some sentences hold "\x85", where ``str.splitlines`` would
    break them).

    Raises
    ------
    ValueError
        The content has another encoding; with file, line, and what to try.
    """
    try:
        marked = content.startswith(codecs.BOM_UTF8) and encoding == "utf-8"
        text = content.decode("utf-8-sig" if marked else encoding)
        wrong = text.find("\0")  # UTF-16 without a mark is valid UTF-8, with a zero a letter
        number, what = text.count("\n", 0, wrong) + 1, "holds a zero byte"
    except UnicodeDecodeError as error:
        wrong, number = error.start, content.count(b"\n", 0, error.start) + 1
        what = f"holds the byte {content[wrong]:#04x}, which is not {encoding}"
    if wrong >= 0:
        marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        wide = content.startswith(marks) or b"\0" in content
        try_out = "utf-16" if wide else "cp1252"
        raise ValueError(
            f"{name}, line {number} {what}: give the encoding in which the file was saved, "
            f"{try_out!r} perhaps, or save it in UTF-8"
        )
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _label(task: Task, field: str, place: str) -> float:
    """Turn what stands after a tab into a label, or say what the task allows."""
    if not field:
        return task.missing
    try:
        value = float(field)
        check_targets([task], {task.name: np.array([value])}, 1)
    except ValueError as error:
        allowed = str(error).partition("; ")[2] or "a number is expected"
        raise ValueError(f"{place}: {field!r} is no label of task {task.name!r}; {allowed}") from (
            error
        )
    return value
