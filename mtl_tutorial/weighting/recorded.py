"""Look over a weighting's shoulder: what it was given and what it answered, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import norms_and_cosines

Step = dict[str, np.ndarray]


@dataclass(eq=False)
class Recorded(Weighting):
    """Another weighting, unchanged, that keeps what it was given and answered in each step.

    It answers as the other would, remembers what the other remembers, and asks for nothing besides:
    a method that reads no losses has none recorded, one without Gramian has none, and nothing more
    is fetched from a GPU. So it stands wherever a weighting does, in both frameworks. A step that asks
    no weighting, because mixed precision skips it, is not recorded. Keras saves the other weighting,
    without the record.

    A step takes about T² numbers: 10,000 steps of 10 tasks are some 10 MB.

    Parameters
    ----------
    inner : Weighting
    steps : list, optional
        Where to add the steps; a new list if not given. A step is a dict of arrays: ``"present"``,
        bool, and ``"weights"``, shape (T,); ``"losses"``, shape (T,), if ``inner`` reads them;
        ``"gramian"``, shape (T, T), if it has one. Losses and Gramian of an absent task are NaN.

    Raises
    ------
    TypeError
        ``inner`` is no weighting.

    Examples
    --------
    >>> from mtl_tutorial.weighting import PCGrad
    >>> weighting = Recorded(PCGrad())
    >>> weighting([0, 0], [[1.0, -0.5], [-0.5, 1.0]])
    array([1.5, 1.5])
    >>> [sorted(step) for step in weighting.steps]
    [['gramian', 'present', 'weights']]
    """

    inner: Weighting
    steps: list[Step] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Weighting):
            raise TypeError(f"inner is a weighting such as UPGrad(); got {self.inner!r}")
        for name in ("needs_losses", "needs_gramian", "weights_heads", "needs_observe", "claims"):
            setattr(self, name, getattr(self.inner, name))  # of this object, not of its class

    def __call__(
        self,
        losses: Sequence[float] | np.ndarray,
        gramian: Sequence[Sequence[float]] | np.ndarray | None = None,
        present: Sequence[bool] | np.ndarray | None = None,
        names: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Ask ``inner``, and keep the step."""
        weights = self.inner(losses, gramian, present, names)
        here = np.ones(len(weights), bool) if present is None else np.array(present, bool)
        step = {"present": here, "weights": weights.copy()}
        if self.needs_losses:
            step["losses"] = np.where(here, np.asarray(losses, float), np.nan)
        if self.needs_gramian and gramian is not None:
            step["gramian"] = np.where(np.outer(here, here), gramian, np.nan)
        self.steps.append(step)
        return weights

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give what ``inner`` would, unrecorded."""
        return self.inner.weights(losses, gramian)

    def observe(self, losses: Sequence[float] | np.ndarray) -> None:
        """Let ``inner`` look at the losses after the step."""
        self.inner.observe(losses)

    def end_epoch(self) -> None:
        """Let ``inner`` close an epoch."""
        self.inner.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Give what ``inner`` remembers; the record is not part of it."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let ``inner`` go on from a state of its own."""
        self.inner.load_state_dict(state)


def bare(weighting: Weighting) -> Weighting:
    """Give a weighting without what records it."""
    while isinstance(weighting, Recorded):
        weighting = weighting.inner
    return weighting


def cosines(gramian: np.ndarray) -> np.ndarray:
    r"""Cosines of the angles between the task gradients, from their Gramian.

    .. math:: C_{kl} = \frac{g_k \cdot g_l}{\|g_k\| \, \|g_l\|}

    where :math:`g_k` is the gradient of task :math:`k`; below 0, two tasks conflict.

    Parameters
    ----------
    gramian : numpy.ndarray, shape (T, T)
        Rows of absent tasks are NaN.

    Returns
    -------
    numpy.ndarray, shape (T, T)
        Within [-1, 1]; 0 beside a gradient of length 0, NaN beside an absent task.

    Examples
    --------
    >>> cosines(np.array([[4.0, -3.0], [-3.0, 9.0]])).tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
    """
    return np.where(np.isnan(gramian), np.nan, np.clip(norms_and_cosines(gramian)[1], -1, 1))


def conflict_shares(steps: Sequence[Step]) -> np.ndarray:
    """In how many of the recorded steps two tasks conflict, of those in which both are present.

    Parameters
    ----------
    steps : sequence of dict
        What :class:`Recorded` kept of a weighting that has a Gramian.

    Returns
    -------
    numpy.ndarray, shape (T, T)
        Shares in [0, 1]; NaN for two tasks that never met.

    Raises
    ------
    ValueError
        There is no step, or none has a Gramian.

    Examples
    --------
    >>> apart, along = np.array([[1.0, -0.5], [-0.5, 1.0]]), np.ones((2, 2))
    >>> conflict_shares([{"gramian": apart}, {"gramian": along}]).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    products = gramians(steps)
    met = (~np.isnan(products)).sum(axis=0)
    return np.where(met > 0, (products < 0).sum(axis=0) / np.maximum(met, 1), np.nan)


def gramians(steps: Sequence[Step]) -> np.ndarray:
    """Stack the recorded Gramians, shape (steps, T, T); refuse a record that has none."""
    found = [step["gramian"] for step in steps if "gramian" in step]
    if not found:
        raise ValueError(
            "no step with a Gramian was recorded: "
            + ("the weighting reads none, as UPGrad() does" if steps else "there is no step")
        )
    return np.stack(found)
