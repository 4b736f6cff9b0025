import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from mtl_tutorial.metrics import mean_interval
from mtl_tutorial.plotting import arrows, boxes, differences, front, images


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
