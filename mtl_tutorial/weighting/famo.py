"""FAMO: bring every loss down at the same rate, from the losses alone."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtl_tutorial.weighting._adam import adam_step
from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class FAMO(Weighting):
    r"""Bring the logarithm of every loss down at the same rate, without any task gradient.

    .. math:: w_k = c \, \frac{z_k}{L_k - b_k + \epsilon}, \qquad z = \mathrm{softmax}(\xi), \qquad
       c = \Big( \sum_k \frac{z_k}{L_k - b_k + \epsilon} \Big)^{-1}

    and, after the step on the model, with the losses :math:`L'` of the same batch,

    .. math:: \xi \leftarrow \xi - \eta \, \mathrm{Adam} \big(
       (\mathrm{diag}(z) - z z^\top) \, \delta + \gamma \xi \big), \qquad
       \delta_k = \log (L_k - b_k + \epsilon) - \log (L'_k - b_k + \epsilon)

    where :math:`L_k` is the loss of task :math:`k`, :math:`b_k` a lower bound of it, :math:`\xi` the
    logits, which start at 0, and :math:`\epsilon = 10^{-8}` (Liu et al., 2023). A task whose loss
    fell less than the others' gains weight. In a loop of your own call :meth:`observe` after each
    step of the optimiser, with the losses of the *same* batch, dropout and batch normalisation at
    rest (``fit`` does, in both frameworks); if it is not called, the logits stay, and the second
    step says so.

    The weights sum to 1: the step has the size of the mean.

    Defaults as in TorchJD: :math:`\gamma = 10^{-3}` is the paper's Algorithm 2. The official code
    has :math:`10^{-2}` in its main file, :math:`10^{-5}` in its comparison of methods, whose scripts
    set :math:`10^{-2}` and :math:`10^{-3}`; it also cuts the gradient of the trunk to length 1.
    Where a task is absent, softmax and Adam run over the others.

    Parameters
    ----------
    lr : float
        :math:`\eta`, the learning rate of the logits.
    gamma : float
        :math:`\gamma`, the decay of the logits.
    min_losses : sequence of float, length T, optional
        Lower bounds :math:`b`; 0 if not given.

    Raises
    ------
    ValueError
        ``lr`` or ``gamma`` is negative, a loss is below its bound, or :meth:`observe` is called
        twice in a row or with a loss that is NaN or infinite.

    Warns
    -----
    UserWarning
        Once: weights are asked for again, and :meth:`observe` was not called after the last ones.

    Examples
    --------
    >>> weighting = FAMO(lr=0.1)
    >>> weighting([1.0, 1.0])
    array([0.5, 0.5])
    >>> weighting.observe([0.5, 0.9])
    >>> weighting([0.5, 0.9]).round(3)
    array([0.596, 0.404])
    """

    lr: float = 0.025
    gamma: float = 1e-3
    min_losses: Sequence[float] | np.ndarray | None = None
    needs_observe: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous", "scale-invariant"}
    )
    remembers: ClassVar[tuple[str, ...]] = ("logits", "before", "moments", "steps")

    def __post_init__(self) -> None:
        if not (0 <= self.lr < np.inf and 0 <= self.gamma < np.inf):
            raise ValueError(f"lr and gamma must be at least 0; got {self.lr} and {self.gamma}")
        self.logits, self.before, self.steps = np.zeros(0), np.zeros(0), np.zeros(0)
        self.moments = np.zeros((2, 0))
        self.unobserved, self.idle, self.warned = False, False, False

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give weights of sum 1, shape (T,), and keep the losses for :meth:`observe`."""
        self._remember(losses, logits=0, before=np.nan, moments=0, steps=0)
        above = losses - self._bounds()[self.present]
        self._refuse(above < 0, losses, "FAMO takes no loss below its bound in min_losses")
        if self.unobserved and not self.warned:
            self.warned = True
            warnings.warn(
                "FAMO learns nothing: after the last step observe(losses) was not called. Call it "
                "after each step of the optimiser, with the losses of the same batch",
                stacklevel=3,
            )
        self.unobserved, self.idle = True, False
        self.before[:] = np.nan  # an absent task's, too
        self.before[self.present] = above
        raw = _softmax(self.logits[self.present]) / (above + 1e-8)
        return np.asarray(raw / raw.sum())

    def observe(self, losses: Sequence[float] | np.ndarray) -> None:
        """Take a step on the logits, from the losses of the same batch after the step."""
        if self.idle:
            self.idle = False
            return
        here = ~np.isnan(self.before)
        if not here.any():
            raise ValueError("observe() comes after a step: ask for the weights first")
        above = np.asarray(losses, dtype=float)[here] - self._bounds()[here]
        if not (above >= 0).all() or np.isinf(above).any():
            raise ValueError(f"FAMO needs finite losses, none below its bound; got {losses}")
        fall = np.log(self.before[here] + 1e-8) - np.log(above + 1e-8)
        shares = _softmax(self.logits[here])
        gradient = shares * (fall - shares @ fall) + self.gamma * self.logits[here]
        self.logits[here] -= self.lr * adam_step(self.moments, self.steps, here, gradient)
        self.before[:] = np.nan
        self.unobserved = False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what this object did not observe before plays no part."""
        super().load_state_dict(state)
        self.unobserved = False

    def _no_task(self) -> None:
        """Let :meth:`observe` do nothing after this step."""
        self.before[:] = np.nan
        self.idle = True

    def _bounds(self) -> np.ndarray:
        tasks = len(self.logits)
        bounds = np.zeros(tasks) if self.min_losses is None else np.asarray(self.min_losses, float)
        if bounds.shape != (tasks,):
            raise ValueError(f"min_losses has shape {bounds.shape}, but there are {tasks} losses")
        return bounds


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum())
