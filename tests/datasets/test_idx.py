import gzip
import struct

import numpy as np
import pytest

from mtl_tutorial.datasets._idx import parse_idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
RAW = struct.pack(">4I", 0x803, 2, 3, 4) + IMAGES.tobytes()


def test_reads_what_was_written() -> None:
    values = parse_idx(gzip.compress(RAW), "images.gz", 3)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, IMAGES)


@pytest.mark.parametrize(
    ("raw", "dimensions", "message"),
    [
        (RAW, 1, "expected magic number 2049 .*found 2051"),
        (b"\x00\x00\x0d" + RAW[3:], 3, "expected magic number 2051 .*found 3331"),
        (b"", 3, "expected magic number 2051 .*found only 0 bytes"),
        (RAW[:3], 3, "found only 3 bytes"),
        (RAW[:10], 3, "expected a header of 16 bytes, found 10 "),
        (RAW[:-1], 3, r"expected 40 bytes for shape \(2, 3, 4\), found 39 \(truncated\)"),
        (RAW + b"x", 3, r"expected 40 bytes for shape \(2, 3, 4\), found 41 \(trailing bytes\)"),
        (struct.pack(">4I", 0x803, *[2**32 - 1] * 3), 3, "truncated"),
    ],
)
def test_rejects_and_says_why(raw: bytes, dimensions: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"folder/images.gz: .*{message}"):
        parse_idx(gzip.compress(raw), "folder/images.gz", dimensions)


@pytest.mark.parametrize("broken", ["cut", "plain", "flipped", "trailing", "empty"])
def test_broken_gzip(broken: str) -> None:
    packed = gzip.compress(RAW)
    content = {
        "cut": packed[:-9],
        "plain": RAW,
        "flipped": packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
        "trailing": packed + b"trailing",
        "empty": b"",
    }[broken]
    with pytest.raises(ValueError, match=r"images\.gz: expected "):
        parse_idx(content, "images.gz", 3)


def test_every_flipped_byte_of_the_stream_is_noticed() -> None:
    packed = gzip.compress(RAW, mtime=0)
    for place in range(10, len(packed)):  # the ten bytes before are gzip's own header
        content = bytearray(packed)
        content[place] ^= 0xFF
        with pytest.raises(ValueError, match=r"images\.gz"):
            parse_idx(bytes(content), "images.gz", 3)
