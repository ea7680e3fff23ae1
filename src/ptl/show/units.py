"""Numbers for people: three significant digits, and the unit that keeps them short.

>>> duration(1_234_567), si(45_678_901), three(1234.5), share(0.98765)
('1.23 ms', '45.7 M', '1,230', '99 %')
"""

from __future__ import annotations

from typing import Final

_TIME: Final = (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9))
_SI: Final = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))


def three(value: float) -> str:
    """The value in three significant digits, never in exponents.

    >>> [three(v) for v in (0, 0.01234, 0.9996, 1, 9.999, 26, 999.4, 1234567)]
    ['0', '0.0123', '1.00', '1.00', '10.0', '26.0', '999', '1,230,000']
    """
    if value == 0:
        return "0"
    exponent = int(f"{abs(value):.2e}".partition("e")[2])  # of the rounded value, so that 9.999 counts as 10.0
    return f"{round(value, 2 - exponent):,.{max(0, 2 - exponent)}f}"


def duration(nanoseconds: float) -> str:
    """A time in ns, µs, ms or s.

    >>> [duration(v) for v in (0, 26, 999.6, 1500, 12_345_678, 90e9)]
    ['0 ns', '26.0 ns', '1.00 µs', '1.50 µs', '12.3 ms', '90.0 s']
    """
    return _scaled(nanoseconds, _TIME)


def si(value: float) -> str:
    """A large number with an SI prefix: k, M, G, T.

    >>> [si(v) for v in (0, 7.5, 999.7, 4_520_000)]
    ['0', '7.50', '1.00 k', '4.52 M']
    """
    return _scaled(value, _SI)


def count(value: int) -> str:
    """A count: every digit up to 999,999, with an SI prefix beyond.

    >>> [count(v) for v in (0, 85, 999_999, 1_000_000)]
    ['0', '85', '999,999', '1.00 M']
    """
    return exact(value) if abs(value) < 1_000_000 else si(value)


def exact(value: int) -> str:
    """A count with all its digits, in groups of three."""
    return f"{value:,}"


def share(fraction: float) -> str:
    """A fraction in whole percent, and in tenths of a percent where it is small.

    >>> share(1.0), share(0.516), share(0.016), share(0.0001), share(0)
    ('100 %', '52 %', '1.6 %', '< 0.1 %', '0 %')
    """
    percent = fraction * 100
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 9.95 else f"{percent:.0f} %"


def plural(number: int, noun: str) -> str:
    """A count and its noun, which gets an `s` unless there is exactly one.

    >>> plural(1, "reader"), plural(0, "reader")
    ('1 reader', '0 readers')
    """
    return f"{exact(number)} {noun}{'' if number == 1 else 's'}"


def _scaled(value: float, scale: tuple[tuple[str, float], ...]) -> str:
    """The value in the largest unit that it reaches once it is rounded."""
    rounded = float(f"{abs(value):.2e}")
    unit, factor = scale[0]
    for name, size in scale:
        if rounded >= size:
            unit, factor = name, size
    return f"{three(value / factor)} {unit}".rstrip()
