from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mtl_tutorial.metrics import mean_interval
from mtl_tutorial.plotting import (
    arrows,
    boxes,
    dependency_graph,
    dependency_text,
    differences,
    front,
    gradients_over_time,
    images,
    sharing_diagram,
    sharing_text,
    weights_over_time,
)
from mtl_tutorial.weighting import PCGrad, Recorded, Static, conflict_shares, cosines

BLOCKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "pair": (1500, ("a", "c")),
    "trunk": (4000, ("a", "b", "c")),
    "heads.b": (10, ("b",)),
    "adversary": (2, ()),
}


@pytest.fixture(autouse=True)
def _no_figure_is_left() -> Iterator[None]:
    yield
    plt.close("all")


def test_differences_stand_in_their_rows() -> None:
    runs = {"UW": np.array([0.5, 1.5, 1.0]), "DWA": np.array([-1.0, 1.0, 3.0])}
    _, ax = plt.subplots()
    differences(ax, runs, xlabel="points")
    for row, (values, bar) in enumerate(zip(runs.values(), ax.containers, strict=True)):
        mean, half = mean_interval(values)
        (segment,) = bar[2][0].get_segments()
        np.testing.assert_allclose(segment, [[mean - half, row], [mean + half, row]])
    assert ax.yaxis_inverted()  # the first name on top
    assert ax.lines[0].get_xdata() == [0, 0]


def test_a_front_has_a_point_and_two_bars_a_name() -> None:
    x, y = np.array([0.8, 0.9]), np.array([0.6, 0.8])
    _, ax = plt.subplots()
    front(ax, {"equal": (x, y)}, xlabel="digit", ylabel="angle")
    line, _, bars = ax.containers[0]
    assert line.get_xydata() == pytest.approx(np.array([[0.85, 0.7]]))
    (across,), (up,) = (bar.get_segments() for bar in bars)
    assert across[:, 0] == pytest.approx(0.85 + np.array([-1, 1]) * mean_interval(x)[1])
    assert up[:, 1] == pytest.approx(0.7 + np.array([-1, 1]) * mean_interval(y)[1])


def test_thirteen_names_can_be_told_apart() -> None:
    _, ax = plt.subplots()
    same = np.array([0.0, 1.0])
    front(ax, {str(i): (same, same) for i in range(13)}, xlabel="x", ylabel="y")
    styles = {(bar[0].get_color(), bar[0].get_marker()) for bar in ax.containers}
    assert len(styles) == 13


def test_arrows_fit_their_axes() -> None:
    _, ax = plt.subplots()
    arrows(ax, {"$g_1$": np.array([3.0, -1.0]), "0": np.zeros(2)})
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < 0
    assert right > 3
    assert low < -1
    assert high > 0
    assert [text.get_text() for text in ax.texts] == ["$g_1$", "0"]


def test_boxes_stand_at_the_edges_of_pixels() -> None:
    figure = images(np.zeros((2, 8, 8)), columns=2)
    truth = np.array([[1, 2, 5, 6], [np.nan] * 4])
    boxes(figure.axes, truth, np.array([[0, 0, 8, 8], [1, 1, 2, 2]]))
    first, second = figure.axes
    (solid, dashed), (alone,) = first.patches, second.patches
    assert isinstance(solid, Rectangle)
    assert isinstance(dashed, Rectangle)
    assert solid.get_bbox().extents == pytest.approx([0.5, 1.5, 4.5, 5.5])
    assert dashed.get_bbox().extents == pytest.approx([-0.5, -0.5, 7.5, 7.5])
    assert solid.get_linestyle() != dashed.get_linestyle() == alone.get_linestyle()


def drawn(line: Line2D) -> np.ndarray:
    """Give the points of a line, shape (points, 2)."""
    return np.asarray(line.get_xydata(), dtype=float)


def test_a_diagram_has_a_cell_for_each_task_that_a_block_serves() -> None:
    ax = sharing_diagram(BLOCKS).axes[0]
    cells = []
    for patch in ax.patches:
        assert isinstance(patch, Rectangle)
        left, low, right, high = patch.get_bbox().extents
        cells.append((round((low + high) / 2), round((left + right) / 2), patch.get_facecolor()))
    assert [cell[:2] for cell in cells] == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1)]
    assert len({(column, colour) for _, column, colour in cells}) == 3  # a colour a task
    points = [line for line in ax.lines if len(drawn(line)) == 1]
    assert len({(drawn(line)[0, 0], line.get_marker()) for line in points}) == 3
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(BLOCKS)
    assert ax.yaxis_inverted()  # the first block on top
    assert [text.get_text() for text in ax.texts] == [
        "1,500", "4,000", "10", "2, no task", "parameters",
    ]  # fmt: skip


def test_cells_side_by_side_touch_and_others_do_not() -> None:
    ax = sharing_diagram({"trunk": (9, ("a", "b")), "head": (1, ("b",))}).axes[0]
    first, second, alone = (patch.get_extents().extents for patch in ax.patches)
    assert first[2] == pytest.approx(second[0])
    assert alone[0] > second[0]


def test_text_says_what_the_diagram_shows() -> None:
    assert sharing_text(BLOCKS) == (
        "3 tasks (a, b, c), 5,512 parameters in 4 blocks, 5,500 of them shared. "
        "pair: 1,500 parameters, shared by a and c. "
        "trunk: 4,000 parameters, shared by a, b and c. "
        "heads.b: 10 parameters, b alone. adversary: 2 parameters, no task."
    )


