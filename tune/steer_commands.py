"""The commands that steer a running study: stop, pause, continue, set, pin, clone, add. They ask its driver, which writes the journal.

Each waits until the driver has carried it out or says why not. Part of the command line beside `tune.__main__`; what a wish means is
`tune.core.steer`'s, how it travels `tune.adapters.inbox`'s.
"""

from __future__ import annotations

import getpass
import socket
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tune.core.errors import Problem, UserError

DIR = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
TRIAL = click.option("--trial", metavar="ID", required=True, help="A trial of the study, such as t0007.")
WAIT = click.option(
    "--wait", "wait_s", type=click.FloatRange(0.1, 86_400), default=75.0, show_default=True, help="Seconds to wait for the driver."
)


@click.command()
@DIR
@click.option("--trial", metavar="ID", help="Stop this trial only, such as t0007; what it has saved is kept.")
@WAIT
def stop(directory: Path, trial: str | None, wait_s: float) -> None:
    """Stop the running study in DIR in order, or one trial of it, at its next report.

    A stopped study goes on with `phasetune resume DIR`. A stopped trial is over: it counts as pruned, with what it has reported, and
    says that a person stopped it.

    \b
    phasetune stop studies/quickstart-1
    phasetune stop studies/quickstart-1 --trial t0007
    """
    from tune.core.steer_requests import Stop

    _ask(directory, Stop(trial), wait_s)


@click.command()
@DIR
@WAIT
def pause(directory: Path, wait_s: float) -> None:
    """Pause the running study in DIR: no trial starts; what runs leaves its slot at its next report that has a checkpoint.

    A kind of trial that keeps no checkpoint runs to its end, so that nothing is trained twice. The time of the pause counts for no
    budget. The driver stays, with its machines; to give those back, `phasetune stop DIR` and later `phasetune resume DIR`. A study
    that is stopped or killed while it is paused is still paused when it is resumed.

    \b
    phasetune pause studies/quickstart-1
    phasetune continue studies/quickstart-1
    """
    from tune.core.steer_requests import Hold

    _ask(directory, Hold(True), wait_s)


@click.command("continue")
@DIR
@WAIT
def continue_(directory: Path, wait_s: float) -> None:
    """Let the paused study in DIR go on; its trials do so from their checkpoints.

    \b
    phasetune continue studies/quickstart-1
    """
    from tune.core.steer_requests import Hold

    _ask(directory, Hold(False), wait_s)


@click.command()
@DIR
@TRIAL
@click.option("--off", is_flag=True, help="Let the scheduler judge it again.")
@WAIT
def pin(directory: Path, trial: str, off: bool, wait_s: float) -> None:
    """Pin a trial of the running study in DIR: the scheduler can neither stop nor pause it at a rung.

    If it is paused at a rung, it goes on. Its reports still count at the rungs for the others. Budgets, and `phasetune stop`, end it.

    \b
    phasetune pin studies/quickstart-1 --trial t0003
    phasetune pin studies/quickstart-1 --trial t0003 --off
    """
    from tune.core.steer_requests import Pin

    _ask(directory, Pin(trial, not off), wait_s)


@click.command("set")
@DIR
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials of the search that may begin.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), metavar="H", help="Wall hours of running.")
@click.option("--gpu-hours", type=click.FloatRange(min=0, min_open=True), metavar="H", help="GPU-hours of all trials together.")
@click.option("--usd", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Dollars of all trials together.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Trials at once, up to what there is room for.")
@WAIT
def set_(
    directory: Path,
    trials: int | None,
    hours: float | None,
    gpu_hours: float | None,
    usd: float | None,
    concurrency: int | None,
    wait_s: float,
) -> None:
    """Raise or lower the limits of the running study in DIR. Each counts from the study's beginning, as in its file.

    A limit of trials below what has begun lets those go on; one of time or money that is passed ends what runs at its next report.
    With a lower concurrency, slots close as their trials end.

    \b
    phasetune set studies/quickstart-1 --trials 40
    phasetune set studies/quickstart-1 --concurrency 2 --hours 1.5
    """
    from tune.core.steer_requests import SetLimits

    given = {"trials": trials, "wall_hours": hours, "gpu_hours": gpu_hours, "usd": usd, "concurrency": concurrency}
    _ask(directory, SetLimits({name: value for name, value in given.items() if value is not None}), wait_s)


@click.command()
@DIR
@click.option("--point", "first", multiple=True, metavar="KEY=VALUE", help="A value of the point; may be given again.")
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@WAIT
def add(directory: Path, first: tuple[str, ...], more: tuple[str, ...], wait_s: float) -> None:
    """Add a point to the running study in DIR, to be tried next. Keys that are left out are drawn by the sampler.

    It is a trial of the search like any other: the sampler learns from it, rungs judge it, and it counts for the budget of trials.

    \b
    phasetune add studies/quickstart-1 --point optim.lr=3e-4 batch=32
    """
    from tune.core.steer_requests import Add

    _ask(directory, Add(_values([*first, *more], "--point", "optim.lr=3e-4")), wait_s)


@click.command()
@DIR
@TRIAL
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a value of its point; may be given again.")
@click.option("--cold", is_flag=True, help="From the beginning, as a trial of the search, even where its checkpoint could be used.")
@WAIT
def clone(directory: Path, trial: str, sets: tuple[str, ...], cold: bool, wait_s: float) -> None:
    """Start a new trial of the running study in DIR with the values of another and changes.

    Where the kind of trial allows those changes and the other has a checkpoint (it runs, waits, or was stopped by `phasetune stop`),
    the clone goes on from a copy of it. It then had a head start, so it is reported beside the search: not told to the sampler, stopped
    by no rung, not counted for the budget of trials. Else it is a trial of the search from the beginning.

    \b
    phasetune clone studies/quickstart-1 --trial t0003 --set optim.lr=1e-4
    """
    from tune.core.steer_requests import Clone

    _ask(directory, Clone(trial, _values(sets, "--set", "optim.lr=1e-4"), cold), wait_s)


COMMANDS: tuple[click.Command, ...] = (stop, pause, continue_, set_, pin, clone, add)


def _values(texts: Sequence[str], flag: str, example: str) -> dict[str, Any]:
    from tune.overrides import parse_sets

    pairs, problems = parse_sets(texts, flag, example)
    twice = {key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])}
    problems += [Problem(f"{flag} {key}", "it is given twice", "keep one of the two") for key in sorted(twice)]
    if problems:
        raise UserError(problems)
    return dict(pairs)


def _ask(directory: Path, what: Any, wait_s: float) -> None:
    from tune.adapters.inbox import ask
    from tune.adapters.journal_file import read_lines
    from tune.core.journal import StudyEnded, decode
    from tune.core.steer_requests import Request

    last = deque(read_lines(directory / "journal.jsonl"), maxlen=1)
    event = decode(last[0], str(directory / "journal.jsonl")).event if last else None
    if isinstance(event, StudyEnded) and event.state == "done":
        fix = f"begin another study; `sampler: {{warm_start: [{directory}]}}` lets it learn from this one"
        raise UserError(Problem(str(directory), f"it is done ({event.why})", fix))
    request = Request(uuid.uuid4().hex, _who(), what)
    click.echo(ask(directory, request.id, request.to_json(), wait_s))


def _who() -> str:
    """user@host, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = "someone"
    return f"{user}@{socket.gethostname()}"
