"""Shared and private features: an encoder for all, one for each task, kept apart by an adversary."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, joined, made


class SharedPrivate(Architecture):
    r"""A shared encoder and a private one for each task; a head reads both (Liu et al., 2017).

    .. math:: \hat y_k = h_k([\,s(x),\; p_k(x)\,]), \qquad
       L = \sum_k L_k + \mathrm{CE}\bigl(D(R_\lambda(s)), d\bigr)
       + \gamma \sum_k \lVert S^\top P_k / N \rVert_F^2

    The discriminator :math:`D` guesses from the shared features which task :math:`d` a row belongs
    to; the reversal :math:`R_\lambda` leaves its input as it is and turns the gradient into
    :math:`-\lambda` times itself (Ganin & Lempitsky, 2015), so the shared encoder learns to leave no
    trace of the task. The penalty wants shared and private features of the N rows, :math:`S` and
    :math:`P_k`, to have nothing in common (Bousmalis et al., 2016); here for all rows of the batch,
    and divided by :math:`N`, so that it does not grow with the batch.

    Parameters
    ----------
    encoder : callable without arguments to torch.nn.Module
        Builds an encoder, from inputs to features; called once more than there are heads.
    heads : mapping from task name to torch.nn.Module
        From the joined features, twice as many channels, to the task's outputs.
    discriminator : torch.nn.Module, optional
        From shared features to one number for each task, in the order of the heads, shape (N, T). It
        needs rows that have a label of one task only, as :func:`~mtl_tutorial.datasets.concatenate`
        makes them of several data sets; others say nothing of where they come from, and are left out.
    reversal, orthogonality : float
        :math:`\lambda` and :math:`\gamma`. With :math:`\lambda = 0` the discriminator is a probe: it
        learns what it can read, and changes nothing.
    bottom : torch.nn.Module, optional
        Shared layers below all encoders: word vectors, for example.
    axis : int
        That of the channels: 1 for rows and images, -1 for sequences of shape (N, L, F).

    Raises
    ------
    TypeError, ValueError
        There is no head, or a discriminator with one task only; a strength is negative; ``encoder``
        builds no new layers. In ``extra_loss``: all rows have labels of all tasks, so that there is
        nothing to discriminate; or the discriminator does not give one number a task.

    Notes
    -----
    The shared parameters are those of the bottom and the shared encoder. All heads read the shared
    features, so their Gramian is not diagonal; private ones add to its diagonal alone.
    ``extra_loss``, both terms, goes through unweighted. A label is missing where an integer is -1 or
    a float NaN.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary
    >>> heads = linear_heads([Binary("books"), Binary("films")], features=2 * 8)
    >>> model = SharedPrivate(lambda: mlp(20, 8), heads, nn.Linear(8, 2))
    >>> features = model.encode(torch.ones(4, 20))
    >>> sorted(features), sorted(features["private"])
    (['private', 'shared'], ['books', 'films'])
    >>> targets = {"books": torch.tensor([1, 0, -1, -1]), "films": torch.tensor([-1, -1, 1, 1])}
    >>> model.extra_loss(features, targets).shape
    torch.Size([])
    """

    def __init__(
        self,
        encoder: Builder,
        heads: Mapping[str, nn.Module],
        discriminator: nn.Module | None = None,
        *,
        reversal: float = 0.1,
        orthogonality: float = 0.01,
        bottom: nn.Module | None = None,
        axis: int = 1,
    ) -> None:
        super().__init__()
        if reversal < 0 or orthogonality < 0:
            raise ValueError(
                f"reversal and orthogonality are at least 0; got {reversal} and {orthogonality}"
            )
        if discriminator is not None and len(heads) < 2:
            raise ValueError(f"a discriminator needs two tasks to tell apart; got {list(heads)}")
        self.bottom, self.heads = bottom or nn.Identity(), checked(heads)
        self.shared, *private = made("encoder", encoder, 1 + len(heads))
        self.private = nn.ModuleDict(dict(zip(heads, private, strict=True)))
        self.discriminator = discriminator
        self.reversal, self.orthogonality, self.axis = reversal, orthogonality, axis

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Give the features: ``"shared"``, and ``"private"`` by task name."""
        z = self.bottom(inputs)
        private = {name: encoder(z) for name, encoder in self.private.items()}
        return {"shared": self.shared(z), "private": private}

    def decode(
        self, features: Mapping[str, Any], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Give the outputs of the tasks named, of all if none is; the other heads do not run."""
        names = self.heads if tasks is None else tasks
        outputs = {}
        for name in names:
            private = features["private"][name]
            both = {"the shared encoder": features["shared"], f"that of {name!r}": private}
            outputs[name] = self.heads[name](joined(both, self.axis))
        return outputs

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of the bottom and of the shared encoder."""
        return chain(self.bottom.parameters(), self.shared.parameters())

    def extra_loss(self, features: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        """Give the penalty and the adversary's loss, which go through unweighted."""
        precision = next(self.shared.parameters()).dtype  # also where features have less of it
        shared = features["shared"].to(precision)
        flat = shared.flatten(1)
        total: Tensor = shared.new_zeros(())
        for private in features["private"].values():
            product = flat.T @ private.to(precision).flatten(1) / len(flat)
            total = total + product.square().sum()
        total = self.orthogonality * total
        if self.discriminator is not None:
            total = total + self._adversary(shared, targets)
        return total

    def _adversary(self, shared: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Give the discriminator's cross-entropy, the mean over rows with a label of one task."""
        assert self.discriminator is not None
        rows = [labelled_rows(targets[name]) for name in self.heads]
        there = torch.stack(rows, dim=1)
        if there.all():
            raise ValueError(
                "every row has a label of every task, so the discriminator has nothing to tell apart; "
                "give discriminator=None"
            )
        single = there.sum(dim=1) == 1
        still = shared.detach()
        logits = self.discriminator(still + self.reversal * (still - shared))  # gradient reversal
        if logits.shape != there.shape:
            raise ValueError(
                f"the discriminator gives {tuple(logits.shape)}, not a number for each row and task, "
                f"{tuple(there.shape)}"
            )
        each = F.cross_entropy(logits, there.int().argmax(dim=1), reduction="none")
        return (each * single).sum() / single.sum().clamp(min=1)


def labelled_rows(targets: Tensor) -> Tensor:
    """Tell which rows have a label: not -1 among integers, not NaN among floats; bool of shape (N,)."""
    there = ~targets.isnan() if targets.is_floating_point() else targets != -1
    return there.flatten(1).any(dim=1) if there.dim() > 1 else there
