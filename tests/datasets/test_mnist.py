import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_tutorial.datasets import _fetch, digits, mnist

Fill = Callable[[Path], Path]


def test_embedded_never_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("looked")

    monkeypatch.setenv(_fetch.VARIABLE, str(tmp_path))
    monkeypatch.setattr(_fetch, "cache_folder", refuse)
    monkeypatch.setattr(_fetch, "file_names", refuse)
    data = mnist(source="embedded", folder=tmp_path / "nowhere", seed=3)
    assert (data.name, data.source) == ("mnist", "embedded")
    np.testing.assert_array_equal(data.train.inputs, digits(seed=3).train.inputs)


def test_auto_without_real_data_warns_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = mnist()
    assert data.source == "embedded"
    (warning,) = caught
    assert warning.category is UserWarning
    assert warning.filename == __file__
    assert "`make data`" in str(warning.message)
    assert str(tmp_path) not in str(warning.message)


def test_auto_says_that_the_variable_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(_fetch.VARIABLE, str(tmp_path))
    with pytest.warns(UserWarning, match=f"{_fetch.VARIABLE} lacks 4 of 4 files and the cache"):
        mnist()


def test_where_auto_looks_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, fill: Fill
) -> None:
    fill(cache)
    assert _fetch.locate("mnist", "auto", None) == cache
    variable = tmp_path / "variable"
    monkeypatch.setenv(_fetch.VARIABLE, str(variable))
    assert _fetch.locate("mnist", "auto", None) == cache
    fill(variable)
    assert _fetch.locate("mnist", "auto", None) == variable
    folder = fill(tmp_path / "folder")
    assert _fetch.locate("mnist", "auto", str(folder)) == folder


@pytest.mark.parametrize("source", ["auto", "real"])
def test_an_explicit_folder_is_the_only_place(
    source: str, tmp_path: Path, cache: Path, fill: Fill
) -> None:
    fill(cache)
    folder = fill(tmp_path / "folder")
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        mnist(source, folder)
    message = str(error.value)
    assert f"{folder} lacks mnist/t10k-labels-idx1-ubyte.gz." in message
    assert "`make data`" in message


def test_real_without_real_data(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`make data`") as error:
        mnist(source="real")
    assert str(cache) in str(error.value)


@pytest.mark.parametrize("source", ["Real", "", "download", None])
def test_unknown_source(source: str) -> None:
    with pytest.raises(ValueError, match="one of 'auto', 'real', 'embedded', not "):
        mnist(source)


def test_reads_the_files(tmp_path: Path, fill: Fill, contents: dict[str, bytes]) -> None:
    folder = fill(tmp_path)
    data, other = mnist("real", folder), mnist("real", folder, seed=1)
    assert (data.name, data.source) == ("mnist", "real")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [100, 20, 20]
    assert not np.array_equal(data.valid.inputs, other.valid.inputs)
    np.testing.assert_array_equal(data.test.inputs, other.test.inputs)

    raw = gzip.decompress(contents["mnist/train-images-idx3-ubyte.gz"])[16:]
    images = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28) / 255
    for split in (data.train, data.valid):
        digit = split.targets["digit"]
        assert set(np.bincount(digit)) == {len(split) // 10}
        # Row i of the made-up files has the label i % 10.
        for image, label in zip(split.inputs, digit, strict=True):
            (row,) = np.flatnonzero(np.isclose(images, image).all((1, 2)))
            assert row % 10 == label
        np.testing.assert_array_equal(split.targets["gt5"], digit > 5)
        assert split.inputs.dtype == np.float32
        assert digit.dtype == split.targets["gt5"].dtype == np.int64


def test_a_good_file_under_the_wrong_name(tmp_path: Path, fill: Fill) -> None:
    folder = fill(tmp_path) / "mnist"
    (folder / "train-images-idx3-ubyte.gz").rename(folder / "train-labels-idx1-ubyte.gz")
    (folder / "t10k-images-idx3-ubyte.gz").rename(folder / "train-images-idx3-ubyte.gz")
    (folder / "t10k-images-idx3-ubyte.gz").touch()
    with pytest.raises(ValueError, match=r"train-images.* a copy of mnist/t10k-images-idx3"):
        mnist("real", tmp_path)


def test_the_real_thing(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_fetch.VARIABLE, str(real))
    data = mnist()
    assert data.source == "real"
    assert [len(split) for split in (data.train, data.valid, data.test)] == [50000, 10000, 10000]
    assert data.test.targets["digit"][:5].tolist() == [7, 2, 1, 0, 4]
    both = np.concatenate([data.train.targets["digit"], data.valid.targets["digit"]])
    assert np.bincount(both).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert data.train.inputs.mean() == pytest.approx(0.1307, abs=0.001)
