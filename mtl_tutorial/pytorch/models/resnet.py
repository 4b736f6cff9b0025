"""ResNet-18 as a trunk, under the parameter names of torchvision."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mtl_tutorial._checkpoints import Checkpoint, read


def resnet18(width: int = 64, channels: int = 3) -> nn.Sequential:
    r"""Build ResNet-18 without its classifier (He et al., 2016): images in, features out.

    A convolution of 7 × 7 pixels with stride 2 and a max pooling with stride 2; then four layers of
    two residual blocks, each of two convolutions of 3 × 3; then the mean over the places. Layers 2
    to 4 halve height and width and double the channels.

    Parameters
    ----------
    width : int
        Channels of the first layer; the original has 64. There are 8 * ``width`` features.
    channels : int
        Channels of the images: 3 for colour, 1 for grey values.

    Returns
    -------
    torch.nn.Sequential
        From images of shape (N, channels, height, width), or (N, height, width) if ``channels`` is
        1, to features of shape (N, 8 * width). Its parameters have the names of torchvision's
        ``resnet18``: :func:`load_resnet18` reads them.

    Raises
    ------
    ValueError
        ``width`` or ``channels`` is below 1. When called: the images have another shape.

    Notes
    -----
    Images of any size will do, but the network was made for 224 × 224, which layer 4 sees as
    7 × 7 places. Of 28 × 28 pixels the stem leaves 7 × 7, layer 4 a single one. In training, batch
    norm then needs at least two images in a batch.

    Examples
    --------
    >>> trunk = resnet18(width=8, channels=1)
    >>> tuple(trunk(torch.zeros(2, 28, 28)).shape)
    (2, 64)
    >>> sum(p.numel() for p in resnet18().parameters())
    11176512
    """
    if width < 1 or channels < 1:
        raise ValueError(f"width and channels must be at least 1; got {width} and {channels}")
    parts: list[tuple[str, nn.Module]] = [
        ("images", _Images(channels)),
        ("conv1", nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)),
        ("bn1", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU()),
        ("maxpool", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    inputs = width
    for layer in range(4):
        outputs, stride = width * 2**layer, 1 if layer == 0 else 2
        blocks = ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs)
        parts.append((f"layer{layer + 1}", nn.Sequential(*blocks)))
        inputs = outputs
    parts += [("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    trunk = nn.Sequential(OrderedDict(parts))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


class ResidualBlock(nn.Module):
    """Two convolutions of 3 × 3 with batch norm, added to what came in.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of channels.
    stride : int
        Of the first convolution. Where it is not 1, or the numbers of channels differ, a
        convolution of 1 × 1 with batch norm brings what came in to the same shape.

    Examples
    --------
    >>> tuple(ResidualBlock(8, 16, stride=2)(torch.zeros(2, 8, 7, 7)).shape)
    (2, 16, 4, 4)
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the block's outputs, shape (N, outputs, height / stride, width / stride)."""
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        hidden = self.bn1(self.conv1(inputs)).relu()
        outputs: Tensor = self.bn2(self.conv2(hidden)) + shortcut
        return outputs.relu()


class _Images(nn.Module):
    """Give grey images their channel, and refuse images of another shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 3 and self.channels == 1:
            images = images[:, None]
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images have shape (N, {self.channels}, height, width); got {tuple(images.shape)}"
            )
        return images


IGNORED = "fc.weight", "fc.bias", "*.num_batches_tracked"


def load_resnet18(trunk: nn.Module, checkpoint: Checkpoint | None = None) -> None:
    """Load parameters and running statistics into the trunk of :func:`resnet18`.

    The names are torchvision's, so its ImageNet checkpoint loads into ``resnet18()``. Its classifier
    (``fc.weight`` and ``fc.bias``) is ignored: a trunk has none, and your heads replace it. So are
    the batch norms' counters ``num_batches_tracked``, which older files lack. Everything else must
    be there, under its name and in its shape, or nothing is loaded. The images must be normalised as
    the checkpoint's were, for torchvision's by means (0.485, 0.456, 0.406) and standard deviations
    (0.229, 0.224, 0.225) of colours in [0, 1].

    Parameters
    ----------
    trunk : torch.nn.Module
        Changed in place.
    checkpoint : path, or mapping from name to array or torch.Tensor, optional
        A ``.safetensors`` file, or one that ``torch.save`` wrote (read with ``weights_only=True``),
        or a ``state_dict()``. If not given, the environment variable ``MTL_TUTORIAL_RESNET18``
        names the file.

    Raises
    ------
    ValueError
        A name is missing or unknown, or a shape differs: the message names it, and the trunk is as
        it was. Or there is no checkpoint.
    FileNotFoundError
        The file does not exist.

    Examples
    --------
    >>> trained, new = resnet18(width=8), resnet18(width=8)
    >>> load_resnet18(new, trained.state_dict())
    >>> bool((new.conv1.weight == trained.conv1.weight).all())
    True
    """
    ours = {n: v for n, v in trunk.state_dict().items() if not n.endswith("num_batches_tracked")}
    shapes = {name: tuple(value.shape) for name, value in ours.items()}
    found = read(checkpoint, shapes, variable="MTL_TUTORIAL_RESNET18", ignored=IGNORED)
    for name, value in ours.items():  # they share their memory with the trunk
        value.copy_(torch.from_numpy(found[name]))