@pytest.mark.parametrize("draw", [sharing_diagram, sharing_text])
def test_blocks_without_a_task(draw: object) -> None:
    assert callable(draw)
    with pytest.raises(ValueError, match=r"no block serves a task; the blocks are \['spare'\]"):
        draw({"spare": (1, ())})


def recorded(steps: int) -> Recorded:
    rng = np.random.default_rng(0)
    weighting = Recorded(PCGrad())
    for _ in range(steps):
        rows = rng.standard_normal((3, 4))
        weighting(np.zeros(3), rows @ rows.T, [True, True, rng.random() < 0.5])
    return weighting


def test_weights_are_drawn_step_by_step_where_a_task_is_present() -> None:
    steps = recorded(20).steps
    lines = weights_over_time(steps, ["a", "b", "c"]).axes[0].lines
    for k, line in enumerate(lines):
        there = np.array([step["present"][k] for step in steps])
        weights = np.array([step["weights"][k] for step in steps])
        np.testing.assert_array_equal(drawn(line)[:, 0], np.arange(1, 21))
        np.testing.assert_allclose(drawn(line)[:, 1], np.where(there, weights, np.nan))


def test_many_steps_are_drawn_as_means() -> None:
    steps = recorded(130).steps
    line = weights_over_time(steps, ["a", "b", "c"]).axes[0].lines[2]
    starts = range(0, 130, 3)
    brute = [
        np.mean([step["weights"][2] for step in steps[i : i + 3] if step["present"][2]] or [np.nan])
        for i in starts
    ]
    np.testing.assert_allclose(drawn(line)[:, 1], brute)
    assert drawn(line)[:, 0][-1] == 130


def test_gradients_are_those_of_the_gramians() -> None:
    steps = recorded(20).steps
    lengths, angles, conflicts = gradients_over_time(steps, ["a", "b", "c"]).axes
    np.testing.assert_allclose(
        drawn(lengths.lines[1])[:, 1], [np.sqrt(step["gramian"][1, 1]) for step in steps]
    )
    for line, (k, l) in zip(angles.lines[1:], [(0, 1), (0, 2), (1, 2)], strict=True):
        expected = [cosines(step["gramian"])[k, l] for step in steps]
        np.testing.assert_allclose(drawn(line)[:, 1], expected)
    pair = gradients_over_time([{"gramian": s["gramian"][:2, :2]} for s in steps], ["a", "b"])
    share = float(conflict_shares(steps)[0, 1])
    assert np.mean(drawn(pair.axes[2].lines[0])[:, 1]) == pytest.approx(share)
    for i, step in enumerate(steps):
        off = step["gramian"][[0, 0, 1], [1, 2, 2]]
        share = float(np.mean(off[~np.isnan(off)] < 0))
        assert drawn(conflicts.lines[0])[:, 1][i] == pytest.approx(share)


def test_pairs_that_agree_least_are_drawn() -> None:
    steps = recorded(20).steps
    ax = gradients_over_time(steps, ["a", "b", "c"], pairs=1).axes[1]
    met = {
        f"{'abc'[k]}, {'abc'[l]}": np.nanmean([cosines(step["gramian"])[k, l] for step in steps])
        for k, l in [(0, 1), (0, 2), (1, 2)]
    }
    assert ax.get_legend_handles_labels()[1] == [min(met, key=lambda pair: met[pair])]
    assert ax.get_title() == "cosine of two gradients, 1 lowest of 3"


def test_records_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="nothing is recorded"):
        weights_over_time([], ["a"])
    static = Recorded(Static([1, 2]))
    static([0, 0])
    with pytest.raises(ValueError, match=r"3 names for 2 tasks: \['a', 'b', 'c'\]"):
        weights_over_time(static.steps, ["a", "b", "c"])
    with pytest.raises(ValueError, match="no step with a Gramian was recorded"):
        gradients_over_time(static.steps, ["a", "b"])
    with pytest.raises(ValueError, match="2 names for 3 tasks"):
        gradients_over_time(recorded(1).steps, ["a", "b"])
    with pytest.raises(ValueError, match="with one task no gradient meets another"):
        gradients_over_time([{"gramian": np.ones((1, 1))}], ["a"])


def test_a_dependency_graph_has_an_arrow_for_each_entry_that_is_large_enough() -> None:
    affinity = np.array([[9.0, 2.0, 0.1], [-1.0, 9.0, np.nan], [0.0, -0.2, 9.0]])
    figure = dependency_graph(affinity, ["digit", "ink", "slant"], least=0.2)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["digit", "ink", "slant"]
    assert [arrow.get_linestyle() for arrow in ax.patches] == ["-", "--", "--"]
    widths = [arrow.get_linewidth() for arrow in ax.patches]
    assert widths == sorted(widths, reverse=True)
    text = dependency_text(affinity, ["digit", "ink", "slant"], least=0.2)
    assert "from digit to ink (+2), from ink to digit (-1), from slant to ink (-0.2)" in text
    assert "No arrows" in dependency_text(affinity, ["digit", "ink", "slant"], least=5)


def test_a_dependency_graph_needs_a_name_for_each_task() -> None:
    with pytest.raises(ValueError, match=r"affinity has shape \(2, 2\) for 3 names"):
        dependency_graph(np.ones((2, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match="least is the smallest size drawn"):
        dependency_text(np.ones((2, 2)), ["a", "b"], least=-1)
