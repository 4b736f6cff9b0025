"""Figures the chapters share. They read in light and dark pages, and without telling red from green.

Lines differ by marker as well as by colour: a dark page swaps light and dark shades, and one reader
in twelve sees fewer hues. The colours are those of Okabe and Ito (2008).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from mtl_tutorial.metrics import mean_interval
from mtl_tutorial.weighting.recorded import Step, cosines, gramians

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


def sharing_diagram(blocks: Mapping[str, tuple[int, Sequence[str]]]) -> Figure:
    """Draw which tasks share which blocks of a model: a row a block, a column and a colour a task.

    A bar runs through the tasks that a block serves, with the marker of each; beside it stands how
    many parameters the block has. :func:`sharing_text` says the same in words.

    Parameters
    ----------
    blocks : mapping from name to (int, sequence of str)
        The number of parameters and the tasks of each block, as ``task_blocks`` of either framework
        finds them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        There is no block, or none serves a task.

    Examples
    --------
    >>> figure = sharing_diagram({"trunk": (25120, ("digit", "gt5")), "heads.gt5": (33, ("gt5",))})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['trunk', 'heads.gt5']
    """
    tasks = _tasks(blocks)
    size = (3.2 + 0.9 * len(tasks), 1.0 + 0.36 * len(blocks))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    for row, (parameters, served) in enumerate(blocks.values()):
        places = [column for column, task in enumerate(tasks) if task in served]
        if places:  # behind the cells, between tasks that do not stand side by side
            ax.plot([places[0], places[-1]], [row, row], color="grey", linewidth=2, zorder=0)
        for column in places:
            left, right = (0 if column + step in places else 0.06 for step in (-1, 1))
            corner, width = (column - 0.5 + left, row - 0.36), 1 - left - right
            style = _style(column)
            ax.add_patch(Rectangle(corner, width, 0.72, facecolor=style["color"], linewidth=0))
            ax.plot(column, row, marker=style["marker"], color="white", markersize=5)
        text = f"{parameters:,}" + ("" if places else ", no task")
        ax.text(len(tasks) - 0.35, row, text, va="center", ha="left")
    ax.text(len(tasks) - 0.35, -0.62, "parameters", va="bottom", ha="left", color="0.35")
    ax.set(xticks=range(len(tasks)), xticklabels=tasks)
    ax.set(yticks=range(len(blocks)), yticklabels=list(blocks))
    ax.set(xlim=(-0.55, len(tasks) - 0.45), ylim=(len(blocks) - 0.5, -0.6))
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return figure


def sharing_text(blocks: Mapping[str, tuple[int, Sequence[str]]]) -> str:
    """Say in words what :func:`sharing_diagram` draws, for its alternative text.

    Parameters
    ----------
    blocks : mapping from name to (int, sequence of str)

    Returns
    -------
    str

    Raises
    ------
    ValueError
        There is no block, or none serves a task.

    Examples
    --------
    >>> print(sharing_text({"trunk": (9, ("a", "b", "c")), "heads.a": (1, ("a",)), "spare": (1, ())}))
    3 tasks (a, b, c), 11 parameters in 3 blocks, 9 of them shared.
    trunk: 9 parameters, shared by a, b and c. heads.a: 1 parameter, a alone.
    spare: 1 parameter, no task.
    """
    tasks = _tasks(blocks)
    total = sum(parameters for parameters, _ in blocks.values())
    shared = sum(parameters for parameters, served in blocks.values() if len(served) > 1)
    numbers = f"{_counted(total, 'parameter')} in {_counted(len(blocks), 'block')}"
    first = f"{_counted(len(tasks), 'task')} ({', '.join(tasks)}), {numbers}, {shared:,} of them shared."
    lines = [first]
    for name, (parameters, served) in blocks.items():
        *most, last = served or ["no task"]
        who = f"shared by {', '.join(most)} and {last}" if most else last
        alone = " alone" if len(served) == 1 and len(tasks) > 1 else ""
        lines.append(f"{name}: {_counted(parameters, 'parameter')}, {who}{alone}.")
    return " ".join(lines)


def dependency_graph(affinity: np.ndarray, names: Sequence[str], *, least: float = 0.0) -> Figure:
    """Draw tasks on a circle, and an arrow from each task to those that it changes.

    An arrow from i to j stands for ``affinity[i, j]``, the wider the larger: solid where it is above
    0, dashed, in another colour, where it is below. :func:`dependency_text` says the same in words.

    Parameters
    ----------
    affinity : numpy.ndarray, shape (T, T)
        What task j gets from task i: a gain, a cosine, any measure of
        :mod:`mtl_tutorial.relatedness`. The diagonal is not read, NaN is not drawn.
    names : sequence of str, length T
    least : float
        Arrows of a smaller size are left out.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The shape is not (T, T), there are more or fewer names, or ``least`` is below 0.

    Examples
    --------
    >>> figure = dependency_graph(np.array([[0, 2.0], [-0.1, 0]]), ["digit", "ink"], least=0.5)
    >>> [text.get_text() for text in figure.axes[0].texts], len(figure.axes[0].patches)
    (['digit', 'ink'], 1)
    """
    arrows = _dependencies(affinity, names, least)
    largest = max((abs(value) for *_, value in arrows), default=1.0)
    turns = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    places = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for i, j, value in arrows:
        away = places[j] - places[i]
        away = 0.18 * away / np.linalg.norm(away)
        ax.add_patch(
            FancyArrowPatch(
                tuple(places[i] + away),
                tuple(places[j] - away),
                connectionstyle="arc3,rad=0.12",  # there and back do not cover each other
                arrowstyle="-|>",
                mutation_scale=12,
                linewidth=0.5 + 2.5 * abs(value) / largest,
                linestyle="-" if value > 0 else "--",
                color=COLOURS[0 if value > 0 else 1],
            )
        )
    for (x, y), name in zip(places, names, strict=True):
        ax.text(x, y, name, ha="center", va="center")
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.2, 1.2), aspect="equal")
    ax.axis("off")
    return figure


def dependency_text(affinity: np.ndarray, names: Sequence[str], *, least: float = 0.0) -> str:
    """Say in words what :func:`dependency_graph` draws, for its alternative text.

    Parameters
    ----------
    affinity, names, least
        As for :func:`dependency_graph`.

    Returns
    -------
    str

    Examples
    --------
    >>> dependency_text(np.array([[0, 2.0], [-0.1, 0]]), ["digit", "ink"], least=0.05)
    '2 tasks. Arrows from digit to ink (+2), from ink to digit (-0.1).'
    """
    arrows = _dependencies(affinity, names, least)
    told = [f"from {names[i]} to {names[j]} ({value:+.2g})" for i, j, value in arrows]
    return f"{_counted(len(names), 'task')}. " + (
        f"Arrows {', '.join(told)}." if told else "No arrows."
    )


def weights_over_time(steps: Sequence[Step], names: Sequence[str]) -> Figure:
    """Draw the weight of each task against the step, means of some steps where there are many.

    Parameters
    ----------
    steps : sequence of dict
        What :class:`~mtl_tutorial.weighting.Recorded` kept. A step counts for the tasks present.
    names : sequence of str, length T
        The tasks, in the weighting's order.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        Nothing is recorded, or there are more or fewer names than tasks.

    Examples
    --------
    >>> from mtl_tutorial.weighting import UW, Recorded
    >>> weighting = Recorded(UW(lr=0.2))
    >>> for _ in range(5):
    ...     _ = weighting([0.5, 4.0])
    >>> figure = weights_over_time(weighting.steps, ["digit", "gt5"])
    >>> figure.axes[0].get_legend_handles_labels()[1]
    ['digit', 'gt5']
    """
    if not steps:
        raise ValueError("nothing is recorded: there is no step")
    weights = np.array([np.where(step["present"], step["weights"], np.nan) for step in steps])
    figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    _over_steps(ax, dict(zip(_named(names, weights.shape[1]), weights.T, strict=True)))
    ax.set_ylabel("weight")
    return figure


def gradients_over_time(steps: Sequence[Step], names: Sequence[str], pairs: int = 6) -> Figure:
    """Draw what the Gramians say of a training: lengths, cosines, and how many pairs conflict.

    Three panels against the step, means of some steps where there are many: the length of each
    task's gradient; the cosine of two tasks' gradients, for the pairs that agree least; the share
    of all pairs that conflict.

    Parameters
    ----------
    steps : sequence of dict
        What :class:`~mtl_tutorial.weighting.Recorded` kept of a weighting that has a Gramian. A
        step counts for the tasks present.
    names : sequence of str, length T
        The tasks, in the weighting's order; at least two.
    pairs : int
        How many pairs to draw, those with the lowest mean cosines.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        No Gramian is recorded, there are more or fewer names than tasks, or only one task.

    Examples
    --------
    >>> from mtl_tutorial.weighting import PCGrad, Recorded
    >>> weighting = Recorded(PCGrad())
    >>> _ = weighting([0, 0], [[1.0, -0.5], [-0.5, 4.0]])
    >>> figure = gradients_over_time(weighting.steps, ["digit", "gt5"])
    >>> figure.axes[1].lines[1].get_ydata().tolist()
    [-0.25]
    """
    products = gramians(steps)
    names = _named(names, products.shape[1])
    if len(names) < 2:
        raise ValueError("with one task no gradient meets another")
    angles = np.array([cosines(gramian) for gramian in products])
    lengths = np.sqrt(np.maximum(np.diagonal(products, axis1=1, axis2=2), 0))
    between = {
        f"{names[k]}, {names[l]}": angles[:, k, l] for k, l in combinations(range(len(names)), 2)
    }
    least = sorted(between, key=lambda pair: np.nan_to_num(_mean(between[pair]), nan=2))[:pairs]
    met = np.stack([*between.values()], axis=1)
    conflicts = np.where(np.isnan(met), np.nan, met < 0)

    figure = plt.figure(figsize=(11, 3.8), layout="constrained")
    parts: Any = figure.subfigures(1, 3)  # each with a legend below
    axes = [part.subplots() for part in parts]
    _over_steps(axes[0], dict(zip(names, lengths.T, strict=True)))
    axes[0].set(title="length of the gradient")
    positive = lengths[lengths > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        axes[0].set_yscale("log")
    axes[1].axhline(0, color="grey", linewidth=1)
    _over_steps(axes[1], {pair: between[pair] for pair in between if pair in least})
    some = f", {len(least)} lowest of {len(between)}" if len(least) < len(between) else ""
    axes[1].set(title=f"cosine of two gradients{some}", ylim=(-1.05, 1.05))
    _over_steps(axes[2], {"": np.array([_mean(row) for row in conflicts])})
    axes[2].set(title="share of pairs in conflict", ylim=(-0.05, 1.05))
    return figure


def _over_steps(ax: Axes, lines: Mapping[str, np.ndarray]) -> None:
    """Draw each line against the step; of more than 50 steps, at most 50 means of so many each."""
    steps = len(next(iter(lines.values())))
    window = -(-steps // 50)
    starts = range(0, steps, window)
    ends = [min(start + window, steps) for start in starts]
    every = max(1, len(ends) // 8)
    for i, (label, values) in enumerate(lines.items()):
        means = [_mean(values[start:end]) for start, end in zip(starts, ends, strict=True)]
        first = i * every // len(lines)  # the markers of two lines stand side by side
        ax.plot(ends, means, **_style(i), label=label, markevery=(first, every), markersize=5)
    ax.set_xlabel("step" if window == 1 else f"step (a point: the mean of {window} steps)")
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    if len(lines) > 1:
        ax.figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)


def _mean(values: np.ndarray) -> float:
    """Give the mean of what is not NaN; NaN if there is nothing."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else np.nan


