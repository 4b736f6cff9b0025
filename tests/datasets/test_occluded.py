import numpy as np
import pytest

from mtl_tutorial.datasets import Dataset, check_inputs, occluded_scenes
from mtl_tutorial.datasets._occluded import BALL, BOX, CONE, JUMP, _edges, _surfaces
from mtl_tutorial.tasks import Binary, Classification, Regression, check_targets

TASKS = [Classification("segments", classes=4), Regression("depth"), Binary("edges")]


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return occluded_scenes(60, seed=1)


def test_the_nearest_surface_is_what_is_seen() -> None:
    """Without noise and holes every pixel is that of the surface with the least depth, room included."""
    depths, greys, classes = _surfaces(60, 32, 5, np.random.default_rng([3, 0]))
    train = occluded_scenes(60, seed=3, noise=0, missing=False).train
    np.testing.assert_array_equal(train.targets["depth"], depths.min(axis=0))
    for place in np.ndindex(60, 32, 32):
        layers = depths[:, *place]
        nearest = min(range(len(layers)), key=lambda number: layers[number])
        assert train.targets["segments"][place] == classes[nearest, place[0]]
        assert abs(train.inputs[place] - min(max(greys[nearest][place], 0), 1)) < 1e-6
    assert (np.isfinite(depths[1:]).sum(axis=0) > 1).mean() > 0.02  # one thing hides another


def test_edges_by_brute_force() -> None:
    depths, _, _ = _surfaces(20, 32, 5, np.random.default_rng(5))
    depth, owner = depths.min(axis=0), depths.argmin(axis=0)
    wanted = np.zeros(depth.shape, bool)
    for i, v, u in np.ndindex(depth.shape):
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            there = v + down, u + right
            if owner[i, v, u] and min(there) >= 0 and max(there) < 32:
                another = owner[i, v, u] != owner[i][there]
                wanted[i, v, u] |= another and depth[i][there] - depth[i, v, u] > JUMP
    np.testing.assert_array_equal(_edges(depth, owner), wanted)
    assert 0.02 < wanted.mean() < 0.1


def test_no_edge_where_a_thing_stands_on_the_floor() -> None:
    """Nor inside a thing: an edge has a neighbour that is farther, which that has not."""
    train = occluded_scenes(40, seed=2, things=1, missing=False).train
    edges, depth, segments = (train.targets[name] for name in ("edges", "depth", "segments"))
    assert (segments[edges == 1] != 0).all()
    box = segments == BOX
    foot = box[:, :-1] & (segments[:, 1:] == 0)  # a pixel of floor below
    inner = foot[:, :, 1:-1] & box[:, :-1, :-2] & box[:, :-1, 2:]  # but for its corners
    inner[:, 1:] &= box[:, :-2, 1:-1]  # and things of one row
    assert inner.sum() > 20
    assert not edges[:, :-1, 1:-1][inner][depth[:, 1:, 1:-1][inner] < 6].any()


def test_shapes_types_and_marks(scenes: Dataset) -> None:
    assert (scenes.name, scenes.source) == ("occluded_scenes", "generated")
    assert [len(split) for split in (scenes.train, scenes.valid, scenes.test)] == [60, 300, 500]
    for split in (scenes.train, scenes.valid, scenes.test):
        assert split.inputs.shape[1:] == (32, 32)
        assert split.inputs.dtype == split.targets["depth"].dtype == np.float32
        assert split.targets["segments"].dtype == split.targets["edges"].dtype == np.int64
        assert split.inputs.min() >= 0
        assert split.inputs.max() <= 1
        assert set(np.unique(split.targets["segments"])) == {-1, 0, BALL, BOX, CONE}
        check_inputs(split.inputs)
        check_targets(TASKS, split.targets, len(split))
        assert np.nanmin(split.targets["depth"]) > 1.5
        assert np.nanmax(split.targets["depth"]) <= 9


def test_missing_pixels(scenes: Dataset) -> None:
    whole = occluded_scenes(60, seed=1, missing=False)
    segments, depth = (scenes.train.targets[name] for name in ("segments", "depth"))
    np.testing.assert_array_equal(scenes.train.inputs, whole.train.inputs)
    np.testing.assert_array_equal(scenes.train.targets["edges"], whole.train.targets["edges"])
    known = segments != -1
    np.testing.assert_array_equal(segments[known], whole.train.targets["segments"][known])
    seen = ~np.isnan(depth)
    np.testing.assert_array_equal(depth[seen], whole.train.targets["depth"][seen])
    for hole in ~known:
        rows, columns = np.nonzero(hole)
        assert hole.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # one rectangle
        assert 4 <= np.ptp(rows) + 1 <= 12
    assert not np.isnan(whole.train.targets["depth"]).any()
    assert 0.03 < np.isnan(depth).mean() < 0.1


def test_the_depth_camera_is_blind_on_the_right_of_what_is_near() -> None:
    train = occluded_scenes(250, seed=4).train
    depth, edges = (train.targets[name] for name in ("depth", "edges"))
    right, left = np.zeros_like(edges, bool), np.zeros_like(edges, bool)
    right[:, :, 1:] = (edges[:, :, :-1] == 1) & (edges[:, :, 1:] == 0)
    left[:, :, :-1] = (edges[:, :, 1:] == 1) & (edges[:, :, :-1] == 0)
    assert np.isnan(depth[right]).mean() > 3 * np.isnan(depth[left]).mean()


def test_repeatable() -> None:
    one, again, third = (occluded_scenes(20, seed) for seed in (3, 3, 4))
    longer = occluded_scenes(30, 3)
    for name in ("segments", "depth", "edges"):
        np.testing.assert_array_equal(one.train.targets[name], again.train.targets[name])
        np.testing.assert_array_equal(one.test.targets[name], longer.test.targets[name])
    assert (one.train.inputs != third.train.inputs).any()
    assert (one.train.inputs != one.valid.inputs[:20]).any()


def test_pictures_on_the_wall_are_no_things() -> None:
    """The room alone: as dark or bright as things (floor and wall: 0.15 from 0.5), yet one class, no edge."""
    depths, greys, classes = _surfaces(60, 32, 1, np.random.default_rng(7))
    room = np.abs(greys[0] - 0.5)
    assert not classes[0].any()
    assert np.isfinite(depths[0]).all()
    assert (room > 0.15).any(axis=(1, 2)).mean() > 0.8
    assert 0.02 < (room > 0.15).mean() < 0.2
    assert not _edges(depths[0], np.zeros(depths[0].shape, int)).any()


def test_size_and_number_of_things() -> None:
    small = occluded_scenes(10, size=16, things=1)
    assert small.train.inputs.shape == (10, 16, 16)
    for segments in occluded_scenes(40, things=1, missing=False).train.targets["segments"]:
        assert len(np.unique(segments)) <= 2


@pytest.mark.parametrize("wrong", [{"count": 0}, {"things": 0}, {"size": 15}, {"noise": np.nan}])
def test_impossible_scenes(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="count and things must be at least 1, size at least 16"):
        occluded_scenes(**wrong)  # type: ignore[arg-type]  # each wrong on purpose
