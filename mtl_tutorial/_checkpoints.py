"""Parameters by name, from a file or a model: read as NumPy arrays, and checked before they are used."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

Checkpoint = str | os.PathLike[str] | Mapping[str, Any]


def read(
    checkpoint: Checkpoint | None,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    variable: str,
    ignored: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Give the arrays of a checkpoint by name, or say why they do not fit.

    Parameters
    ----------
    checkpoint : path, or mapping from name to array or torch.Tensor, optional
        A file that ends in ``.safetensors``, or one that ``torch.save`` wrote, read with
        ``weights_only=True``: neither way runs code that the file may hold.
    shapes : mapping from name to tuple of int
        What must be there.
    variable : str
        The environment variable that names the file where ``checkpoint`` is not given.
    ignored : sequence of str
        Names, or patterns such as ``"*.count"``, that may be there besides.

    Raises
    ------
    ValueError
        A name is missing or unknown, or a shape differs: all such are named. There is no
        checkpoint, or the file holds something else than arrays by name.
    FileNotFoundError
        The file does not exist.
    """
    found = {
        name: array
        for name, array in _arrays(checkpoint, variable).items()
        if not any(fnmatch(name, pattern) for pattern in ignored)
    }
    wrong = {
        "missing": [name for name in shapes if name not in found],
        "unknown": [name for name in found if name not in shapes],
        "of another shape": [
            f"{name} {found[name].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in found and found[name].shape != shape
        ],
    }
    faults = [f"{what}: {_some(names)}" for what, names in wrong.items() if names]
    if faults:
        raise ValueError(f"the checkpoint does not fit, nothing was loaded; {'; '.join(faults)}")
    return found


def _arrays(checkpoint: Checkpoint | None, variable: str) -> dict[str, np.ndarray]:
    """Read a file or a mapping."""
    checkpoint = checkpoint or os.environ.get(variable)
    if not checkpoint:
        raise ValueError(f"give a checkpoint, or its path in the environment variable {variable}")
    if not isinstance(checkpoint, Mapping):
        path = Path(checkpoint)
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        import torch

        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    arrays = {}
    items = checkpoint.items() if isinstance(checkpoint, Mapping) else [("the file", checkpoint)]
    for name, value in items:
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        if not isinstance(array, np.ndarray):
            kind = type(value).__name__
            # the content of the file is wrong, not the type of an argument
            raise ValueError(f"a checkpoint holds arrays by name; {name!r} is {kind}")  # noqa: TRY004
        arrays[name] = array
    return arrays


def _some(names: list[str], most: int = 5) -> str:
    """List the first names, and say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
