"""Data sets as NumPy arrays, each with more than one task.

Real files are used where they are found, embedded digits otherwise; nothing is downloaded
unasked. ``make data`` (or ``python -m mtl_tutorial.datasets``) downloads the real files.
"""

from mtl_tutorial.datasets._augment import cropped, flipped, shifted
from mtl_tutorial.datasets._census import census
from mtl_tutorial.datasets._clicks import clicks_and_purchases
from mtl_tutorial.datasets._dataset import (
    Dataset,
    Split,
    check_inputs,
    concatenate,
    leaves,
    map_arrays,
)
from mtl_tutorial.datasets._digits import digits
from mtl_tutorial.datasets._fashion_mnist import fashion_mnist
from mtl_tutorial.datasets._mnist import mnist
from mtl_tutorial.datasets._occluded import occluded_scenes
from mtl_tutorial.datasets._overlaid import overlaid
from mtl_tutorial.datasets._regressions import correlated_regressions
from mtl_tutorial.datasets._requests import customer_requests
from mtl_tutorial.datasets._rotated import rotated
from mtl_tutorial.datasets._scenes import ink_box, scenes
from mtl_tutorial.datasets._sentences import read_sentences
from mtl_tutorial.datasets._sentiment import sentiment

__all__ = [
    "Dataset",
    "Split",
    "census",
    "check_inputs",
    "clicks_and_purchases",
    "concatenate",
    "correlated_regressions",
    "cropped",
    "customer_requests",
    "digits",
    "fashion_mnist",
    "flipped",
    "ink_box",
    "leaves",
    "map_arrays",
    "mnist",
    "occluded_scenes",
    "overlaid",
    "read_sentences",
    "rotated",
    "scenes",
    "sentiment",
    "shifted",
]
