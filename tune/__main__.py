"""The command line: `phasetune` and `python -m tune`. Commands parse and print; `tune.session` wires and runs.

Exit codes: 0 done, 1 the study failed, 2 a user's mistake (nothing was started), 3 interrupted and resumable. Nothing heavy is
imported before a command needs it: `check` and `--help` load neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tune import __version__
from tune.core.errors import Problem, StopStudy, UserError
from tune.exporting.commands import COMMANDS as EXPORTING
from tune.steer_commands import COMMANDS
from tune.submit import submit

STUDY = click.argument("study", type=click.Path(path_type=Path))
STUDY_DIR = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
SET = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a value of the study; may be given again.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of the output.")
_STATUS_LINES = 60  # more than a screen; a study may have thousands of trials


class Program(click.Group):
    """Turns the errors that Phasetune raises on purpose into a message and an exit code; anything else is a bug of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            n = len(error.problems)
            click.echo(f"{n} problem{'s' if n > 1 else ''}; nothing was started\n{error}", err=True)
            ctx.exit(2)
        except StopStudy as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:  # before or after a session, which hears Ctrl-C itself
            click.echo("interrupted", err=True)
            ctx.exit(3)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="phasetune")
def cli() -> None:
    """Search over fine-tuning trials: CNN baselines, PEFT of multimodal LLMs, hosted models; on one machine or a Ray cluster.

    \b
    phasetune check configs/studies/quickstart.yaml --print
    phasetune run configs/studies/quickstart.yaml --set trainable.data.source=~/pictures
    phasetune resume studies/quickstart-1
    phasetune status studies/quickstart-1
    """


@cli.command()
@STUDY
@SET
@click.option("--print", "print_", is_flag=True, help="Print the resolved study with the origin of each value.")
def check(study: Path, sets: tuple[str, ...], print_: bool) -> None:
    """Validate STUDY without starting anything.

    All mistakes are reported at once, each with its place, what was got and the fix; exit code 2 if there are any.

    \b
    phasetune check configs/studies/quickstart.yaml
    phasetune check configs/studies/quickstart.yaml --set budget.trials=4 --print
    """
    from tune.adapters.past_studies import read_warm_start
    from tune.check import check as check_study
    from tune.check import resolved_text
    from tune.load import load_study

    loaded = load_study(study, sets)
    warm = read_warm_start(loaded.spec)
    if print_:
        click.echo(resolved_text(loaded))
    if warm is not None:
        click.echo(f"warm start from {warm.source}", err=True)
    for note in check_study(loaded):
        click.echo(f"note: {note}", err=True)
    click.echo(f"{study} is sound", err=True)


@cli.command()
@STUDY
@SET
@JSON
@click.option("--address", metavar="ADDR", help="Ask this Ray cluster what it has, instead of this machine.")
def plan(study: Path, sets: tuple[str, ...], as_json: bool, address: str | None) -> None:
    """What running STUDY would do: trials, rungs, concurrency and why, memory, cost, what is missing.

    \b
    phasetune plan configs/studies/quickstart.yaml
    """
    from tune.load import load_study
    from tune.places import cannot_grow, look_at_nodes
    from tune.plan import plan as plan_study
    from tune.plan import plan_text

    loaded = load_study(study, sets)
    here = (address or loaded.spec.cluster.address) == "local"
    planned = plan_study(loaded, look_at_nodes(loaded.spec, address), known=cannot_grow(loaded.spec) if here else ())
    click.echo(plan_text(planned))
    if as_json:
        click.echo(json.dumps(planned))


@cli.command()
@STUDY
@SET
@JSON
@click.option("--storage", type=click.Path(path_type=Path), default=Path("studies"), show_default=True, help="Where study directories go.")
@click.option("--address", metavar="ADDR", help="A Ray cluster (host:port, or 'auto' inside a Ray job); default: this machine alone.")
@click.option("--tracking-uri", metavar="URI", help="MLflow server; default: $MLFLOW_TRACKING_URI, else SQLite in the storage.")
@click.option("--foreground", is_flag=True, help="Run trials one by one in this process, without Ray, so that a breakpoint works.")
def run(
    study: Path, sets: tuple[str, ...], as_json: bool, storage: Path, address: str | None, tracking_uri: str | None, foreground: bool
) -> None:
    """Run STUDY. Ctrl-C stops it cleanly and prints the command that goes on with it.

    \b
    phasetune run configs/studies/quickstart.yaml
    phasetune run configs/studies/quickstart.yaml --set trainable.data.source=~/pictures --set budget.trials=8
    phasetune run configs/studies/smoke.yaml --foreground
    """
    from tune.load import load_study

    loaded = load_study(study, sets)
    from tune import session

    options = session.Options(storage, address, tracking_uri, foreground, _command())
    _end(session.start(loaded, options), as_json)


