"""CRC-32C, the Castagnoli checksum, at memory speed with numpy alone.

A checksum is the remainder of the data, read as a polynomial over GF(2), by the CRC's polynomial P.
_SPARSE is a multiple of P with few terms, and a polynomial squared is the same one with its
exponents doubled; so x^(209w) + x^(144w) + … is a multiple of P too for every w = 2^k. Modulo that
one, w bits are moved to five later places by XOR, for thousands of bytes in one numpy call. What is
left after that is short, and a table of bytes does the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_REFLECTED = 0x82F63B78  # P without x^32, its lowest bit standing for x^31
_SPARSE = (209, 144, 54, 39, 14, 0)  # exponents; the tests divide it by P
_DEGREE = _SPARSE[0]
_SHIFTS = tuple(_DEGREE - exponent for exponent in _SPARSE[1:])
_WIDTHS = (1024, 64, 8, 1)  # bytes that move together; powers of two
_PIECE = 8 << 20  # bytes; larger pieces leave the processor's caches
_SHORT = 512  # bytes; the table alone is faster up to here


def _table() -> tuple[int, ...]:
    """Return the remainder of each byte."""
    remainders = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_REFLECTED if value & 1 else 0)
        remainders.append(value)
    return tuple(remainders)


_TABLE = _table()


def crc32c(data: NDArray[np.uint8] | bytes) -> int:
    """Return the CRC-32C of bytes (RFC 3720, appendix B.4)."""
    array = np.frombuffer(data, np.uint8)
    crc = 0xFFFFFFFF
    for start in range(0, len(array), _PIECE):
        crc = _extend(crc, array[start : start + _PIECE])
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a CRC as LevelDB and TensorFlow store it: rotated by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _extend(crc: int, piece: NDArray[np.uint8]) -> int:
    if len(piece) <= _SHORT:
        return _by_table(crc, piece.tobytes())
    # zeros in front change no remainder; what came before counts as the first four bytes
    padding = -len(piece) % _WIDTHS[0]
    folded = np.zeros(padding + len(piece), np.uint8)
    folded[padding:] = piece
    folded[padding : padding + 4] ^= np.frombuffer(crc.to_bytes(4, "little"), np.uint8)
    for width in _WIDTHS:
        folded = _fold(folded, width)
    return _by_table(0, folded.tobytes())


def _fold(data: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return the last _DEGREE * width bytes, which the others were added to; changes data."""
    end = len(data) - _DEGREE * width
    if end <= 0:
        return data
    words = data.view(np.uint64 if width % 8 == 0 else np.uint8)
    width //= words.itemsize
    end //= words.itemsize
    step = min(_SHIFTS) * width  # the nearest place that a step adds to lies behind it
    for start in range(0, end, step):
        stop = min(start + step, end)
        for shift in _SHIFTS:
            later = words[start + shift * width : stop + shift * width]
            np.bitwise_xor(later, words[start:stop], out=later)
    return words[end:].view(np.uint8)


def _by_table(crc: int, data: bytes) -> int:
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc
