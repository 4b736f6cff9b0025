"""The bottom of a model of tables: numbers of categories become vectors, beside the quantities."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class TableEmbedding(nn.Module):
    r"""Give the rows of a table as vectors: learned ones of its categories, and its quantities.

    .. math:: z = \bigl[E_{1, c_1}, \dots, E_{C, c_C},\; q\bigr]

    with the categories' numbers :math:`c_1, \dots, c_C`, a learned vector :math:`E_{j, c}` for each
    category of each column, and the quantities :math:`q`. It is what stands below a trunk, or the
    ``bottom`` of experts. All columns' vectors are in one table, so that one look-up serves them.

    Parameters
    ----------
    cardinalities : iterable of int
        How many numbers each categorical column may hold, 0 included, such as
        ``encode.cardinalities.values()`` of an :func:`~mtl_tutorial.tabular.encoder`.
    numeric : int
        How many quantities there are, such as ``len(encode.numeric)``.
    size : int
        Of a category's vector.

    Attributes
    ----------
    width : int
        Of what it gives: the inputs of the next layer.

    Raises
    ------
    ValueError
        There is no categorical column, a cardinality or ``size`` is below 1, or ``numeric`` below 0.
        When called: ``"categorical"`` or ``"numeric"`` has other columns.
    IndexError
        When called on the processor: a number of a category is not within its column's.

    Notes
    -----
    The vectors of 0, which stands for what was never seen, start at zero, and stay there if no
    training row holds one.

    Examples
    --------
    >>> embed = TableEmbedding([10, 3], numeric=4, size=8)
    >>> rows = {"categorical": torch.ones(5, 2, dtype=torch.long), "numeric": torch.zeros(5, 4)}
    >>> embed.width, tuple(embed(rows).shape)
    (20, (5, 20))
    """

    starts: Tensor
    ends: Tensor

    def __init__(self, cardinalities: Iterable[int], numeric: int = 0, size: int = 8) -> None:
        super().__init__()
        counts = list(cardinalities)
        if not counts or min(*counts, size, 1) < 1 or numeric < 0:
            raise ValueError(
                "a table needs a categorical column, cardinalities and size of at least 1, and "
                f"numeric of at least 0; got {counts}, {size} and {numeric}"
            )
        starts = torch.tensor([0, *counts]).cumsum(0)
        self.register_buffer("starts", starts[:-1], persistent=False)
        self.register_buffer("ends", starts[1:], persistent=False)
        self.table = nn.Embedding(sum(counts), size)
        self.numeric = numeric
        self.width = len(counts) * size + numeric
        with torch.no_grad():
            self.table.weight.normal_(std=0.1)
            self.table.weight[self.starts] = 0

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Give one vector a row, shape (N, width)."""
        categories = rows["categorical"]
        if categories.dim() != 2 or categories.shape[1] != len(self.starts):
            raise ValueError(
                f"the categories have shape {tuple(categories.shape)}, expected (N, {len(self.starts)})"
            )
        places = categories + self.starts
        if places.device.type == "cpu" and ((places >= self.ends) | (categories < 0)).any():
            counts = (self.ends - self.starts).tolist()
            raise IndexError(f"a category's number is not within the cardinalities {counts}")
        parts = [self.table(places).flatten(1)]
        if self.numeric:
            if tuple(rows["numeric"].shape) != (len(categories), self.numeric):
                raise ValueError(
                    f"the quantities have shape {tuple(rows['numeric'].shape)}, expected "
                    f"({len(categories)}, {self.numeric})"
                )
            parts.append(rows["numeric"])
        return torch.cat(parts, dim=1)
