"""What every weighting shares: checks, the dropping of absent tasks, and what it remembers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(eq=False)
class Weighting:
    r"""The rule that gives each task its weight in a step.

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
    weights_heads : bool
        Whether a method that needs the Gramian weights the losses all the same, heads included.
    needs_observe : bool
        Whether :meth:`observe` wants the losses of the same batch after the step.
    claims : frozenset of str
        What the method promises, each one tested on many Jacobians :math:`J` with rows :math:`g_k`,
        combined gradient :math:`d = \sum_k w_k g_k`:

        - ``"non-negative"``: no weight is below 0;
        - ``"permutation-equivariant"``: tasks in another order, the same :math:`d`;
        - ``"homogeneous"``: all losses and gradients times one positive number, the same weights;
        - ``"scale-invariant"``: each task's loss times a positive number of its own, the same
          direction of :math:`d`;
        - ``"linear-under-scaling"``: the gradients times :math:`c_k \ge 0` give a :math:`d` that is
          linear in :math:`c`;
        - ``"non-conflicting"``: :math:`g_k \cdot d \ge 0` for every task, to first order no loss
          rises; to the square root of the Gramian's rounding, at worst.
    remembers : tuple of str
        The attributes that change from step to step, saved by :meth:`state_dict`: arrays, with the
        task last in their shape, and random generators.
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
    weights_heads: ClassVar[bool] = False
    needs_observe: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[tuple[str, ...]] = ()
    present: ClassVar[slice | np.ndarray] = slice(None)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Weights of the present tasks.

        Parameters
        ----------
        losses : numpy.ndarray, shape (T,)
        gramian : numpy.ndarray, shape (T, T), or None
            None unless ``needs_gramian``. Its floating type, that of the gradients, tells how exact
            its entries are.

        Returns
        -------
        numpy.ndarray, shape (T,)
        """
        raise NotImplementedError(f"{type(self).__name__} defines no weights(losses, gramian)")

    def __call__(
        self,
        losses: Sequence[float] | np.ndarray,
        gramian: Sequence[Sequence[float]] | np.ndarray | None = None,
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
            self._no_task()
            return result
        if self.needs_losses:
            _check_finite("loss", losses, here, names)
        products = None
        if self.needs_gramian:
            if gramian is None:
                raise ValueError(f"{type(self).__name__} needs the Gramian; none was given")
            products = np.asarray(gramian)
            if not np.issubdtype(products.dtype, np.floating):
                products = products.astype(float)
            if products.shape != (len(losses), len(losses)):
                raise ValueError(
                    f"the Gramian has shape {products.shape}, but there are {len(losses)} losses"
                )
            _check_finite("squared gradient norm", np.diagonal(products), here, names)
            products = products[np.ix_(here, here)]
            if not np.isfinite(products).all():
                raise ValueError("the Gramian holds a NaN or an infinity off its diagonal")
        self.present = here  # type: ignore[misc]  # a ClassVar only so as not to be a field
        try:
            result[here] = self.weights(losses[here], products)
        finally:
            del self.present
        return result

    def observe(self, losses: Sequence[float] | np.ndarray) -> None:
        """Look at the losses of the same batch after the step; most methods do not.

        A loop of your own calls it after each step if ``needs_observe``.

        Parameters
        ----------
        losses : array, shape (T,)
            What stands at the place of a task that was absent in the step is ignored.
        """

    def end_epoch(self) -> None:
        """Close an epoch; most methods do not count them.

        A loop of your own calls it after each pass over the data: :class:`DWA` learns from it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Give what the method remembers, as plain data that JSON can hold.

        Returns
        -------
        dict
            Empty for a method without memory.
        """
        return {name: _plain(getattr(self, name)) for name in self.remembers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, exactly as the saved object would have.

        Parameters
        ----------
        state : mapping

        Raises
        ------
        ValueError
            The state is another method's.
        """
        if set(state) != set(self.remembers):
            raise ValueError(
                f"{type(self).__name__} remembers {list(self.remembers)}, "
                f"but the state holds {list(state)}"
            )
        for name, value in state.items():
            now = getattr(self, name)
            if isinstance(now, np.random.Generator):
                now.bit_generator.state = dict(value)
            else:
                setattr(self, name, np.array(value, dtype=now.dtype))

    def _no_task(self) -> None:
        """Learn that no task was present in a step, so :meth:`weights` was not asked."""

    def _count(self, losses: np.ndarray) -> int:
        """Count all tasks, the absent ones included, inside :meth:`weights`."""
        return len(self.present) if isinstance(self.present, np.ndarray) else len(losses)

    def _remember(self, losses: np.ndarray, **start: float) -> None:
        """Give each named array one place a task in the first step; check the number later on."""
        for name, value in start.items():
            now = getattr(self, name)
            if now.shape[-1] == 0:
                setattr(self, name, np.full((*now.shape[:-1], self._count(losses)), value, float))
            elif now.shape[-1] != self._count(losses):
                raise ValueError(
                    f"{type(self).__name__} remembers {now.shape[-1]} tasks, "
                    f"but there are {self._count(losses)}"
                )

    def _refuse(self, bad: np.ndarray, losses: np.ndarray, why: str) -> None:
        """Name the first present task that the method cannot weight."""
        for place in np.flatnonzero(bad).tolist():
            number = int(np.arange(self._count(losses))[self.present][place])
            raise ValueError(f"the loss of task {number} is {losses[place]}: {why}")


def _plain(value: np.ndarray | np.random.Generator) -> Any:
    """Turn an array or a random generator into numbers, lists and dicts."""
    if isinstance(value, np.random.Generator):
        return dict(value.bit_generator.state)
    return value.tolist()


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
