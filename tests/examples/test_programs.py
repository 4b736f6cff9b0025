"""The programs train by hand and with the library to the same numbers, on data that is as described."""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SMALL: dict[str, dict[str, int]] = {
    "recommender": {"users": 32, "epochs": 1},
    "dense": {"pictures": 40, "epochs": 1},
    "text": {"sentences": 128, "epochs": 1},
}
each_program = pytest.mark.parametrize("program", SMALL)


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def eager() -> Iterator[None]:
    """Some steps are sooner taken than Keras' graph of one is drawn."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.parametrize("framework", ["pytorch", "keras"])
@each_program
def test_by_hand_and_with_the_library_the_numbers_are_the_same(
    program: str,
    framework: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip({"pytorch": "torch"}.get(framework, framework))
    if framework == "keras":
        request.getfixturevalue("eager")
    found = importlib.import_module(f"{program}_{framework}").main(**SMALL[program])
    assert found["Equal"] == pytest.approx(found["by hand"], abs=1e-4)
    assert found["UPGrad"] != found["Equal"]
    assert all(math.isfinite(value) for column in found.values() for value in column.values())
    title, *rows, caveat = capsys.readouterr().out.splitlines()
    assert all(way in title for way in found)
    assert "compares no methods" in caveat
    simplest = next(iter(found.values()))
    assert [row.split()[0] for row in rows] == list(simplest)
    assert [float(row.split()[1]) for row in rows] == pytest.approx([*simplest.values()], abs=1e-3)


@each_program
def test_data_is_the_same_each_time_and_splits_differ(program: str) -> None:
    make = importlib.import_module(f"{program}_data").make
    rows = next(iter(SMALL[program].values()))
    one, other, third = make(rows), make(rows), make(rows, seed=1)
    for name, labels in one.train.targets.items():
        np.testing.assert_array_equal(labels, other.train.targets[name])
        assert not np.array_equal(labels, third.train.targets[name], equal_nan=True)
        assert not np.array_equal(labels[: len(one.test)], one.test.targets[name][: len(labels)])


# the recommender's log


@pytest.fixture(scope="module")
def log() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module("recommender_data").make(users=500)


def test_a_purchase_is_known_where_there_was_a_click(log: Any) -> None:
    for split in (log.train, log.valid, log.test):
        known = split.targets["purchase"] >= 0
        np.testing.assert_array_equal(known, split.targets["click"] == 1)


def test_who_comes_back_is_not_known_for_the_last_days_of_the_training_log(log: Any) -> None:
    known = log.train.targets["retention"] >= 0
    assert known[: -3 * 500].all()
    assert not known[-3 * 500 :].any()
    assert (log.test.targets["retention"] >= 0).all()


def test_labels_are_drawn_from_the_truth(log: Any) -> None:
    """In each tenth of the true probability, the share of yes is that probability."""
    for name, logits in log.truth.items():
        labels = log.test.targets[name]
        rate, labels = 1 / (1 + np.exp(-logits[labels >= 0])), labels[labels >= 0]
        for part in np.array_split(np.argsort(rate), 5):
            spread = np.sqrt((rate[part] * (1 - rate[part])).sum()) / len(part)
            assert abs(labels[part].mean() - rate[part].mean()) < 4 * spread


def test_the_history_holds_what_the_user_clicked_before(log: Any) -> None:
    first, last = log.train.inputs["history"][:500], log.test.inputs["history"][-500:]
    assert not first.any()
    items, clicks = log.test.inputs["item"], log.test.targets["click"]
    days = items.reshape(-1, 500)[-8:-1], clicks.reshape(-1, 500)[-8:-1]
    np.testing.assert_array_equal(last[:, -7:], np.where(days[1], days[0], 0).T)


# the pictures


def test_pixels_at_a_border_of_kinds_are_not_labelled_and_depth_has_holes() -> None:
    data = importlib.import_module("dense_data").make(40)
    kind, depth = data.train.targets["kind"], data.train.targets["depth"]
    for axis in (1, 2):
        near, next_one = np.moveaxis(kind, axis, 0)[:-1], np.moveaxis(kind, axis, 0)[1:]
        assert ((near == next_one) | (near == -1) | (next_one == -1)).all()
    assert 0.1 < np.isnan(depth).mean() < 0.2
    assert np.nanmin(depth) >= 1
    assert np.nanmax(depth) <= 4
    assert set(np.unique(kind)) == {-1, 0, 1, 2}


def test_the_floor_comes_nearer_and_objects_stand_before_it() -> None:
    data = importlib.import_module("dense_data").make(40)
    kind, depth = data.train.targets["kind"], data.train.targets["depth"]
    floor = np.broadcast_to(np.linspace(4, 2, 32)[:, None], kind.shape[1:])
    expected = np.broadcast_to(floor, kind.shape)
    there = ~np.isnan(depth)
    on_floor = there & (kind == 0)
    np.testing.assert_allclose(depth[on_floor], expected[on_floor], rtol=1e-6)
    assert (depth[there & (kind > 0)] < expected[there & (kind > 0)]).all()


# the sentences


def test_moods_follow_from_the_words_but_for_one_in_twenty() -> None:
    made = importlib.import_module("text_data")
    data = made.make(2000)
    good = {word for kind in ("good", "like", "well") for word in made.WORDS[kind]}
    bad = {word for kind in ("bad", "dislike", "badly") for word in made.WORDS[kind]}
    right = []
    for ids, mood in zip(data.train.inputs, data.train.targets["mood"], strict=True):
        words = " ".join(data.words[number] for number in ids if number)
        half = words.split(" but ")[-1].split()
        seen = [word in good for word in half if word in good | bad]
        if mood >= 0 and len(seen) == 1:
            right.append((seen[0] != ("not" in half)) == mood)
    assert np.mean(right) == pytest.approx(0.95, abs=0.02)
    assert np.mean(data.train.targets["mood"] < 0) == pytest.approx(0.2, abs=0.03)


def test_padding_has_no_tag_and_some_words_have_several() -> None:
    made = importlib.import_module("text_data")
    data = made.make(2000)
    ids, tags = data.train.inputs, data.train.targets["tag"]
    assert (tags[ids == 0] == -1).all()
    assert np.mean(tags[ids > 0] < 0) == pytest.approx(0.1, abs=0.02)
    light = tags[(ids == data.words.index("light")) & (tags >= 0)]
    assert {made.TAGS[tag] for tag in light} == {"ADJ", "NOUN"}
