"""Numbers as a reader of a page wants them."""

from collections.abc import Mapping, Sequence
from typing import Any


def figure(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def with_interval(
    value: float, interval: Sequence[float] | None, *, scale: float = 1.0, unit: str = ""
) -> str:
    """A value, and in brackets its 95 % interval, each times `scale`."""
    if interval is None:
        return f"{figure(scale * value)}{unit}"
    low, high = (figure(scale * end) for end in interval)
    return f"{figure(scale * value)}{unit} ({low} to {high})"


def measured(row: Mapping[str, Any], *, scale: float = 1.0, unit: str = "") -> str:
    """A measure with `value` and `confidence_95`."""
    return with_interval(row["value"], row["confidence_95"], scale=scale, unit=unit)


def percent(share: float) -> str:
    """Of a share, with one digit behind the point."""
    return f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    """Two digits; tiny ones as a bound."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def listed(values: Mapping[str, str]) -> str:
    """Names and what belongs to them, in a sentence."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
