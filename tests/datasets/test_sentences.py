import re
from pathlib import Path

import numpy as np
import pytest

from mtl_tutorial.datasets import read_sentences
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

TASKS: list[Task] = [Binary("good"), Classification("domain", classes=3), Regression("stars")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.txt"


def test_sentences_alone(file: Path) -> None:
    file.write_bytes("\n One. \r\n\nCaf\N{LATIN SMALL LETTER E WITH ACUTE}\x85!\n\n".encode())
    data = read_sentences(file)
    assert data.inputs.tolist() == ["One.", "Caf\N{LATIN SMALL LETTER E WITH ACUTE}\x85!"]
    assert data.targets == {}


def test_labels_after_the_last_tabs(file: Path) -> None:
    file.write_bytes(b"a\ttab of its own\t1\t2\t4.5\r\nnone\t\t\t\nmarked\t-1\t-1\tnan\n")
    data = read_sentences(file, TASKS)
    assert data.inputs.tolist() == ["a\ttab of its own", "none", "marked"]
    assert data.targets["good"].tolist() == [1, -1, -1]
    assert data.targets["domain"].tolist() == [2, -1, -1]
    np.testing.assert_array_equal(data.targets["stars"], [4.5, np.nan, np.nan])
    assert [target.dtype.name for target in data.targets.values()] == ["int64", "int64", "float32"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no label", r"is not a sentence and, each after a tab, 3 labels: 'no label'"),
        ("two\t1\t2", "is not a sentence"),
        ("\t1\t2\t3", "is not a sentence"),
        ("a\t2\t2\t3", ": '2' is no label of task 'good'; allowed are the integers 0 to 1, and -1"),
        ("a\t1\t0.5\t3", ": '0.5' is no label of task 'domain'; allowed are the integers 0 to 2"),
        ("a\t1\t0\tinf", ": 'inf' is no label of task 'stars'; allowed are finite numbers"),
        ("a\tyes\t0\t1", ": 'yes' is no label of task 'good'; a number is expected"),
    ],
)
def test_a_broken_line_is_named(file: Path, line: str, message: str) -> None:
    file.write_text(f"first\t1\t0\t2\n\n{line}\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}, line 3.*{message}"):
        read_sentences(file, TASKS)


TEXT = "plain\na caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"


@pytest.mark.parametrize(("encoding", "line"), [("cp1252", 2), ("utf-16", 1), ("utf-16-le", 2)])
def test_another_encoding_is_named_with_the_line_and_what_to_try(
    file: Path, encoding: str, line: int
) -> None:
    file.write_bytes(TEXT.encode(encoding))
    advice = encoding.removesuffix("-le")
    message = (
        f"^{re.escape(str(file))}, line {line} holds .*, '{advice}' perhaps, or save it in UTF-8"
    )
    with pytest.raises(ValueError, match=message):
        read_sentences(file)
    assert read_sentences(file, encoding=encoding).inputs.tolist() == TEXT.split("\n")[:2]


def test_the_mark_of_a_utf_8_file_is_no_part_of_its_first_sentence(file: Path) -> None:
    file.write_bytes(TEXT.encode("utf-8-sig"))
    assert read_sentences(file).inputs.tolist() == TEXT.split("\n")[:2]


def test_a_file_without_a_sentence(file: Path) -> None:
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="holds no sentence"):
        read_sentences(file)


def test_a_folder_and_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; give the file in it"):
        read_sentences(file.parent)
    with pytest.raises(FileNotFoundError, match=re.escape(str(file))):
        read_sentences(file)


def test_a_sentence_has_no_boxes(file: Path) -> None:
    file.write_text("a\t1\n")
    with pytest.raises(TypeError, match="task 'box': a sentence has one number a task"):
        read_sentences(file, [Boxes("box")])
