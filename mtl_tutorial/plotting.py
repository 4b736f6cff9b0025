"""Figures the chapters share. They read in light and dark pages, and without telling red from green.

Lines differ by marker as well as by colour: a dark page swaps light and dark shades, and one reader
in twelve sees fewer hues. The colours are those of Okabe and Ito (2008).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mtl_tutorial.metrics import mean_interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def learning_curves(history: Mapping[str, Sequence[float]], metric: str = "loss") -> Figure:
    """Draw a metric of every task against the epoch, training and validation side by side.

    Parameters
    ----------
    history : mapping from name to list of float
        What :func:`mtl_tutorial.pytorch.fit` returns, or the ``history`` attribute of what Keras'
        ``fit`` returns: the names are the same.
    metric : str
        The end of the names to draw, such as ``"loss"`` or ``"accuracy"``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    KeyError
        The history holds no such metric of a task.

    Examples
    --------
    >>> figure = learning_curves({"digit_loss": [2.0, 1.0], "val_digit_loss": [2.1, 1.5]})
    >>> [ax.get_title() for ax in figure.axes]
    ['training', 'validation']
    """
    keys = [key for key in history if key.endswith(f"_{metric}") and key != f"val_{metric}"]
    if not keys:
        raise KeyError(f"no {metric!r} of a task in the history; it has {list(history)}")
    sides = {
        "training": [key for key in keys if not key.startswith("val_")],
        "validation": [key for key in keys if key.startswith("val_")],
    }
    sides = {title: keys for title, keys in sides.items() if keys}
    figure, axes = plt.subplots(
        1, len(sides), figsize=(4 * len(sides), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (title, keys) in zip(axes[0], sides.items(), strict=True):
        for i, key in enumerate(keys):
            values = history[key]
            label = key.removeprefix("val_").removesuffix(f"_{metric}")
            ax.plot(range(1, len(values) + 1), values, **_style(i), label=label)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel(metric)
    axes[0, 0].legend()
    return figure


def confusion_matrix(
    truth: np.ndarray, predictions: np.ndarray, labels: Sequence[str] | None = None
) -> Figure:
    """Draw how often each class was taken for each other one, in per cent of its true class.

    Parameters
    ----------
    truth, predictions : numpy.ndarray of int, shape (N,)
        Rows with a missing label (-1) are left out.
    labels : sequence of str, optional
        Names of the classes 0, 1, …

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = confusion_matrix(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0]))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['50', '50', '', '100']
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    there = np.asarray(truth) >= 0
    display = ConfusionMatrixDisplay.from_predictions(
        np.asarray(truth)[there],
        np.asarray(predictions)[there],
        normalize="true",
        display_labels=labels,
        cmap="Blues",
        colorbar=False,
        include_values=False,
    )
    figure: Figure = display.figure_
    ax, matrix = display.ax_, display.confusion_matrix
    for (row, column), share in np.ndenumerate(matrix):
        text = f"{100 * share:.0f}" if share > 0 else ""
        colour = "white" if share > 0.5 else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true")
    figure.set_size_inches(4.2, 4.2)
    figure.set_layout_engine("constrained")
    return figure


