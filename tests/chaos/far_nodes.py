"""A cluster whose worker nodes are each in a network of their own, so that one can be cut off from the rest while all of it lives."""

from __future__ import annotations

from tests.chaos.nodes import Nodes
from tests.cluster.networks import Networks


class FarNodes(Nodes):
    """`Nodes` behind a bridge; the head, and the drivers, are on this side of it. A node keeps its number as long as it lives."""

    def __init__(self, n: int, cpus: int = 1):
        super().__init__(n, cpus)
        self._networks = Networks()

    def __enter__(self) -> FarNodes:
        self._networks.__enter__()
        self._host = self._networks.address
        try:
            super().__enter__()
        except BaseException:
            self._networks.__exit__()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._networks.__exit__()

    def cut(self, i: int) -> None:
        """Take the worker node of this number off the network."""
        self._networks.cut(i)

    def heal(self, i: int) -> None:
        self._networks.heal(i)

    def _head_words(self) -> list[str]:
        return [*super()._head_words(), "--node-ip-address", self._host]

    def _place(self) -> tuple[list[str], list[str]]:
        before, address = self._networks.add()
        return before, ["--node-ip-address", address]
