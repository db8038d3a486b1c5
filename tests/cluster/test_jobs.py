"""Hearing a job to its end through Ray's client, which loses its connection and whose dashboard goes away for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.jobs import Jobs, UnknownJob

pytestmark = pytest.mark.slow


class Client:
    """Ray's client: `tails` are what each connection brings before it breaks, `states` what each look finds; an error is raised."""

    def __init__(self, tails: list[list[str]], states: list[Any]):
        self._tails, self._states = tails, states

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        if not self._tails:
            return
        for chunk in self._tails.pop(0):
            yield chunk
        raise RuntimeError("connection closed")

    def get_job_info(self, job_id: str) -> Any:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, Exception):
            raise state
        return state


def info(status: str, code: int | None = None) -> Any:
    return SimpleNamespace(status=SimpleNamespace(value=status), driver_exit_code=code, error_type=None, message="", driver_node_id="n1")


def heard(client: Client, gone_after_s: float = 120.0) -> tuple[str, Any]:
    said: list[str] = []
    state = Jobs("http://127.0.0.1:1", client, look_every_s=0.02, gone_after_s=gone_after_s).hear("job", said.append)
    return "".join(said), state


def test_what_was_said_before_a_broken_connection_is_not_said_again() -> None:
    tails = [["one\n", "two\n"], ["one\ntw"], ["one\ntwo\nthree\n"]]
    text, state = heard(Client(tails, [info("RUNNING")] * 12 + [info("SUCCEEDED", 0)]))
    assert text == "one\ntwo\nthree\n" and state.ended and state.exit_code == 0


def test_a_dashboard_that_is_away_for_a_moment_is_waited_for() -> None:
    states = [info("RUNNING"), ConnectionError("refused"), RuntimeError("502"), info("FAILED", 2)]
    text, state = heard(Client([["one\n"]], states))
    assert text == "one\n" and (state.status, state.exit_code, state.node) == ("FAILED", 2, "n1")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (RuntimeError("Request failed with status code 404: Job job does not exist."), UnknownJob, "knows no job job"),
        (RuntimeError("Request failed with status code 502: bad gateway."), OSError, "does not answer any more"),
        (ConnectionError("refused"), OSError, "does not answer any more: refused"),
    ],
)
def test_a_silence_that_lasts_is_told_from_a_server_that_has_no_such_job(answer: Exception, kind: type[OSError], said: str) -> None:
    with pytest.raises(OSError, match=said) as caught:
        heard(Client([], [answer]), gone_after_s=0.05)
    assert type(caught.value) is kind
