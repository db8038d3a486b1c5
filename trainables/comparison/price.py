"""What an hour of a comparison's device costs, from the price file. Light enough for `plan`."""

from __future__ import annotations

from pathlib import Path

from trainables.comparison.spec import ComparisonSpec
from trainables.openai_phases.prices import SHIPPED, DevicePrice, read_prices
from tune.core.errors import Problem, UserError, did_you_mean


def device_price(spec: ComparisonSpec) -> DevicePrice | None:
    """None where devices cost nothing. Raises UserError for a device that the file does not list."""
    if spec.device is None:
        return None
    path = SHIPPED if spec.device_price_file is None else Path(spec.device_price_file).expanduser()
    devices = read_prices(path).devices
    if spec.device not in devices:
        got = f"{spec.device}{did_you_mean(spec.device, devices)}, which {path} does not list"
        raise UserError(Problem("trainable.device", got, f"name one of {', '.join(devices) or 'those you add'}, or add it with its price"))
    return devices[spec.device]


def usd_per_hour(spec: ComparisonSpec) -> float:
    found = device_price(spec)
    return 0.0 if found is None else float(found.usd_per_hour)
