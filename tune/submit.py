"""The command `submit`: from its options to what `cluster.submit` sends, and the job's words back to the terminal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune.core.errors import Problem, UserError
from tune.core.secrets import masked

if TYPE_CHECKING:
    from cluster.submit import Parcel, Wish

_INTERRUPTED = 3


@click.command()
@click.argument("study", type=click.Path(path_type=Path), required=False)
@click.option("--address", metavar="URL", required=True, help="The dashboard of the cluster's head, such as http://127.0.0.1:8265.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a value of the study; may be given again.")
@click.option(
    "--storage", metavar="DIR", help="Where study directories go, a folder that all nodes see; a cluster of several nodes needs it."
)
@click.option("--resume", metavar="DIR", help="Go on with the study in DIR, a folder as the nodes see it, instead of beginning one.")
@click.option("--follow", is_flag=True, help="Print what it prints until it ends, and end with its exit code; Ctrl-C leaves it running.")
@click.option(
    "--env", "env", multiple=True, metavar="NAME", help="Send this variable of yours to the job; may be given again. No others go."
)
@click.option("--tracking-uri", metavar="URI", help="MLflow server as the nodes see it; default: theirs, else SQLite in the storage.")
@click.option("--working-dir", type=click.Path(path_type=Path), default=Path(), help="The folder that is sent; default: this one.")
@click.option(
    "--requirements", type=click.Path(path_type=Path), metavar="FILE", help="Exact pins that nodes install on top of their image."
)
@click.option("--attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="Drivers that are started when nodes die.")
@click.option(
    "--entry-cpus", type=click.FloatRange(0, min_open=True), metavar="N", help="Let the driver hold N CPUs on any node, not the head."
)
@click.option(
    "--entry-resource", "entry_resources", multiple=True, metavar="NAME=N", help="Let the driver run on a node with this resource."
)
@click.option("--max-mb", type=click.FloatRange(0, min_open=True), help="Most megabytes that are sent.  [default: 64]")
@click.option("--any-versions", is_flag=True, help="Start even if the cluster has other versions than this machine.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and started; the cluster is not asked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of the output.")
def submit(address: str, follow: bool, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Send STUDY to the Ray cluster at --address: check it, pack this folder, start it as a job, print the job's id.

    Keys, data and links out of the folder are refused; what .gitignore and .rayignore name stays here. On the cluster a supervisor on the
    head keeps a driver at work: when its node dies, another one resumes the study.

    \b
    phasetune submit configs/studies/smoke.yaml --address http://127.0.0.1:8265 --storage /shared/studies --follow
    phasetune submit configs/studies/quickstart.yaml --address http://127.0.0.1:8265 --storage /shared/studies --dry-run
    phasetune submit --resume /shared/studies/quickstart-1 --address http://127.0.0.1:8265
    """
    from cluster.submit import check_storage, prepare, send

    wish = _wish(**given)
    parcel = prepare(wish)
    if dry_run:
        click.echo(parcel.shown())
        if wish.storage is None and given["resume"] is None:
            click.echo("note: no --storage; a cluster of several nodes refuses that, as they need a folder that all of them see", err=True)
        if as_json:
            click.echo(json.dumps(_summary(parcel, address, None)))
        return
    from cluster.jobs import reach, token_in_the_clear

    jobs = reach(address, wish.any_version)
    if token_in_the_clear(jobs.url):
        click.echo(f"note: your token goes to {jobs.url} in the clear; forward the port over ssh or kubectl, or use https", err=True)
    check_storage(wish.storage, given["resume"] is not None, sum(node.alive for node in jobs.nodes()))
    job = send(jobs, parcel)
    click.echo(f"{len(parcel.packed.files)} files, {parcel.packed.size_bytes:,} bytes sent to {jobs.url}", err=True)
    click.echo(f"follow it: ray job logs --address {jobs.url} --follow {job}   stop it: ray job stop --address {jobs.url} {job}", err=True)
    code = _follow(jobs, job, as_json) if follow else 0
    click.echo(json.dumps(_summary(parcel, jobs.url, code if follow else None)) if as_json else job)
    raise click.exceptions.Exit(code)


