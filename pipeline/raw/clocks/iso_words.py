"""ISO times of one width, read eight characters at once in a word of 64 bits.

    2024-03-01T07:05:09.123         each character's byte of a word is worked on by the same operation on the word:
               07:05:09             xor with 00:00:00 -> 0 7 . 0 5 . 0 9; a byte above 9, or not 0 at a colon, is no time
               |7|  |5|  |9|        times 10, plus itself moved by one byte: hours, minutes and seconds

Legend: R texts, W characters of each.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.civil_days import days_of

Words = NDArray[np.uint64]
SECOND, DAY = 10**9, 86400 * 10**9
MOST = ((0, 23), (3, 59), (6, 59))  # byte of a clock's word, and its greatest number


def _of_bytes(bytes_8: bytes | list[int]) -> np.uint64:
    return np.uint64(int.from_bytes(bytes(bytes_8), "little"))


HIGH = _of_bytes([0x80] * 8)
ZEROS, CLOCK = _of_bytes(b"0" * 8), _of_bytes(b"00:00:00")
OVER_9 = _of_bytes([0x76] * 8)  # added to a byte above 9 it sets the high bit
NO_CLOCK = _of_bytes([0x76, 0x76, 0x7F, 0x76, 0x76, 0x7F, 0x76, 0x76])  # likewise, to one above 0 at a colon
BEYOND = _of_bytes([0x7F - dict(MOST).get(place, 0x7F) for place in range(8)])
NUMBERS = _of_bytes([0x80 if place in dict(MOST) else 0 for place in range(8)])
BYTE, TWICE = np.uint64(0xFF), np.uint64(0x000000FF000000FF)
EVEN, ODD = np.uint64(1_000_000 << 32 | 100), np.uint64(10_000 << 32 | 1)


def readings(
    bytes_RW: NDArray[np.uint8], sample: str, digits: int, *, seconds: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns nanoseconds since 1970 on the texts' clock [R], and whether each text is a time of the sample's form [R].

    Args:
        sample: `2024-03-01T07:05`, with seconds, a fraction of 1 to 9 digits, and a Z or none of them.
        digits: of the fraction.
    """
    times, wrong = _clock(_word(bytes_RW, 11, 8 if seconds else 5, CLOCK))
    if digits:
        fraction, wrong_digits = _fraction(_word(bytes_RW, 20, min(digits, 8), ZEROS))
        wrong |= wrong_digits
        times += fraction * np.uint64(10)
        if digits == 9:
            last = bytes_RW[:, 28] ^ np.uint8(ord("0"))
            wrong |= last > 9
            times += last
    naive, valid = times.view(np.int64), wrong == 0
    for place in (19, len(sample) - 1):  # a point, a Z
        if place < len(sample) and sample[place] in ".Z":
            valid &= bytes_RW[:, place] == ord(sample[place])
    days, dates_valid = _dates(bytes_RW, sample)
    naive += days * DAY
    return naive, valid & dates_valid


def _word(bytes_RW: NDArray[np.uint8], place: int, count: int, zeros: np.uint64) -> Words:
    """Returns up to eight characters of each text as what they differ from `zeros` by, the first in the lowest byte.

    The bytes above them are 0. They end with the eighth character of a text or a later one.
    """
    unused = np.uint64(8 * (8 - count))
    return (_eight(bytes_RW, place + count - 8) >> unused) ^ (zeros << unused >> unused)


def _eight(bytes_RW: NDArray[np.uint8], place: int) -> Words:
    """Gives eight characters of each text as they lie in memory."""
    return np.ndarray(len(bytes_RW), np.dtype("<u8"), bytes_RW, place, bytes_RW.strides[:1])


def _clock(digits: Words) -> tuple[Words, Words]:
    """Returns nanoseconds since midnight, and 0 where the characters are a time of day; without seconds these are 0."""
    wrong = (digits + NO_CLOCK | digits) & HIGH
    numbers = digits * np.uint64(10) + (digits >> np.uint64(8))
    wrong |= numbers + BEYOND & NUMBERS
    seconds = (numbers & BYTE) * np.uint64(3600)
    seconds += (numbers >> np.uint64(24) & BYTE) * np.uint64(60)
    seconds += numbers >> np.uint64(48) & BYTE
    return seconds * np.uint64(SECOND), wrong


def _fraction(digits: Words) -> tuple[Words, Words]:
    """Returns a number of eight digits, zeros where there are fewer, and 0 where they are digits."""
    wrong = (digits + OVER_9 | digits) & HIGH
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    return (pairs & TWICE) * EVEN + (pairs >> np.uint64(16) & TWICE) * ODD >> np.uint64(32), wrong


def _dates(bytes_RW: NDArray[np.uint8], sample: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns days since 1970 and whether there is such a date, [R]; [1] where all have one, as a dump nearly always does."""
    alike = all(bool((words == words[0]).all()) for words in (_eight(bytes_RW, 0), _eight(bytes_RW, 3)))
    if alike:
        day, is_date = _date(bytes_RW[0, :11].tobytes(), sample)
        return np.array([day]), np.array([is_date])
    return _days(bytes_RW[:, :11], sample)


@lru_cache(maxsize=16)  # of a dump's blocks nearly always the same
def _date(text: bytes, sample: str) -> tuple[int, bool]:
    days, valid = _days(np.frombuffer(text, np.uint8)[None], sample)
    return int(days[0]), bool(valid[0])


def _days(dates_R11: NDArray[np.uint8], sample: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    number = dates_R11 - np.uint8(ord("0"))
    for place in (4, 7, 10):
        number[:, place] = np.where(dates_R11[:, place] == ord(sample[place]), 0, 99)
    n = number.astype(np.int32)
    year = n[:, 0] * 1000 + n[:, 1] * 100 + n[:, 2] * 10 + n[:, 3]
    days, valid = days_of(year, n[:, 5] * 10 + n[:, 6], n[:, 8] * 10 + n[:, 9])
    return days, valid & (number <= 9).all(axis=1)
