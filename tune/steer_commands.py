"""The commands that steer a running study: stop, pause, continue, pin. They ask its driver, which writes the journal.

Each waits until the driver has carried it out or says why not. Part of the command line beside `tune.__main__`; what a wish means is
`tune.core.steer`'s, how it travels `tune.adapters.inbox`'s.
"""

from __future__ import annotations

import getpass
import socket
import uuid
from pathlib import Path
from typing import Any

import click

from tune.core.errors import Problem, UserError

DIR = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
TRIAL = click.option("--trial", metavar="ID", required=True, help="A trial of the study, such as t0007.")
WAIT = click.option(
    "--wait", "wait_s", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="Seconds to wait for the driver."
)


@click.command()
@DIR
@click.option("--trial", metavar="ID", help="Stop this trial only, such as t0007; its checkpoint is kept.")
@WAIT
def stop(directory: Path, trial: str | None, wait_s: float) -> None:
    """Stop the running study in DIR in order, or one trial of it, at its next report.

    A stopped study goes on with `phasetune resume DIR`. A stopped trial is over: it counts as pruned, with what it has reported, and
    says that a person stopped it.

    \b
    phasetune stop studies/quickstart-1
    phasetune stop studies/quickstart-1 --trial t0007
    """
    from tune.core.steer import Stop

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
    from tune.core.steer import Hold

    _ask(directory, Hold(True), wait_s)


@click.command("continue")
@DIR
@WAIT
def continue_(directory: Path, wait_s: float) -> None:
    """Let the paused study in DIR go on; its trials do so from their checkpoints.

    \b
    phasetune continue studies/quickstart-1
    """
    from tune.core.steer import Hold

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
    from tune.core.steer import Pin

    _ask(directory, Pin(trial, not off), wait_s)


COMMANDS: tuple[click.Command, ...] = (stop, pause, continue_, pin)


def _ask(directory: Path, what: Any, wait_s: float) -> None:
    from tune.adapters.inbox import ask
    from tune.core.steer import Request

    if not (directory / "journal.jsonl").exists():
        raise UserError(Problem(str(directory), "no journal.jsonl there", "name a study directory, such as studies/quickstart-1"))
    request = Request(uuid.uuid4().hex, _who(), what)
    click.echo(ask(directory, request.id, request.to_json(), wait_s))


def _who() -> str:
    """user@host, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = "someone"
    return f"{user}@{socket.gethostname()}"
