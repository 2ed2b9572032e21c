"""Sizes that images, windows and counts are rounded up to, so that images of about one size share compiled programs.

A program of the fit takes some ten seconds to compile and, on an image of a megapixel, less than one to run.
"""

_SMALL = 1 << 20
"""Pixels of an image up to which compiling takes longer than what rounding adds to the work."""
_LEAST_SIDE, _SIDE = 64, 128
"""px: the least side of a canvas, and the step between sides of large images."""


def rounded_up(n: int, least: int = 1) -> int:
    """The next of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20 …, four to an octave, from `least` on."""
    n = max(n, least)
    step = 1 << max(n.bit_length() - 3, 0)
    up = -(-n // step) * step
    return up if up.bit_length() == n.bit_length() else 1 << n.bit_length()


def counted(n: int, step: int) -> int:
    """A multiple of `step`, 1 or more, not below n; of up to 16 of them, few."""
    return -(-max(rounded_up(n) if n <= 16 * step else n, 1) // step) * step


def is_small(shape: tuple[int, int]) -> bool:
    """Whether an image (rows, cols) is worth sharing programs for at the price of more work."""
    return shape[0] * shape[1] <= _SMALL


def canvas(shape: tuple[int, int]) -> tuple[int, int]:
    """Shape (rows, cols) of the array in which an image of this shape is worked on."""
    if not is_small(shape):
        return -(-shape[0] // _SIDE) * _SIDE, -(-shape[1] // _SIDE) * _SIDE
    return rounded_up(shape[0], _LEAST_SIDE), rounded_up(shape[1], _LEAST_SIDE)
