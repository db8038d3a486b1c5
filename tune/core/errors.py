"""The errors of Phasetune, named by what their catcher does.

UserError   -> print every problem, exit 2, nothing was started
StopStudy   -> end the study as failed, exit 1
FailTrial   -> end this trial as failed under its reason; other trials go on
RetryTrial  -> run this trial again from its checkpoint, up to the study's limit

A user's mistake is a `Problem`: where it is, what was got, how to mend it. All problems of a file are raised together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One mistake. `where` is `file:line: dotted.key` or the nearest thing to it; `fix` is an imperative sentence."""

    where: str
    got: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}\n    got: {self.got}\n    fix: {self.fix}"


class PhasetuneError(Exception):
    """Base of all errors that Phasetune raises on purpose."""


class UserError(PhasetuneError):
    """A mistake in a study, a data set or a command line. Nothing has been started.

    facts: what a look at data and weights found besides the problems, for `plan` to tell.
    """

    def __init__(self, problems: Problem | Iterable[Problem], facts: Mapping[str, Any] | None = None):
        self.facts = facts
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "a UserError needs at least one problem"
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class StopStudy(PhasetuneError):
    """The study cannot go on (storage is full or read-only, the cluster is gone). What is in the journal stays resumable."""

    def __init__(self, reason: str, detail: str, fix: str):
        self.reason, self.detail, self.fix = reason, detail, fix
        super().__init__(f"{reason}: {detail}\n    fix: {fix}")

    def __reduce__(self) -> tuple[type[StopStudy], tuple[str, str, str]]:
        return type(self), (self.reason, self.detail, self.fix)  # so that it crosses process borders


class FailTrial(PhasetuneError):
    """This trial failed for a reason that running it again would repeat. `reason` is a short snake_case name."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[FailTrial], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class RetryTrial(PhasetuneError):
    """This trial was hit by something that may pass (a lost worker, out of memory beside another process)."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[RetryTrial], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known word, or the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
