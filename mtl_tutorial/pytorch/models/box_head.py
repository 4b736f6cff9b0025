"""A head whose outputs are boxes, for any trunk."""

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn


class BoxHead(nn.Module):
    r"""Boxes from any features: a linear layer gives the centre and the sides.

    .. math:: (a, b, c, d) = W z + v, \qquad
       x = X (a \mp \tfrac12 \mathrm{softplus}(c)), \qquad
       y = Y (b \mp \tfrac12 \mathrm{softplus}(d))

    with the features :math:`z` and the image's sides :math:`X` and :math:`Y`. So corners never
    cross, and boxes in pixels are no further away than shares of the sides. To begin with, small
    weights :math:`W` (normal, of standard deviation 0.01) and the biases :math:`v` put a box of
    about a third of the sides into the middle: from large weights boxes shrink to nothing first.

    Parameters
    ----------
    features : int
        The width of the trunk's output.
    width, height : float
        The image's sides :math:`X` and :math:`Y`, in the unit of the boxes, as in
        :class:`~mtl_tutorial.tasks.Boxes`.

    Examples
    --------
    >>> BoxHead(8, width=640, height=480)(torch.zeros(1, 8)).round()
    tensor([[220., 165., 420., 315.]], grad_fn=<RoundBackward0>)
    """

    def __init__(self, features: int, width: float = 1, height: float = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 4)
        nn.init.normal_(self.linear.weight, std=0.01)
        with torch.no_grad():
            self.linear.bias.copy_(torch.tensor([0.5, 0.5, -1.0, -1.0]))
        self.width, self.height = width, height  # no buffer: then fit_stacked takes it, too

    def forward(self, features: Tensor) -> Tensor:
        """Give corners (x1, y1, x2, y2), shape (N, 4)."""
        return self._boxes(*self.linear(features).split(2, dim=1))

    def _boxes(self, centre: Tensor, raw: Tensor) -> Tensor:
        half = F.softplus(raw) / 2
        x1, y1, x2, y2 = torch.cat([centre - half, centre + half], dim=1).unbind(dim=1)
        corners = [self.width * x1, self.height * y1, self.width * x2, self.height * y2]
        return torch.stack(corners, dim=1)
