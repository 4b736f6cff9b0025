"""The idx format of MNIST: a magic number, the shape, then one byte per value."""

import gzip
import math
import os
import struct
import zlib

import numpy as np
import numpy.typing as npt


def parse_idx(
    content: bytes, path: str | os.PathLike[str], dimensions: int
) -> npt.NDArray[np.uint8]:
    """Turn the content of a gzip-compressed idx file into an array.

    Parameters
    ----------
    content : bytes
        The whole file, still compressed.
    path : str or path
        The file's name, for messages only.
    dimensions : int
        How many axes to expect: 3 for images, 1 for labels.

    Returns
    -------
    ndarray of uint8
        The values, of the shape that the file declares; read-only.

    Raises
    ------
    ValueError
        If the content is not gzip, has another magic number, or is shorter or longer than
        its header declares.

    References
    ----------
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.

    Examples
    --------
    >>> content = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 5])
    >>> parse_idx(gzip.compress(content), "labels.gz", 1).tolist()
    [7, 5]
    """
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, found a broken one: {error}") from (
            error
        )

    # Two zero bytes, the type (8: unsigned byte), the number of axes.
    magic = 0x0800 + dimensions
    found = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or found != magic:
        raise ValueError(
            f"{path}: expected magic number {magic} (idx, bytes, {dimensions} axes), "
            f"found {found if len(raw) >= 4 else f'only {len(raw)} bytes'}"
        )

    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise ValueError(
            f"{path}: expected a header of {start} bytes, found {len(raw)} (truncated)"
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    length = start + math.prod(shape)
    if len(raw) != length:
        fault = "truncated" if len(raw) < length else "trailing bytes"
        raise ValueError(
            f"{path}: expected {length} bytes for shape {shape}, found {len(raw)} ({fault})"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