def _named(names: Sequence[str], tasks: int) -> Sequence[str]:
    if len(names) != tasks:
        raise ValueError(f"{len(names)} names for {tasks} tasks: {list(names)}")
    return names


def _dependencies(
    affinity: np.ndarray, names: Sequence[str], least: float
) -> list[tuple[int, int, float]]:
    """List from which task to which, and how much, the largest first."""
    affinity = np.asarray(affinity, float)
    if affinity.shape != (len(names), len(names)) or not names:
        raise ValueError(f"affinity has shape {affinity.shape} for {len(names)} names")
    if not least >= 0:
        raise ValueError(f"least is the smallest size drawn, at least 0; got {least}")
    found = [
        (i, j, float(affinity[i, j]))
        for i, j in np.ndindex(affinity.shape)
        if i != j and abs(affinity[i, j]) >= least and affinity[i, j] != 0
    ]
    return sorted(found, key=lambda arrow: -abs(arrow[2]))


def _tasks(blocks: Mapping[str, tuple[int, Sequence[str]]]) -> list[str]:
    """List the tasks in their order, which the block that serves most of them tells first."""
    widest = sorted((served for _, served in blocks.values()), key=len, reverse=True)
    tasks = list(dict.fromkeys(task for served in widest for task in served))
    if not tasks:
        raise ValueError(f"no block serves a task; the blocks are {list(blocks)}")
    return tasks


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def _style(i: int) -> dict[str, Any]:
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]  # the next six differ in marker
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker}
