"""What a person sees while a study runs: a live table in a terminal, plain lines otherwise. A fold over the journal's entries.

It reads the same `StudyFold` that the search writes, from the same thread, and draws at most a few times a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from tune.core.fold import StudyFold
from tune.core.journal import (
    BUDGET,
    ENDED_STATES,
    MOVED,
    NO_WORKERS,
    Ended,
    Entry,
    GroupNoted,
    Noted,
    Promoted,
    Reported,
    Retried,
    SessionStarted,
    Started,
    StopAsked,
    Waiting,
)
from tune.core.rules import Rules
from tune.core.steer_events import SteerEvent, words
from tune.core.trial_view import TrialView
from tune.summary import clock, point_text

_BARS = "▁▂▃▄▅▆▇█"
_DRAW_EVERY_S = 0.25


class View(Protocol):
    def on_entry(self, entry: Entry) -> None: ...

    def tick(self) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


def open_view(fold: StudyFold, rules: Rules, stream: TextIO | None = None) -> View:
    """A live view if the stream is a terminal, else one line an event that matters."""
    stream = stream or sys.stderr
    return LiveView(fold, rules) if stream.isatty() else PlainView(fold, rules, stream)


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """The last `width` values as bars, scaled to their own range."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = high - low
    return "".join(_BARS[3 if span == 0 else round((v - low) / span * (len(_BARS) - 1))] for v in shown)


def remaining_text(fold: StudyFold, rules: Rules, elapsed_s: float) -> str:
    """What is left until the first limit: trials, and time as a guess from the pace so far. `elapsed_s`: active seconds by now."""
    ended, rules = fold.n_ended, rules.steered(fold.limits)
    parts = [f"{clock(elapsed_s)} gone"]
    if rules.trials is not None and ended:
        left_s = elapsed_s / ended * max(0, rules.trials - ended)
        if rules.budget.wall_s is not None:
            left_s = min(left_s, max(0.0, rules.budget.wall_s - elapsed_s))
        parts.append(f"about {clock(left_s)} left")
    elif rules.budget.wall_s is not None:
        parts.append(f"at most {clock(max(0.0, rules.budget.wall_s - elapsed_s))} left")
    if fold.gpu_seconds:
        parts.append(f"{fold.gpu_seconds / 3600:.2f} GPU-hours")
    if fold.usd:
        parts.append(f"${fold.usd:.2f}")
    return ", ".join(parts)


def _earlier(view: TrialView, metric: str) -> str:
    """Of a trial whose value is not that of its last step: of which one it is. Its weights are that step's."""
    steps = [step for step, metrics in view.curve if metrics.get(metric) == view.values[0]]
    return f" (its step {steps[-1]})" if steps and steps[-1] != view.curve[-1][0] else ""


class PlainView:
    """One line for each thing that matters, for logs and pipes."""

    def __init__(self, fold: StudyFold, rules: Rules, stream: TextIO):
        self._fold, self._rules, self._stream = fold, rules, stream

    def on_entry(self, entry: Entry) -> None:
        text = self.text(entry)
        if text:
            self.say(f"[{clock(self._fold.active_seconds):>11}] {text}")

    def say(self, text: str) -> None:
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except OSError:  # the reader of our output is gone; the study goes on
            self._stream = open(os.devnull, "w")  # noqa: SIM115 - it stays open for as long as the program

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass

    def text(self, entry: Entry) -> str:
        """One line about an entry, or nothing if it does not matter to a person."""
        fold, metric = self._fold, self._rules.metric
        match entry.event:
            case SessionStarted(session, slots, placement):
                return f"session {session}: {slots} trial(s) at a time; {placement}"
            case Started(trial, attempt, slot, after):
                view = fold.trials[trial]
                again = f", attempt {attempt}" if attempt > 1 else ""
                where = f", from its checkpoint after step {after}" if after is not None else ""
                return f"{trial} started on slot {slot}{again}{where}  {point_text(view.point)}"
            case Reported(trial, step, metrics, stop, pause):
                value = metrics.get(metric)
                said = f"  {metric} {value:.4f}" if value is not None else ""
                return f"{trial} step {step}{said}" + (f"  stopped: {stop}" if stop else "") + (f"  paused {pause}" if pause else "")
            case Promoted(trial, rung):
                return f"{trial} goes on: it is among the best at the rung after step {rung}"
            case Retried(trial, _, reason, detail) if reason == NO_WORKERS:
                return f"{trial} may go to another worker group: its own has {detail}"
            case Retried(trial, attempt, reason, detail) if reason in MOVED:
                return f"{trial} left its workers after attempt {attempt}; it will go on with others from its checkpoint. {detail}"
            case Retried(trial, attempt, reason, detail):
                return f"{trial} attempt {attempt} was lost ({reason}); it will go on from its checkpoint. {detail}"
            case Ended(trial, state, _, _, _, reason, detail):
                value = entry.event.value
                best, ended = fold.best, fold.n_ended - fold.n_infeasible
                trials = self._rules.steered(fold.limits).trials
                total = f"/{trials}" if trials else ""
                said = f"{value:.4f}{_earlier(fold.trials[trial], metric)}" if value is not None else f"{reason}: {detail}"
                best_text = (
                    f"best {best.trial} {best.value:.4f}"
                    if best
                    else ("no trial within the limits yet" if fold.count("complete") else "no complete trial yet")
                )
                said += f" (stopped by budget: {detail})" if reason == BUDGET and value is not None else ""
                return f"{trial} {state} {said}  [{ended}{total} trials, {best_text}]"
            case GroupNoted(slot, "preempted", detail):
                return f"worker group {slot} leaves its node, a trial on it at its next report: {detail}"
            case GroupNoted(slot, "resized", detail):
                return f"worker group {slot} gets more workers, a trial on it at its next report: {detail}"
            case GroupNoted(slot, "asked", detail):
                return f"room for worker group {slot} is asked for: {detail}"
            case GroupNoted(slot, what, detail, seconds):
                return f"worker group {slot} {what}" + (f" in {seconds:.1f} s" if seconds else "") + (f": {detail}" if detail else "")
            case Noted(about, data):
                warnings = data.get("warnings", [])
                return f"{about}: " + "; ".join(map(str, warnings)) if warnings else ""
            case Waiting(trial, what, _, why) if what:
                return f"{trial} waits for {what}: {why}"
            case StopAsked(trial, who):
                return f"{who} asked {trial or 'the study'} to stop; waiting for the next report of what runs"
            case event if isinstance(event, SteerEvent):
                return words(event)
            case _:
                return ""


