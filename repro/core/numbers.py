"""Numbers as text, in tables, figures, claims and messages alike."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

from repro.core.measures import measure


def number(value: float, metric: str) -> str:
    """A measured number: '71.20', '17.1M', '0.35M', '0.017G', '5,384', '3.81'."""
    form = measure(metric)
    scaled, digits = exact(value) / Decimal(form.divisor), form.digits
    if form.unit and scaled.is_finite() and abs(_nearest(scaled, digits)) < 1:
        digits = max(digits + 1, 1 - scaled.adjusted() if scaled else 0)  # two significant digits
    elif not digits and abs(scaled) < 100:
        digits = 2 if abs(scaled) < 10 else 1
    return rounded(scaled, digits) + form.unit


def rounded(value: float | Decimal, digits: int, form: str = "z,") -> str:
    """A number with this many decimals, half rounded away from zero: 0.125 is '0.13', -0.5 is '-1'.

    Rounds the shortest decimal that gives the float, as readers see it in a file: 2.675 is '2.68'.
    `form` is the format's sign and separator. Infinity is '∞'.
    """
    value = value if isinstance(value, Decimal) else exact(value)
    if not value.is_finite():
        return "nan" if value.is_nan() else "∞" if value > 0 else "-∞"
    return f"{_nearest(value, digits):{form}.{digits}f}"


def exact(value: float) -> Decimal:
    """The shortest decimal that gives the float."""
    return Decimal(repr(float(value)))


def _nearest(value: Decimal, digits: int) -> Decimal:
    """The nearest number with this many decimals."""
    return value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, Context(prec=400))
