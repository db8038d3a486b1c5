"""Network namespaces on this machine as machines of their own: each has an address and a link to the others that can be cut and healed.

Needs Linux, root and `ip`; `why_not` says so where they are missing. Everything has a name of this process and is gone at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import cache

_SUBNETS = range(64, 128)  # of 10.231.x.0/24


class Networks:
    """A bridge, whose address is the machines' that stay in this namespace, and namespaces behind it; a context manager."""

    def __init__(self) -> None:
        self._n, self._bridge, self._prefix = 0, "", ""

    def __enter__(self) -> Networks:
        for i in _SUBNETS:
            name = f"ptb{i}"
            if subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False).returncode == 0:
                self._bridge, self._prefix = name, f"10.231.{i}"
                break
        else:
            raise AssertionError("all bridges are taken")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for i in range(self._n):
            with contextlib.suppress(AssertionError):
                _ip("netns", "del", self._space(i))  # and with it both ends of its link
        _ip("link", "del", self._bridge)

    @property
    def address(self) -> str:
        return f"{self._prefix}.1"

    def add(self) -> tuple[list[str], str]:
        """A further namespace: the words before a command that is to run there, and its address."""
        i, self._n = self._n, self._n + 1
        address = f"{self._prefix}.{i + 2}"
        _ip("netns", "add", self._space(i))
        _ip("link", "add", self._link(i), "type", "veth", "peer", "name", "eth0", "netns", self._space(i))
        _ip("link", "set", self._link(i), "master", self._bridge, "up")
        _ip("-n", self._space(i), "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", self._space(i), "link", "set", "eth0", "up")
        _ip("-n", self._space(i), "link", "set", "lo", "up")
        return ["ip", "netns", "exec", self._space(i)], address

    def cut(self, i: int) -> None:
        """Nothing goes in or out of the namespace of this number, and nobody is told."""
        _ip("link", "set", self._link(i), "down")

    def heal(self, i: int) -> None:
        _ip("link", "set", self._link(i), "up")

    def _space(self, i: int) -> str:
        return f"{self._bridge}n{i}"

    def _link(self, i: int) -> str:
        return f"{self._bridge}v{i}"


@cache
def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if shutil.which("ip") is None:
        return "no `ip` command"
    try:
        with Networks() as networks:
            networks.add()
    except AssertionError as error:
        return f"network namespaces are not permitted ({error})"
    return ""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip() or os.strerror(done.returncode)}")
