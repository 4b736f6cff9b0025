"""What every weighting shares: checks, and the dropping of absent tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(eq=False)
class Weighting:
    """The rule that gives each task its weight in a step.

    A method is a subclass with one method, :meth:`weights`; what it can be set to are the fields of
    a dataclass, so that it shows and saves itself. The frameworks call the object itself, which
    checks the input and leaves out absent tasks, so that no method has to.

    Attributes
    ----------
    needs_losses : bool
        Whether the values of the losses are read. Where they are not, a step on a GPU needs no
        synchronisation, and the losses passed in are zeros.
    needs_gramian : bool
        Whether the Gramian of the task gradients is needed. Such a method weights the gradients on
        the shared parameters only; the others weight the losses, heads included.
    present : numpy.ndarray of bool, shape (T,), or slice
        The tasks this step is about, set while :meth:`weights` runs: a method that keeps one number
        a task picks its own with ``self.values[self.present]``. All tasks if ``weights`` is called
        directly.

    Examples
    --------
    A rule of your own is one class:

    >>> class Loudest(Weighting):
    ...     def weights(self, losses, gramian):
    ...         return (losses == losses.max()).astype(float)
    >>> Loudest()([0.2, 0.7])
    array([0., 1.])
    """

    needs_losses: ClassVar[bool] = True
    needs_gramian: ClassVar[bool] = False
    present: ClassVar[slice | np.ndarray] = slice(None)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Weights of the present tasks.

        Parameters
        ----------
        losses : numpy.ndarray, shape (T,)
        gramian : numpy.ndarray, shape (T, T), or None
            None unless ``needs_gramian``.

        Returns
        -------
        numpy.ndarray, shape (T,)
        """
        raise NotImplementedError(f"{type(self).__name__} defines no weights(losses, gramian)")

    def __call__(
        self,
        losses: Sequence[float] | np.ndarray,
        gramian: np.ndarray | None = None,
        present: Sequence[bool] | np.ndarray | None = None,
        names: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Check the input, ask :meth:`weights` for the present tasks, give the absent ones 0.

        Parameters
        ----------
        losses : array, shape (T,)
        gramian : array, shape (T, T), optional
        present : sequence of bool, length T, optional
            Which tasks have a label in this batch; all of them if not given. What stands in the
            rows of an absent task is ignored.
        names : sequence of str, length T, optional
            Task names, for the messages.

        Returns
        -------
        numpy.ndarray, shape (T,)

        Raises
        ------
        ValueError
            A present task's loss or row of the Gramian is NaN or infinite, or a shape is wrong.
        """
        losses = np.asarray(losses, dtype=float)
        here = np.ones(len(losses), bool) if present is None else np.asarray(present, dtype=bool)
        if here.shape != losses.shape:
            raise ValueError(f"present has shape {here.shape}, but there are {len(losses)} losses")
        result = np.zeros(len(losses))
        if not here.any():
            return result
        if self.needs_losses:
            _check_finite("loss", losses, here, names)
        if self.needs_gramian:
            if gramian is None:
                raise ValueError(f"{type(self).__name__} needs the Gramian; none was given")
            gramian = np.asarray(gramian, dtype=float)
            if gramian.shape != (len(losses), len(losses)):
                raise ValueError(
                    f"the Gramian has shape {gramian.shape}, but there are {len(losses)} losses"
                )
            _check_finite("squared gradient norm", np.diagonal(gramian), here, names)
            gramian = gramian[np.ix_(here, here)]
            if not np.isfinite(gramian).all():
                raise ValueError("the Gramian holds a NaN or an infinity off its diagonal")
        self.present = here  # type: ignore[misc]  # a ClassVar only so as not to be a field
        try:
            result[here] = self.weights(losses[here], gramian)
        finally:
            del self.present
        return result


def _check_finite(
    what: str, values: np.ndarray, present: np.ndarray, names: Sequence[str] | None
) -> None:
    """Name the first present task whose value is NaN or infinite."""
    for number in np.flatnonzero(present & ~np.isfinite(values)).tolist():
        name = f" ({names[number]!r})" if names is not None else ""
        raise ValueError(
            f"the {what} of task {number}{name} is {values[number]}: no weights can be given. "
            "Look for a division by zero, a learning rate that is too high, or bad targets."
        )
