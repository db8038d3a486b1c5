"""One asyncio bell that wakes all who wait for something to become true. Whoever changes what is waited for rings it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Bell:
    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def until(self, met: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """True when `met()` holds, False when `timeout_s` have passed before."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not met():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            try:
                await asyncio.wait_for(self._rung.wait(), left)
            except asyncio.TimeoutError:
                return met()
        return True
