"""How much does each task count in this step? One small class a method, pure NumPy.

A method turns the loss vector, or the Gramian of the task gradients, into one weight a task. Both
frameworks call the same object, so a method is written, tested and explained once.
"""

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting.equal import Equal
from mtl_tutorial.weighting.static import Static

__all__ = ["Equal", "Static", "Weighting"]
