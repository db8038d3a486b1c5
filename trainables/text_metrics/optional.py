"""Packages that only some scores need: imported when the score is asked for, and refused by name where they are not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from tune.core.errors import Problem, UserError


def need(module: str, distribution: str, what: str) -> ModuleType:
    """The module, or UserError with the pip command. `what`: the score that needs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is there, and lacks something of its own
        got = f"{what} needs the package {distribution}, which is not installed"
        raise UserError(Problem("metric", got, f"run: pip install '{distribution}' (or pip install 'phasetune[text]')")) from None
