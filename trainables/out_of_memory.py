"""Memory that ran out: which exceptions mean it, and the RetryTrial that names it, since it may come from a neighbour on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tune.core.errors import RetryTrial


def ran_out(error: BaseException) -> bool:
    """True for CUDA's, Python's, and what PyTorch's CPU allocator raises, which has no class of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def memory_named(what: str, fix: str) -> Iterator[None]:
    """`what` needed it ("batch 32 at 224 px"), `fix` is what to change. Raises RetryTrial `out_of_memory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise RetryTrial("out_of_memory", f"{what}: {first_line(error)}; {fix}") from error