@cli.command()
@STUDY_DIR
@JSON
@click.option("--address", metavar="ADDR", help="A Ray cluster; default: as in the study file.")
@click.option("--tracking-uri", metavar="URI", help="MLflow server; default: $MLFLOW_TRACKING_URI, else SQLite in the storage.")
@click.option("--foreground", is_flag=True, help="Run trials one by one in this process, without Ray.")
def resume(directory: Path, as_json: bool, address: str | None, tracking_uri: str | None, foreground: bool) -> None:
    """Go on with the stopped or killed study in DIR, exactly where it was.

    Trials that ended are not run again; one that was cut off goes on from its checkpoint.

    \b
    phasetune resume studies/quickstart-1
    """
    from tune import session

    options = session.Options(directory.parent, address, tracking_uri, foreground, _command())
    _end(session.resume(directory, options), as_json)


@cli.command()
@STUDY
@click.option("--table", required=True, type=click.Path(path_type=Path), metavar="TABLE.csv", help="Past results that answer for trials.")
@click.option("--by-trial", is_flag=True, help="The n-th trial gets the n-th result of the table, whatever its point.")
@click.option("--workers", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Slots of the virtual clock.")
@click.option("--storage", type=click.Path(path_type=Path), help="Keep the journal in a study directory here; default: in memory only.")
@SET
@JSON
def simulate(study: Path, table: Path, by_trial: bool, workers: int, storage: Path | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Search STUDY on a table of past results with a virtual clock: the same sampler, scheduler and journal as `run`, no training.

    TABLE.csv has a column for each dotted key of the space, the objective under its metric's name, and if known `step` (0-based),
    `seconds` and `usd` of a row. A point gets its own row, else the nearest. Prints a JSON line a trial, then the summary object.

    \b
    phasetune simulate study.yaml --table results.csv --workers 4
    phasetune simulate study.yaml --table published.csv --by-trial
    """
    from tune.load import load_study

    loaded = load_study(study, sets)
    from tune import simulate as simulation

    found = simulation.simulate(loaded, table, by_trial=by_trial, workers=workers, storage=storage)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for line in found.trials:
        click.echo(json.dumps(line))
    if not as_json:
        click.echo(found.text, err=True)
    click.echo(json.dumps(found.summary))


@cli.command()
@STUDY_DIR
@click.option("--all", "show_all", is_flag=True, help="A line for every trial; default: what runs, the best, and the latest, 60 in all.")
@click.option("--watch", "-w", is_flag=True, help="Keep up with it until it is done or failed; Ctrl-C leaves it running.")
@click.option(
    "--serve",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="A page for the users of this machine (127.0.0.1) that keeps up; 0: a free port.",
)
@JSON
def status(directory: Path, show_all: bool, watch: bool, serve: int | None, as_json: bool) -> None:
    """How the study in DIR stands, read from its journal; it may be running, on any machine.

    \b
    phasetune status studies/quickstart-1
    phasetune status studies/quickstart-1 --watch
    phasetune status studies/quickstart-1 --serve 8280     # http://127.0.0.1:8280, and /status.json for scripts
    """
    given = [name for name, is_given in (("--watch", watch), ("--serve", serve is not None), ("--json", as_json)) if is_given]
    if len(given) > 1:
        raise UserError(Problem(" and ".join(given), "more than one way to look", "give one of them; --serve has /status.json"))
    from tune.status import Observer
    from tune.watch import StatusServer
    from tune.watch import watch as keep_up

    see, most = Observer(directory).see, None if show_all else _STATUS_LINES
    if watch or serve is not None:
        with contextlib.suppress(KeyboardInterrupt):
            if serve is None:
                keep_up(see, most, click.echo)
            else:
                with StatusServer(see, serve, most) as server:
                    port = server.server_port
                    click.echo(
                        f"{server.url}  (all users of this machine can read it; from another one: ssh -L {port}:127.0.0.1:{port} HOST)"
                    )
                    click.echo("Ctrl-C ends it; the study does not need it", err=True)
                    server.serve_forever()
        return
    seen = see(most)
    click.echo(seen.text)
    if as_json:
        click.echo(json.dumps(seen.summary))


@cli.command()
@STUDY_DIR
@click.option("--trial", metavar="ID", required=True, help="A trial of the study, such as t0007.")
@click.option("--follow", "-f", is_flag=True, help="Go on as it prints, until the trial ends.")
@click.option("--rank", type=click.IntRange(min=0), metavar="R", help="This worker only; default: all, each line with its rank.")
@click.option("--lines", "-n", type=click.IntRange(min=1), metavar="N", help="Only the last N lines of each worker.")
def logs(directory: Path, trial: str, follow: bool, rank: int | None, lines: int | None) -> None:
    """What the workers of a trial of the study in DIR print: their output and their libraries', of all attempts.

    Of a chatty trial the last 32 MiB of each worker are kept, in trials/ID/worker-RANK.log and .1, .2, .3 beside it.

    \b
    phasetune logs studies/quickstart-1 --trial t0003
    phasetune logs studies/quickstart-1 --trial t0003 -f --rank 0
    """
    from tune.status import trial_output

    for line in trial_output(directory, trial, follow, rank, lines):
        click.echo(line)


@cli.command()
@STUDY_DIR
def report(directory: Path) -> None:
    """Write DIR/report/report.html, one page that works offline, and report.md: what the study in DIR found, how, at what cost.

    \b
    phasetune report studies/quickstart-1
    """
    from tune.report.command import write_report

    written, document = write_report(directory)
    click.echo(f"{document.title}: {document.headline}\n{written.html}\n{written.markdown}")


@cli.command()
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", metavar="NAME", help="Compare on this metric; default: the objective that all studies share.")
@click.option("--published", metavar="FILE", type=click.Path(path_type=Path), help="YAML with a paper's numbers, to stand beside ours.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Write compare.md and compare.html there too.")
@JSON
def compare(directories: tuple[Path, ...], metric: str | None, published: Path | None, out: Path | None, as_json: bool) -> None:
    """Put the studies in DIR... side by side: best with interval, cost, time, and a test of the winner against the runner-up.

    \b
    phasetune compare studies/quickstart-1 studies/quickstart-2
    phasetune compare studies/resnet50_400-1 --metric test/accuracy --published configs/papers/roumeliotis2025/published.yaml
    """
    from tune.report.command import compare_studies, write
    from tune.report.markdown import markdown

    comparison, document = compare_studies(directories, metric, published)
    text = markdown(document, None)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        click.echo(text)
    if out is not None:
        written = write(document, out, "compare")
        click.echo(f"{written.html}\n{written.markdown}")
    if as_json:
        click.echo(json.dumps(comparison.to_json()))


def _end(finished: Any, as_json: bool) -> None:
    click.echo(finished.text, err=as_json)
    if as_json:
        click.echo(json.dumps(finished.summary))
    sys.stdout.flush()
    raise click.exceptions.Exit(finished.exit_code)


def _command() -> str:
    """How this program was called, for the commands that it prints."""
    if Path(sys.argv[0]).name != "__main__.py":
        return "phasetune" if _on_path("phasetune") else sys.argv[0]
    python = Path(sys.executable)
    try:
        shown = str(python.relative_to(Path.cwd()))
    except ValueError:
        shown = "python" if _on_path("python") else str(python)
    return f"{shown} -m tune"


def _on_path(name: str) -> bool:
    import shutil

    found = shutil.which(name)
    return found is not None and os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable))


for steering in COMMANDS:
    cli.add_command(steering)
for exporting in EXPORTING:
    cli.add_command(exporting)
cli.add_command(submit)
main: Callable[..., Any] = cli

if __name__ == "__main__":
    main(prog_name="phasetune")
