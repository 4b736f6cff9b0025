import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtl_tutorial.datasets import Dataset, Split, _fetch, _registry, census
from mtl_tutorial.datasets._census import CATEGORICAL, FIELDS, FILES, NUMERIC, parse_people
from mtl_tutorial.datasets._people import write_people
from mtl_tutorial.tabular import encoder

TASKS = ("income", "never_married")


def splits(data: Dataset) -> list[Split]:
    return [data.train, data.valid, data.test]


def rows(data: Dataset) -> list[tuple[str, ...]]:
    return [
        tuple(str(column[i]) for column in (*split.inputs.values(), *split.targets.values()))
        for split in splits(data)
        for i in range(len(split))
    ]


def test_embedded() -> None:
    data = census("embedded")
    assert (data.name, data.source) == ("census", "embedded")
    assert [len(split) for split in splits(data)] == [4000, 1000, 1000]
    for split in splits(data):
        assert list(split.inputs) == [*NUMERIC, *CATEGORICAL]
        assert {split.inputs[name].dtype for name in NUMERIC} == {np.dtype("float32")}
        assert {split.inputs[name].dtype.kind for name in CATEGORICAL} == {"U"}
        assert 0.15 < split.targets["income"].mean() < 0.35
        assert 0.25 < split.targets["never_married"].mean() < 0.45
        assert {split.targets[task].dtype for task in TASKS} == {np.dtype("int64")}


def test_the_made_up_tasks_have_to_do_with_each_other_and_with_the_columns() -> None:
    train = census("embedded").train
    income, single = (train.targets[task] for task in TASKS)
    assert income[single == 0].mean() > 2 * income[single == 1].mean()
    assert np.corrcoef(train.inputs["age"], single)[0, 1] < -0.4
    assert np.corrcoef(train.inputs["education-num"], income)[0, 1] > 0.2


def test_what_would_answer_for_a_network_is_not_among_the_columns() -> None:
    assert {"marital-status", "relationship", "income"}.isdisjoint(census("embedded").train.inputs)


def test_an_encoder_takes_the_columns() -> None:
    data = census("embedded")
    encode = encoder(data.train.inputs, CATEGORICAL, NUMERIC)
    assert encode.numeric == NUMERIC
    for split in splits(data):
        arrays = encode(split.inputs)
        assert arrays["categorical"].shape == (len(split), len(CATEGORICAL))
        assert np.isfinite(arrays["numeric"]).all()


def test_the_seed_decides_the_rows_and_nothing_else() -> None:
    one, again, other = (rows(census("embedded", seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other)
    assert one[-1000:] == other[-1000:]  # the test


def test_auto_without_real_data_warns() -> None:
    with pytest.warns(UserWarning, match=r"adult.*a small program.*`make data`") as caught:
        assert census().source == "embedded"
    assert [warning.filename for warning in caught] == [__file__]


def written(people: list[tuple[str, ...]], dot: str = "") -> bytes:
    return "".join(f"{', '.join(person)}{dot}\n" for person in people).encode() + b"\n"


def test_a_header_and_the_dots_of_the_test_file_are_passed_over() -> None:
    people = write_people(20, np.random.default_rng(1))
    content = b"|1x3 Cross validator\n" + written(people, dot=".")
    assert parse_people(content, "adult.test") == parse_people(written(people), "") == people


@pytest.mark.parametrize(
    ("old", "new"), [(", >50K", ""), ("38,", "old,"), (">50K", ">5000K"), ("Male", "Male, Male")]
)
def test_a_broken_line_is_named(old: str, new: str) -> None:
    line = "38, Private, 1, x, 9, Divorced, Sales, x, White, Male, 0, 0, 40, Mexico, >50K\n"
    assert old in line
    content = (line + line.replace(old, new, 1)).encode()
    with pytest.raises(ValueError, match=f"line 2 is not a person of {len(FIELDS)} fields"):
        parse_people(content, "adult.data")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    def write(*files: bytes) -> Path:
        (tmp_path / "adult").mkdir()
        for name, content in zip(FILES, files, strict=True):
            (tmp_path / name).write_bytes(content)
            monkeypatch.setitem(_registry.SHA256, name, hashlib.sha256(content).hexdigest())
        return tmp_path

    return write


def test_files_whose_rows_are_there_once(folder: Callable[..., Path]) -> None:
    people = list(dict.fromkeys(write_people(600, np.random.default_rng(2))))
    test = people[-100:]
    train = people[:-100] + people[:30] + test[:20]  # 30 twice, 20 from the test
    data = census("real", folder(written(train), b"|a header\n" + written(test, dot=".")))
    known = len(people) - 100
    assert data.source == "real"
    assert [len(split) for split in splits(data)] == [known - known // 4, known // 4, 100]
    assert data.test.targets["income"].sum() == sum(person[-1] == ">50K" for person in test)


@pytest.mark.parametrize("ways", [("good",), ("cut", "good"), ("wrong", "good")])
def test_the_files_come_out_of_an_archive_from_a_server(
    ways: tuple[str, ...], server: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = list(dict.fromkeys(write_people(200, np.random.default_rng(3))))
    files = written(people[50:]), b"|a header\n" + written(people[:50], dot=".")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in zip(FILES, files, strict=True):
            archive.writestr(name.removeprefix("adult/"), content)
            monkeypatch.setitem(_registry.SHA256, name, hashlib.sha256(content).hexdigest())
    server.files["adult/adult.zip"] = packed.getvalue()
    mirrors = tuple(f"{server.url(way, 'adult')}adult.zip#" for way in ways)
    monkeypatch.setitem(_registry.MIRRORS, "adult", mirrors)
    _fetch.fetch("adult", cache, timeout=(1, 0.5), progressbar=False)
    assert [len(split) for split in splits(census("real", cache))][2] == 50


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"lacks {FILES[0]}"):
        census("real", tmp_path)


def test_the_real_thing(real: Path) -> None:
    data = census("real", real)
    assert [len(split) for split in splits(data)] == [27_514, 5000, 16_281]
    assert data.test.targets["income"].sum() == 3846
    assert data.train.inputs["age"].min() == 17
    assert "?" in data.train.inputs["occupation"]
    for task in TASKS:
        shares = [split.targets[task].mean() for split in splits(data)[:2]]
        assert abs(shares[0] - shares[1]) < 1e-3