def _wish(
    study: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    resume: str | None,
    env: tuple[str, ...],
    tracking_uri: str | None,
    working_dir: Path,
    requirements: Path | None,
    attempts: int,
    entry_cpus: float | None,
    entry_resources: tuple[str, ...],
    max_mb: float | None,
    any_versions: bool,
) -> Wish:
    from cluster.submit import Wish

    root = working_dir.resolve()
    if resume is not None:
        name, words = _to_resume(study, sets, storage, resume)
    else:
        name, words = _to_run(study, sets, root)
    words += ["--address", "auto", "--json", *(["--tracking-uri", tracking_uri] if tracking_uri else [])]
    bound = None if max_mb is None else int(max_mb * 2**20)
    resources = dict(_resource(text) for text in entry_resources)
    return Wish(name, tuple(words), root, storage, env, attempts, entry_cpus, resources, requirements, bound, any_versions)


def _to_run(study: Path | None, sets: tuple[str, ...], root: Path) -> tuple[str, list[str]]:
    if study is None:
        raise UserError(Problem("submit", "no study", "name a study file, or a study to go on with: --resume DIR"))
    from tune.check import check
    from tune.load import load_study

    loaded = load_study(study, sets)
    for note in check(loaded):
        click.echo(f"note: {note}", err=True)
    if not study.resolve().is_relative_to(root):
        fix = "copy it there, or send the folder that it lies in with --working-dir"
        raise UserError(Problem(str(study), f"it is outside {root}, the folder that is sent", fix))
    inside = study.resolve().relative_to(root).as_posix()
    return loaded.spec.study.name, ["run", inside, *(word for text in sets for word in ("--set", text))]


def _to_resume(study: Path | None, sets: tuple[str, ...], storage: str | None, resume: str) -> tuple[str, list[str]]:
    dead = {"--set": bool(sets), "--storage": storage is not None}
    problems = [
        Problem(name, "given beside --resume", "leave it out: the study goes on as it began") for name, is_dead in dead.items() if is_dead
    ]
    name = re.sub(r"-\d+$", "", Path(resume).name)
    if study is not None:
        from tune.load import load_study

        asked = load_study(study).spec.study.name
        if asked != name:
            problems.append(Problem("--resume", f"{resume}, where {study} calls its study '{asked}'", f"name a folder {asked}-N"))
    if problems:
        raise UserError(problems)
    return name, ["resume", resume]


def _resource(text: str) -> tuple[str, float]:
    name, sign, amount = text.partition("=")
    try:
        if name and sign and float(amount) > 0:
            return name, float(amount)
    except ValueError:
        pass
    raise UserError(Problem("--entry-resource", f"'{text}'", "write NAME=AMOUNT, such as safe_node=0.01"))


def _follow(jobs: Any, job: str, quiet: bool) -> int:
    def say(text: str) -> None:
        click.echo(text, nl=False, err=quiet)
        sys.stdout.flush()

    try:
        state = jobs.hear(job, say)
    except KeyboardInterrupt:
        click.echo(f"\nleft it running: {job}", err=True)
        return _INTERRUPTED
    except OSError as error:
        fix = "look at the head; a study that was begun goes on with: phasetune submit --resume DIR"
        raise UserError(Problem(job, str(error), fix)) from None
    if state.exit_code is None and state.status != "SUCCEEDED":
        click.echo(f"{job}: {state.status.lower()}: {state.message}", err=True)
    return state.exit_code if state.exit_code is not None else {"SUCCEEDED": 0, "STOPPED": _INTERRUPTED}.get(state.status, 1)


def _summary(parcel: Parcel, address: str, code: int | None) -> dict[str, Any]:
    files = list(parcel.packed.files)
    return {
        "job": parcel.job,
        "address": masked(address),
        "entrypoint": parcel.entrypoint,
        "files": files,
        "bytes": parcel.packed.size_bytes,
        "env": list(parcel.environment),
        "exit_code": code,
    }
