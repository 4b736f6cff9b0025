"""ResNet-18 as a trunk, its layers named as torchvision names them."""

from typing import Any

import keras
from keras import layers

from mtl_tutorial._checkpoints import Checkpoint, read


def resnet18(width: int = 64, channels: int = 3) -> keras.Model:
    r"""Build ResNet-18 without its classifier (He et al., 2016): images in, features out.

    The network of :func:`mtl_tutorial.pytorch.resnet18`: zeros are put around an image on all sides
    alike before a convolution with a stride, where Keras' own ``padding="same"`` would put more
    below and to the right, and batch norm has PyTorch's constants (1e-5 added to the variance; a
    tenth of each batch into the running statistics).

    Parameters
    ----------
    width : int
        Channels of the first layer; the original has 64. There are 8 * ``width`` features.
    channels : int
        Channels of the images: 3 for colour, 1 for grey values.

    Returns
    -------
    keras.Model
        From images of shape (N, height, width, channels), or (N, height, width) if ``channels`` is
        1, to features of shape (N, 8 * width). A functional model, whose layers have torchvision's
        names: :func:`load_resnet18` reads PyTorch's parameters.

    Raises
    ------
    ValueError
        ``width`` or ``channels`` is below 1. When called: the images have another shape.

    Notes
    -----
    From equal parameters both frameworks give equal features, and in training equal gradients. The
    running variances differ a little: PyTorch averages n / (n - 1) times the variance of a batch of
    n values, Keras the variance itself.

    Examples
    --------
    >>> import numpy as np
    >>> trunk = resnet18(width=8, channels=1)
    >>> tuple(trunk(np.zeros((2, 28, 28))).shape)
    (2, 64)
    >>> resnet18().count_params() - 9600  # the running means and variances
    11176512
    """
    if width < 1 or channels < 1:
        raise ValueError(f"width and channels must be at least 1; got {width} and {channels}")
    images = keras.Input((None, None, channels), name="images")
    x = _norm(_convolution(images, width, 7, 2, "conv1"), "bn1")
    x = layers.ReLU(name="relu")(x)
    x = layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1)(x))  # none is below 0
    for layer in range(4):
        for block in range(2):
            stride = 2 if layer > 0 and block == 0 else 1
            x = _residual_block(x, width * 2**layer, stride, f"layer{layer + 1}.{block}")
    return _Trunk(images, layers.GlobalAveragePooling2D(name="avgpool")(x), name="trunk")


@keras.saving.register_keras_serializable("mtl_tutorial")
class _Trunk(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A functional model that knows its outputs' shape for grey images without a channel, too."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.output_shape[-1])


def _residual_block(inputs: Any, outputs: int, stride: int, name: str) -> Any:
    """Two convolutions of 3 × 3 with batch norm, added to what came in."""
    hidden = _norm(_convolution(inputs, outputs, 3, stride, f"{name}.conv1"), f"{name}.bn1")
    hidden = layers.ReLU(name=f"{name}.relu")(hidden)
    hidden = _norm(_convolution(hidden, outputs, 3, 1, f"{name}.conv2"), f"{name}.bn2")
    if stride != 1 or inputs.shape[-1] != outputs:
        shortcut = _convolution(inputs, outputs, 1, stride, f"{name}.downsample.0")
        inputs = _norm(shortcut, f"{name}.downsample.1")
    return layers.ReLU(name=name)(layers.Add()([hidden, inputs]))


def _convolution(inputs: Any, outputs: int, size: int, stride: int, name: str) -> Any:
    """Convolve without bias, zeros on all sides alike."""
    if size > 1:
        inputs = layers.ZeroPadding2D(size // 2)(inputs)
    start = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    convolve = layers.Conv2D(
        outputs, size, stride, use_bias=False, kernel_initializer=start, name=name
    )
    return convolve(inputs)


def _norm(inputs: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(inputs)


IGNORED = "fc.weight", "fc.bias", "*.num_batches_tracked"


def load_resnet18(trunk: keras.Model, checkpoint: Checkpoint | None = None) -> None:
    """Load PyTorch's parameters and running statistics into the trunk of :func:`resnet18`.

    The names are torchvision's, so its ImageNet checkpoint loads into ``resnet18()``; a
    ``.safetensors`` file needs no PyTorch. A convolution's weight of shape (outputs, inputs, height,
    width) becomes a kernel (height, width, inputs, outputs). What is ignored (``fc.weight``,
    ``fc.bias``, ``num_batches_tracked``), what raises, and how images must be normalised is as in
    :func:`mtl_tutorial.pytorch.load_resnet18`.

    Parameters
    ----------
    trunk : keras.Model
        Changed in place.
    checkpoint : path, or mapping from name to array or torch.Tensor, optional
        Such as ``trunk.state_dict()`` of the PyTorch model. If not given, the environment variable
        ``MTL_TUTORIAL_RESNET18`` names the file.

    Raises
    ------
    ValueError
        A name is missing or unknown, or a shape differs: the message names it, and the trunk is as
        it was. Or there is no checkpoint.
    FileNotFoundError
        The file does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial import pytorch
    >>> trained, twin = pytorch.resnet18(width=8), resnet18(width=8)
    >>> load_resnet18(twin, trained.state_dict())
    >>> colours = np.ones((1, 32, 32, 3), dtype="float32")
    >>> bool(np.isfinite(twin(colours)).all())
    True
    """
    ours = {
        f"{layer.name}.{theirs}": getattr(layer, own)
        for layer in trunk.layers
        for theirs, own in _NAMES.get(type(layer).__name__, {}).items()
    }
    shapes = {name: _theirs(tuple(value.shape)) for name, value in ours.items()}
    found = read(checkpoint, shapes, variable="MTL_TUTORIAL_RESNET18", ignored=IGNORED)
    for name, value in ours.items():
        array = found[name]
        value.assign(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)


_NAMES = {
    "Conv2D": {"weight": "kernel"},
    "BatchNormalization": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}


def _theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that PyTorch has for an array of this shape."""
    if len(shape) != 4:
        return shape
    height, width, inputs, outputs = shape
    return outputs, inputs, height, width
