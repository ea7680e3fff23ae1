"""Numbers for people."""

from __future__ import annotations

import pytest

from ptl.show.units import count, duration, exact, plural, share, si, three


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.00123, "0.00123"),
        (0.98765, "0.988"),
        (0.9996, "1.00"),
        (1, "1.00"),
        (9.994, "9.99"),
        (9.999, "10.0"),
        (99.95, "100"),
        (999, "999"),
        (1234, "1,230"),
        (-12.345, "-12.3"),
    ],
)
def test_three_digits(value: float, expected: str) -> None:
    assert three(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 ns"),
        (0.5, "0.500 ns"),
        (26, "26.0 ns"),
        (999, "999 ns"),
        (999.6, "1.00 µs"),
        (1_000, "1.00 µs"),
        (999_499, "999 µs"),
        (999_999, "1.00 ms"),
        (1_234_567_890, "1.23 s"),
        (5e12, "5,000 s"),
    ],
)
def test_durations(value: float, expected: str) -> None:
    assert duration(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (7, "7.00"), (999.9, "1.00 k"), (45_678_901, "45.7 M"), (3e9, "3.00 G"), (5e15, "5,000 T")],
)
def test_prefixes(value: float, expected: str) -> None:
    assert si(value) == expected


def test_counts() -> None:
    assert [count(v) for v in (0, 999_999, 1_000_000)] == ["0", "999,999", "1.00 M"]
    assert exact(1_234_567) == "1,234,567"
    assert [plural(v, "page") for v in (0, 1, 4177)] == ["0 pages", "1 page", "4,177 pages"]
    assert [share(v) for v in (0, 0.0004, 0.016, 0.0996, 0.5, 1, 1.0421)] == [
        "0 %",
        "< 0.1 %",
        "1.6 %",
        "10 %",
        "50 %",
        "100 %",
        "104 %",
    ]
