"""Data sets as NumPy arrays, each with more than one task.

Real files are used where they are found, embedded digits otherwise; nothing is downloaded
unasked. ``make data`` (or ``python -m mtl_tutorial.datasets``) downloads the real files.
"""

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._digits import digits
from mtl_tutorial.datasets._fashion_mnist import fashion_mnist
from mtl_tutorial.datasets._mnist import mnist
from mtl_tutorial.datasets._overlaid import overlaid
from mtl_tutorial.datasets._rotated import rotated

__all__ = ["Dataset", "Split", "digits", "fashion_mnist", "mnist", "overlaid", "rotated"]
