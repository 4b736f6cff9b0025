"""A small convolutional network that looks for an object, then at it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch.models.box_head import BoxHead
from mtl_tutorial.tasks import Boxes, Task, check_tasks

GRID = 8  # cells along each side of the attention map


class SceneCNN(nn.Module):
    r"""Convolutions, then attention: features of the place where the object is.

    Convolutions with batch norm halve an image until it is 8 x 8 cells. A 1 x 1 convolution gives
    each cell :math:`i` a score :math:`s_i`, and the softmax of the scores gives weights
    :math:`\alpha_i`. The features, in this order, are

    - the mean :math:`\sum_i \alpha_i z_i` of the cells' own features :math:`z_i`, shape (N, C),
    - the centre :math:`\sum_i \alpha_i (x_i, y_i)` of the attention, as a share of the image's sides
      ("soft-argmax"), shape (N, 2),
    - the largest score, shape (N, 1): high where any cell looks like an object.

    Parameters
    ----------
    size : int
        Side of the images in pixels: 8, 16, 32, 64, ...
    channels : sequence of int
        Of each convolution; as many as halve the side to 8 must be there, further ones keep it.

    Raises
    ------
    ValueError
        ``size`` cannot be halved to 8, or not by so few convolutions; in ``forward``, the images
        have another shape than (N, size, size).

    Examples
    --------
    >>> import torch
    >>> trunk = SceneCNN(64)
    >>> trunk.features, trunk(torch.zeros(5, 64, 64)).shape
    (67, torch.Size([5, 67]))
    """

    def __init__(self, size: int = 64, channels: Sequence[int] = (8, 16, 32, 32, 64)) -> None:
        super().__init__()
        halvings = check_size(size, channels)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise([1, *channels])):
            stride = 2 if i < halvings else 1
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.size, self.features = size, channels[-1] + 3
        self.convolutions = nn.Sequential(*layers)
        self.score = nn.Conv2d(channels[-1], 1, 1)
        middle = (torch.arange(GRID) + 0.5) / GRID
        cells = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1)
        self.register_buffer("cells", cells.reshape(-1, 2), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Give the features, shape (N, C + 3)."""
        if images.shape[1:] != (self.size, self.size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected (N, {self.size}, {self.size})"
            )
        z = self.convolutions(images[:, None])
        scores = self.score(z).flatten(1)
        weights = scores.softmax(dim=1)
        seen = (z.flatten(2) @ weights[:, :, None]).squeeze(2)
        return torch.cat([seen, weights @ self.cells, scores.amax(dim=1, keepdim=True)], dim=1)


class SceneBoxHead(BoxHead):
    r"""Boxes from the features of :class:`SceneCNN`: around the centre of its attention.

    A :class:`BoxHead` whose centre is a shift, 0 to begin with, from where the attention is.

    Parameters
    ----------
    features : int
        The width C + 3 of the features.
    width, height : float
        The image's sides, in the unit of the boxes.

    Examples
    --------
    >>> import torch
    >>> SceneBoxHead(67, width=64, height=64)(torch.zeros(5, 67)).shape
    torch.Size([5, 4])
    """

    def __init__(self, features: int, width: float = 1, height: float = 1) -> None:
        super().__init__(features, width, height)
        nn.init.zeros_(self.linear.bias[:2])

    def forward(self, features: Tensor) -> Tensor:
        """Give corners (x1, y1, x2, y2), shape (N, 4)."""
        shift, raw = self.linear(features).split(2, dim=1)
        return self._boxes(features[:, -3:-1] + shift, raw)


def scene_heads(tasks: Sequence[Task], trunk: SceneCNN) -> dict[str, nn.Module]:
    """Build a :class:`SceneBoxHead` for each task of boxes, one linear layer for each other.

    Parameters
    ----------
    tasks : sequence of Task
    trunk : SceneCNN

    Examples
    --------
    >>> from mtl_tutorial.tasks import Binary
    >>> heads = scene_heads([Boxes("box"), Binary("presence")], SceneCNN(32))
    >>> [type(head).__name__ for head in heads.values()]
    ['SceneBoxHead', 'Linear']
    """
    width = trunk.features
    return {
        task.name: SceneBoxHead(width, task.width, task.height)
        if isinstance(task, Boxes)
        else nn.Linear(width, task.outputs)
        for task in check_tasks(tasks)
    }


def check_size(size: int, channels: Sequence[int]) -> int:
    """Return how many times the side is halved to 8, or say why it cannot be."""
    halvings = (size // GRID).bit_length() - 1
    if size != GRID << max(0, halvings) or len(channels) < max(1, halvings):
        raise ValueError(
            f"size is {GRID} times a power of 2, halved by at most one convolution each; "
            f"got {size} and {len(channels)} convolutions"
        )
    return halvings
