"""What the trials of a study share at one provider: turns for jobs, and requests and tokens a minute. Light: `session` asks it.

A trial holds `<profile>:jobs` from before a job is made until it has ended; requests and tokens are asked for in small portions, and
only where the profile limits them, since every portion stands in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainables.openai_phases.profile import QueueSpec
from trainables.openai_phases.spec import OpenaiPhasesSpec
from tune.core.errors import Problem, UserError
from tune.core.permits import Permit

_PORTIONS_A_MINUTE = 10


def jobs_of(profile: str) -> str:
    return f"{profile}:jobs"


def requests_of(profile: str) -> str:
    return f"{profile}:requests"


def tokens_of(profile: str) -> str:
    return f"{profile}:tokens"


def permits(spec: OpenaiPhasesSpec) -> Mapping[str, Permit]:
    """The limits of a study's rules, by the names above."""
    queue, name = spec.profile.queue, spec.profile.name
    return {
        jobs_of(name): Permit(at_once=queue.concurrent_jobs, a_day=queue.jobs_per_day),
        requests_of(name): Permit(a_minute=queue.requests_per_minute),
        tokens_of(name): Permit(a_minute=queue.tokens_per_minute),
    }


def portion(queue: QueueSpec, tokens_each: float) -> int | None:
    """Requests to ask a turn for at once; None where nothing limits them."""
    if queue.requests_per_minute is None and queue.tokens_per_minute is None:
        return None
    most = [limit for limit in (queue.requests_per_minute,) if limit is not None]
    most += [int(limit / max(1.0, tokens_each)) for limit in (queue.tokens_per_minute,) if limit is not None]
    return max(1, min(most) // _PORTIONS_A_MINUTE)


def one_worker(spec: OpenaiPhasesSpec, workers: int) -> None:
    """Raises UserError for more: a hosted job has nothing to share among workers."""
    if workers > 1:
        raise UserError(Problem("cluster.workers_per_trial", f"{workers}, and a trial of openai_phases has one", "set it to 1"))