class LiveView:
    """A table of running trials with their curves, the best so far, a progress bar, time and cost left."""

    def __init__(self, fold: StudyFold, rules: Rules):
        from rich.console import Console
        from rich.live import Live

        self._fold, self._rules = fold, rules
        self._news: list[str] = []
        self._plain = PlainView(fold, rules, sys.stderr)
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        self._drawn_at = 0.0

    def on_entry(self, entry: Entry) -> None:
        if isinstance(entry.event, (Ended, Retried, GroupNoted, StopAsked, SessionStarted, Noted, SteerEvent)):
            text = self._plain.text(entry)
            if text:
                self._news = [*self._news[-5:], text]
        self.tick()

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._drawn_at >= _DRAW_EVERY_S:
            self._drawn_at = now
            self._live.update(self._picture(), refresh=True)

    def say(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        fold, rules = self._fold, self._rules.steered(self._fold.limits)
        counts = {state: fold.count(state) for state in ENDED_STATES}
        ended = fold.n_ended
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=2)
        head.add_column(ratio=3, justify="right")
        head.add_row(
            ProgressBar(total=rules.trials or max(ended, 1), completed=ended),
            f"{ended}{f'/{rules.trials}' if rules.trials else ''} trials: {counts['complete']} complete, {counts['pruned']} pruned, "
            f"{counts['failed']} failed" + (f", {len(fold.paused)} paused at a rung" if fold.paused else ""),
        )
        table = Table(expand=True, box=None, header_style="bold")
        for column, width in (("trial", 9), ("step", 5), (rules.metric, max(10, len(rules.metric))), ("curve", 12)):
            table.add_column(column, no_wrap=True, width=width)
        table.add_column("point", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in list(fold.running):
            table.add_row(*self._row(fold.trials[name]))
        best = fold.best
        best_line = (
            Text(f"best {best.trial}  {rules.metric} {best.value:.4f}  {point_text(best.point)}", style="bold green")
            if best
            else Text("no complete trial yet", style="dim")
        )
        elapsed_s = fold.active_seconds + (0.0 if fold.idle else max(0.0, time.time() - fold.last_t))
        paused = f"paused by {fold.held_by}, " if fold.held_by else ""
        foot = Text(paused + remaining_text(fold, rules, elapsed_s), style="dim")
        news = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._news]
        title = fold.started.study if fold.started else ""
        return Panel(Group(head, table, best_line, foot, *news), title=f"study {title}", title_align="left")

    def _row(self, trial: TrialView) -> tuple[str, ...]:
        values = [metrics[self._rules.metric] for _, metrics in trial.curve if self._rules.metric in metrics]
        step = "" if trial.last_step is None else str(trial.last_step)
        last = f"{values[-1]:.4f}" if values else ("starting" if trial.state == "running" else trial.state)
        tail = f"waits {trial.waiting}" if trial.waiting else ("pinned  " if trial.pinned else "") + (point_text(trial.point) or trial.role)
        return trial.trial, step, last, sparkline(values), tail
