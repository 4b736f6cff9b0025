import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtl_tutorial.datasets import _fetch, _registry, sentiment
from mtl_tutorial.datasets._reviews import write_reviews
from mtl_tutorial.datasets._sentiment import FILES, FOLDER, distinct, parse_sentences
from mtl_tutorial.text import tokenize


def everything(data: object) -> list[tuple[str, int, int]]:
    splits = [getattr(data, part) for part in ("train", "valid", "test")]
    return [
        (str(text), int(s), int(d))
        for split in splits
        for text, s, d in zip(
            split.inputs, split.targets["sentiment"], split.targets["domain"], strict=True
        )
    ]


def test_embedded() -> None:
    data = sentiment("embedded")
    assert (data.name, data.source) == ("sentiment", "embedded")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [2000, 400, 600]
    assert data.train.inputs.dtype.kind == "U"
    for split in (data.train, data.valid, data.test):
        assert split.targets["sentiment"].dtype == np.int64
        np.testing.assert_allclose(
            np.bincount(split.targets["domain"]) / len(split), 1 / 3, atol=0.01
        )
        assert 0.45 < split.targets["sentiment"].mean() < 0.55


def test_the_seed_decides_the_rows_and_nothing_else() -> None:
    one, again, other = (everything(sentiment("embedded", seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other)


def test_auto_without_real_data_warns() -> None:
    with pytest.warns(UserWarning, match=r"sentiment.*a small grammar.*`make data`") as caught:
        assert sentiment().source == "embedded"
    assert [warning.filename for warning in caught] == [__file__]


def test_a_line_ends_at_a_newline_and_its_label_follows_the_last_tab() -> None:
    content = '"One" quote\t1\nA\x85B  \t0\nwith a\ttab\t1\n'.encode()
    assert parse_sentences(content, 2) == [
        ('"One" quote', 1, 2),
        ("A\x85B", 0, 2),
        ("with a\ttab", 1, 2),
    ]


@pytest.mark.parametrize("line", ["no label", "a label\t2", "a label\t"])
def test_a_broken_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not a sentence"):
        parse_sentences(f"good\t1\n{line}\n".encode(), 0)


def test_the_same_words_are_one_sentence() -> None:
    rows = [("Very good.", 1, 0), ("very GOOD!", 0, 1), ("good, very", 1, 2)]
    assert distinct(rows) == [rows[0], rows[2]]


def make_up(generator: np.random.Generator) -> dict[str, bytes]:
    return {
        f"{FOLDER}/{file}": "".join(
            f"{text}\t{label}\n"
            for text, label, domain in write_reviews(1500, generator)
            if domain == d
        ).encode()
        for d, file in enumerate(FILES)
    }


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    files = make_up(np.random.default_rng(1))
    for name, content in files.items():
        monkeypatch.setitem(_registry.SHA256, name, hashlib.sha256(content).hexdigest())
    return files


def test_files(made_up: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name, content in made_up.items():
        (tmp_path / name).write_bytes(content)
    data = sentiment("real", tmp_path)
    assert data.source == "real"
    assert len(everything(data)) > 1400
    assert data.test.inputs.shape == (600,)


def test_no_sentence_is_in_two_splits() -> None:
    rows = everything(sentiment("embedded"))
    assert len({text for text, _, _ in rows}) == len(rows)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"lacks {FOLDER}/{FILES[0]}"):
        sentiment("real", tmp_path)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for file in FILES:
        (tmp_path / FOLDER / file).write_bytes(b"good\t1\n")
    with pytest.raises(ValueError, match="SHA-256 expected"):
        sentiment("auto", tmp_path)


def test_the_real_thing(real: Path) -> None:
    data = sentiment("real", real)
    rows = everything(data)
    assert len(rows) == 2969
    assert [len(split) for split in (data.train, data.valid, data.test)] == [1969, 400, 600]
    assert len({tuple(tokenize(text)) for text, _, _ in rows}) == len(rows)
    assert ("Very disappointing.", 0, 0) in rows
    assert any("\x85" in text for text, _, _ in rows)


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return packed.getvalue()


Serve = Callable[[bytes], str]


def test_a_member_of_an_archive(
    server: SimpleNamespace,
    known: dict[str, bytes],
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first mirrors fail: no archive, no such member, another content; the last is right."""
    name = "mnist/t10k-labels-idx1-ubyte.gz"
    content = known[name]
    server.files |= {
        "mnist/broken.zip": b"no archive",
        "mnist/lacking.zip": archive({"in it/other": content}),
        "mnist/altered.zip": archive({"in it/t10k-labels-idx1-ubyte.gz": content[:-1]}),
        "mnist/right.zip": archive({"in it/t10k-labels-idx1-ubyte.gz": content}),
    }
    root = server.url("good")
    urls = [
        f"{root}{kind}.zip#in it/{Path(name).name}"
        for kind in ("missing", "broken", "lacking", "altered", "right")
    ]
    _fetch.fetch_file(name, cache, urls, (0.5, 0.3), False)
    assert (cache / name).read_bytes() == content
    assert (cache / name).stat().st_mode & 0o777 == 0o644
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / name]
    assert len(capsys.readouterr().err.splitlines()) == 4
    (cache / name).unlink()
    with pytest.raises(OSError, match="every mirror failed"):
        _fetch.fetch_file(name, cache, urls[:-1], (0.5, 0.3), False)
    assert not [path for path in cache.rglob("*") if path.is_file()]