def images(inputs: np.ndarray, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Draw images in a grid, each with a line of text, such as what was predicted for it.

    Parameters
    ----------
    inputs : numpy.ndarray, shape (N, height, width)
        Grey values.
    titles : sequence of str, length N, optional
    columns : int
        Images in a row.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> len(images(np.zeros((7, 28, 28)), columns=4).axes)
    8
    """
    if titles is not None and len(titles) != len(inputs):
        raise ValueError(f"{len(titles)} titles for {len(inputs)} images")
    rows = -(-len(inputs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns, 1.5 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, inputs, strict=False)):
        ax.imshow(image, cmap="gray_r")
        ax.set_title(titles[i] if titles is not None else "", fontsize=8)
    return figure


def boxes(axes: Sequence[Axes], *corners: np.ndarray) -> None:
    """Draw boxes over images: one set solid, the next dashed, each in its own colour.

    Parameters
    ----------
    axes : sequence of matplotlib.axes.Axes, length N or more
        Such as the ``axes`` of what :func:`images` returns.
    *corners : numpy.ndarray, shape (N, 4)
        (x1, y1, x2, y2) in pixels, counted at their edges; a row with a NaN is not drawn. The true
        boxes first, then the predicted.

    Examples
    --------
    >>> figure = images(np.zeros((2, 8, 8)), columns=2)
    >>> boxes(figure.axes, np.array([[1, 1, 5, 6], [np.nan] * 4]))
    >>> [len(ax.patches) for ax in figure.axes]
    [1, 0]
    """
    for i, rows in enumerate(corners):
        for ax, (x1, y1, x2, y2) in zip(axes, rows, strict=False):
            if not np.isnan([x1, y1, x2, y2]).any():
                corner = (x1 - 0.5, y1 - 0.5)  # imshow puts the middle of a pixel at its number
                frame = Rectangle(corner, x2 - x1, y2 - y1, fill=False)
                frame.set(edgecolor=COLOURS[i], linestyle="-" if i == 0 else "--", linewidth=1.5)
                ax.add_patch(frame)


def intervals(
    ax: Axes,
    x: Sequence[float],
    runs: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
) -> None:
    """Draw means with 95 % intervals over seeds, one line a name, on axes that are given.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x : sequence of float, length X
        Positive numbers, drawn on a logarithmic axis, such as training-set sizes.
    runs : mapping from name to array, shape (X, seeds)
    xlabel, ylabel : str

    Examples
    --------
    >>> figure, ax = plt.subplots()
    >>> intervals(ax, [100, 300], {"MTL": np.array([[0.8, 0.9], [0.9, 0.95]])},
    ...           xlabel="images", ylabel="accuracy")
    >>> ax.get_legend_handles_labels()[1]
    ['MTL']
    """
    for i, (name, values) in enumerate(runs.items()):
        means, halves = np.transpose([mean_interval(row) for row in values])
        nudged = np.asarray(x) * 1.04 ** (i - (len(runs) - 1) / 2)  # bars side by side
        ax.errorbar(nudged, means, yerr=halves, capsize=3, **_style(i), label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.legend()


def differences(ax: Axes, runs: Mapping[str, np.ndarray], *, xlabel: str) -> None:
    """Draw mean differences with 95 % intervals over seeds, one row a name, and a line at 0.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    runs : mapping from name to array, shape (seeds,)
        Paired differences, such as a method's accuracy less the baseline's; the first on top.
    xlabel : str

    Examples
    --------
    >>> figure, ax = plt.subplots()
    >>> differences(ax, {"UW": np.array([0.5, 1.5]), "DWA": np.array([-1.0, 1.0])},
    ...             xlabel="accuracy against equal weights, points")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['UW', 'DWA']
    """
    ax.axvline(0, color="grey", linewidth=1)
    for i, values in enumerate(runs.values()):
        mean, half = mean_interval(values)
        ax.errorbar(mean, i, xerr=half, capsize=3, **_style(0))
    ax.set(yticks=range(len(runs)), yticklabels=list(runs), xlabel=xlabel)
    ax.set_ylim(len(runs) - 0.5, -0.5)


def front(
    ax: Axes, runs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, xlabel: str, ylabel: str
) -> None:
    """Draw one task against another: a point a name, with 95 % intervals over seeds both ways.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    runs : mapping from name to a pair of arrays, shape (seeds,) each
        What is drawn along x and along y, such as the accuracies of two tasks.
    xlabel, ylabel : str

    Examples
    --------
    >>> figure, ax = plt.subplots()
    >>> front(ax, {"equal": (np.array([0.8, 0.9]), np.array([0.7, 0.8]))},
    ...       xlabel="digit", ylabel="angle")
    >>> ax.get_legend_handles_labels()[1]
    ['equal']
    """
    for i, (name, (x, y)) in enumerate(runs.items()):
        (x_mean, x_half), (y_mean, y_half) = mean_interval(x), mean_interval(y)
        ax.errorbar(
            x_mean,
            y_mean,
            xerr=x_half,
            yerr=y_half,
            capsize=2,
            linestyle="",
            **_style(i),
            label=name,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()


def comparison(found: Mapping[str, Any]) -> Figure:
    """Draw every gain that :func:`mtl_tutorial.comparison.compare` found, a panel a metric.

    The primary comparisons come first, as squares, with their verdicts; then every other condition
    against the baseline (in Δm: against single-task). Bars are 95 % intervals; right of the line is
    better. What has no interval is named all the same.

    Parameters
    ----------
    found : mapping
        What ``compare`` returned, or the same read back from JSON.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> gain = {"metric": "test_accuracy", "mean": 0.02, "half_width": 0.01}
    >>> pair = {"condition": "shared", "against": "alone", "verdict": "gains"}
    >>> figure = comparison({"primary": [gain | pair], "others": []})
    >>> figure.axes[0].get_title(), [row.get_text() for row in figure.axes[0].get_yticklabels()]
    ('accuracy', ['shared − alone: gains'])
    """
    entries = [*found["primary"], *found["others"]]
    metrics = list(dict.fromkeys(entry["metric"] for entry in entries))
    panels = [[entry for entry in entries if entry["metric"] == metric] for metric in metrics]
    size = (5 * len(panels), 1 + 0.3 * max(map(len, panels)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, metric, panel in zip(axes[0], metrics, panels, strict=True):
        ax.axvline(0, color="grey", linewidth=1)
        labels = []
        for i, entry in enumerate(panel):
            verdict = f": {entry['verdict']}" if "verdict" in entry else ""
            labels.append(f"{entry['condition']} − {entry['against']}{verdict}")
            if entry["half_width"] is not None:
                style = _style(1 if verdict else 0)
                ax.errorbar(entry["mean"], i, xerr=entry["half_width"], capsize=3, **style)
        title = "Δm" if metric == "delta_m" else metric.removeprefix("test_")
        ax.set(title=title, xlabel="gain", yticks=range(len(panel)), yticklabels=labels)
        ax.set_ylim(len(panel) - 0.5, -0.5)
    return figure


def arrows(ax: Axes, vectors: Mapping[str, np.ndarray]) -> None:
    """Draw vectors of a plane from the origin, each with its name at its tip.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    vectors : mapping from name to array, shape (2,)
        Names may hold maths, such as ``"$g_1$"``.

    Examples
    --------
    >>> figure, ax = plt.subplots()
    >>> arrows(ax, {"$g_1$": np.array([1.0, 0.0]), "$g_2$": np.array([-0.5, 1.0])})
    >>> len(ax.texts)
    2
    """
    ends = np.array(list(vectors.values()), dtype=float)
    low, high = np.minimum(ends.min(axis=0), 0), np.maximum(ends.max(axis=0), 0)
    margin = 0.15 * (high - low).max()
    for i, (name, end) in enumerate(zip(vectors, ends, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        ax.quiver(0, 0, *end, angles="xy", scale_units="xy", scale=1, color=colour)
        length = np.linalg.norm(end)
        tip = end + 0.5 * margin * (end / length if length > 0 else np.array([0.0, -1.0]))
        ax.text(tip[0], tip[1], name, color=colour, ha="center", va="center")
    ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    ax.set_aspect("equal")


def _style(i: int) -> dict[str, Any]:
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]  # the next six differ in marker
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker}
