"""Multi-task learning in PyTorch and Keras: the library of the book *Multi-Task Learning You Can Run*.

Importing this package loads no framework, not even NumPy: every name is fetched when it is first used.

>>> import mtl_tutorial
>>> mtl_tutorial.Classification("digit", classes=10).outputs
10
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "comparison",
    "datasets",
    "glue",
    "gradient_check",
    "keras",
    "metrics",
    "plotting",
    "pytorch",
    "relatedness",
    "sampling",
    "tabular",
    "tasks",
    "text",
    "weighting",
)
_TASKS = ("Binary", "Boxes", "Classification", "Regression", "Task")

__all__ = ["Binary", "Boxes", "Classification", "Regression", "Task"]


def __getattr__(name: str) -> Any:
    """Fetch a submodule or a task class on first use (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _TASKS:
        return getattr(importlib.import_module(f"{__name__}.tasks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, *_TASKS])
