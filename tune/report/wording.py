"""Numbers as people read them: digits that mean something, and the unit beside them. Pure."""

from __future__ import annotations

import math
from typing import Any

from tune.summary import clock

_UNITS = {"seconds": "s", "bytes": "bytes", "nats": "nats", "count": ""}


def number(value: float | None, unit: str = "") -> str:
    """A metric's value: shares with four digits, sizes in MiB, everything else with four that count."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if unit == "share":
        return f"{value:.4f}"
    if unit == "bytes":
        return size(value)
    if unit == "usd":
        return money(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def with_unit(value: float | None, unit: str) -> str:
    """`0.6040`, `3.2 s`, `41.5 images/s`."""
    word = "" if unit in ("share", "bytes", "usd") else _UNITS.get(unit, unit)
    return f"{number(value, unit)} {word}".rstrip() if value is not None else "-"


def titled(name: str, unit: str) -> str:
    """A metric's name as a column title or an axis: with its unit where that says something."""
    word = "" if unit == "share" else _UNITS.get(unit, unit)
    return f"{name} ({word})" if word else name


def size(size_bytes: float) -> str:
    """In the binary unit that leaves few digits."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def money(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"


def seconds(duration_s: float | None) -> str:
    """`0.42 s`, `12 s`, `3 min 20 s`, `2 h 03 min`."""
    if duration_s is None:
        return "-"
    return f"{duration_s:.2g} s" if 0 < duration_s < 9.95 else clock(duration_s)


def setting(value: Any) -> str:
    """A hyperparameter's value."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return number(value) if isinstance(value, float) else str(value)


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 trial`, `12 trials`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
