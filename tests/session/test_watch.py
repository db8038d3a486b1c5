"""`status --watch` and `--serve` keep up with a journal that grows, show what `status` shows, and end when they should."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.report.made_study import Recorder, started, write
from tests.session.driver import ROOT, program
from tune import watch as watching
from tune.__main__ import cli
from tune.adapters.journal_file import JournalTail, read_entries
from tune.core.errors import UserError
from tune.core.journal import Ended, Entry, Reported, SessionStarted, Started, StudyEnded, Suggested, encode
from tune.status import Observer


def events(scores: Sequence[float] = (0.25, 0.75), n_keys: int = 1) -> list[Entry]:
    log = Recorder()
    point = {f"key{k}": 0.1 for k in range(n_keys)}
    log.at(0.0, started("s"))
    log.at(0.0, SessionStarted(1, 1, "here"))
    for i, score in enumerate(scores):
        trial = f"t{i:04d}"
        log.at(1.0, Suggested(trial, i, "search", point))
        log.at(1.0, Started(trial, 1, 0))
        log.at(2.0, Reported(trial, 0, {"val/f1_weighted": score}))
        log.at(2.0, Ended(trial, "complete", (score,)))
    log.at(3.0, StudyEnded("done", "all trials are done"))
    return log.entries


def grow(study_dir: Path, entries: Sequence[Entry]) -> None:
    with (study_dir / "journal.jsonl").open("a") as file:
        file.writelines(encode(entry) + "\n" for entry in entries)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_LOOK_EVERY_S", 0.02)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_a_tail_gives_each_event_once_wherever_the_writing_of_it_was_cut(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    study_dir = write(tmp_path_factory.mktemp("s") / "s-1", events(), files=False)
    path = study_dir / "journal.jsonl"
    data, whole = path.read_bytes(), list(read_entries(study_dir))
    tail, seen = JournalTail(study_dir), list[Entry]()
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        path.write_bytes(data[:cut])
        seen += tail.new()
    assert seen == whole and list(tail.new()) == []


def test_a_line_that_is_finished_while_it_is_read_is_no_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_dir = write(tmp_path / "s-1", events(), files=False)
    data = (study_dir / "journal.jsonl").read_bytes()

    class Torn(io.BytesIO):
        """At its end half a line; the other half comes at the next read."""

        def __iter__(self) -> Iterator[bytes]:
            yield from io.BytesIO(data[:-9])
            yield data[-9:]

    with monkeypatch.context() as torn:
        torn.setattr("builtins.open", lambda *_: Torn())
        tail = JournalTail(study_dir)
        seen = list(tail.new())
    assert len(seen) == len(events()) - 1 and [entry.seq for entry in tail.new()] == [len(seen)]


@pytest.mark.parametrize("shorter", [True, False])
def test_a_study_that_was_made_anew_in_the_same_folder_is_read_from_its_beginning(shorter: bool, tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events([0.1, 0.2, 0.3]), files=False)
    observer = Observer(study_dir)
    assert "t0002" in observer.see().text
    again = events([0.4]) if shorter else events([0.4, 0.5, 0.6, 0.7])
    (study_dir / "journal.jsonl").rename(study_dir / "old")
    grow(study_dir, again)
    shown = observer.see().text
    assert "0.4000" in shown and "0.1000" not in shown and ("t0003" in shown) == (not shorter)


def test_damage_is_told_at_every_look_and_forgotten_when_it_is_mended(tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events(), files=False)
    path, observer = study_dir / "journal.jsonl", Observer(study_dir)
    data = path.read_bytes()
    path.write_bytes(data[:-40] + b"\0" * 39 + b"\n")
    for _ in range(2):
        with pytest.raises(UserError, match="a damaged line"):
            observer.see()
    path.write_bytes(data)
    assert "Study s: done" in observer.see().text


class Script:
    """Says nothing, and does the next thing after each table; more tables than things are too many."""

    def __init__(self, *steps: Callable[[], object]):
        self.shown, self._steps = list[str](), list(steps)

    def __call__(self, text: str) -> None:
        self.shown.append(text)
        if self._steps:
            self._steps.pop(0)()
        assert len(self.shown) < 20, self.shown


def test_without_a_terminal_each_news_is_a_table_of_its_own_until_the_study_is_done(tmp_path: Path, quick: None) -> None:
    entries = events()
    study_dir = write(tmp_path / "s-1", entries[:4], files=False)
    script = Script(*(partial(grow, study_dir, some) for some in ([entries[4]], entries[5:8], entries[8:])))
    watching.watch(Observer(study_dir).see, 60, script, Console(file=io.StringIO()))
    shown = script.shown
    assert len(shown) == 4
    assert "0.2500" not in shown[0] and "0.2500" in shown[1] and "t0001" not in shown[1] and "t0001" in shown[2]
    assert shown[-1].strip() == Observer(study_dir).see(60).text.strip() and "Study s: done" in shown[-1]


def test_it_goes_on_after_an_interruption_a_kill_and_a_moment_without_storage(tmp_path: Path, quick: None) -> None:
    log = Recorder()
    log.at(0.0, started("s"))
    log.at(0.0, SessionStarted(1, 1, "here"))
    study_dir = write(tmp_path / "s-1", log.entries, files=False)
    path, driver = study_dir / "journal.jsonl", FileLock(str(study_dir / ".journal.lock"))
    driver.acquire()
    rest = [StudyEnded("interrupted", "asked"), SessionStarted(2, 1, "here"), StudyEnded("done", "all trials are done")]
    stops, resumes, ends = ([Entry(2 + i, 1.0, event)] for i, event in enumerate(rest))
    script = Script(
        driver.release,
        partial(grow, study_dir, stops),
        partial(path.rename, tmp_path / "away"),
        lambda: ((tmp_path / "away").rename(path), grow(study_dir, resumes)),
        partial(grow, study_dir, ends),
    )
    watching.watch(Observer(study_dir).see, 60, script, Console(file=io.StringIO()))
    wanted = ["Study s: running", "Study s: open", "Study s: interrupted", "no journal.jsonl there", "Study s: open", "Study s: done"]
    assert [next(words for words in wanted if words in shown) for shown in script.shown] == wanted


@pytest.mark.parametrize(("height", "n_keys"), [(23, 1), (23, 12), (11, 12), (7, 2), (1, 1)])
def test_what_a_terminal_shows_fits_and_has_the_latest_trials(height: int, n_keys: int, tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events([i / 100 for i in range(40)], n_keys)[:-1], files=False)
    text, _ = watching._fitting(Observer(study_dir).see, None, height)
    lines = text.splitlines()
    assert len(lines) <= height and lines[0].startswith("Study s: ")
    assert height < 7 or ("t0039" in text and "t0005" not in text)
    assert height < 23 or len(lines) == height or n_keys == 1


def test_a_terminal_is_drawn_in_place_and_left_with_the_whole(tmp_path: Path, quick: None) -> None:
    entries = events([i / 100 for i in range(40)])
    study_dir = write(tmp_path / "s-1", entries[:-1], files=False)
    screen, script, observer = io.StringIO(), Script(), Observer(study_dir)
    looks: list[int | None] = []

    def look(most: int | None) -> watching.Seen:
        looks.append(most)
        if len(looks) == 8:
            grow(study_dir, entries[-1:])
        assert len(looks) < 40
        return observer.see(most)

    watching.watch(look, None, script, Console(file=screen, force_terminal=True, width=70, height=24))
    assert "t0039" in screen.getvalue() and "t0005" not in screen.getvalue()
    assert script.shown == [Observer(study_dir).see().text] and "t0005" in script.shown[0]


def test_the_program_watches_a_study_that_is_over_once(tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events(), files=False)
    result = CliRunner().invoke(cli, ["status", str(study_dir), "--watch"])
    assert result.exit_code == 0 and result.output.count("Study s: done") == 1


@pytest.mark.parametrize("words", [("--watch", "--serve", "0"), ("--watch", "--json"), ("--serve", "0", "--json")])
def test_two_ways_of_looking_at_once_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["status", str(write(tmp_path / "s-1", events(), files=False)), *words])
    assert result.exit_code == 2 and "give one of them" in result.stderr


def asked(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, watching.StatusServer]]:
    study_dir = write(tmp_path / "s-1", events()[:4], files=False)
    with watching.StatusServer(Observer(study_dir).see, 0, 60) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield study_dir, server
        server.shutdown()


def test_the_page_keeps_up_and_the_json_is_that_of_status(served: tuple[Path, watching.StatusServer]) -> None:
    study_dir, server = served
    code, headers, page = asked(server.server_port, "/")
    assert code == 200 and "t0000" in page and "t0001" not in page and 'http-equiv="refresh" content="2"' in page
    assert headers["Cache-Control"] == "no-store" and headers["Content-Security-Policy"].startswith("default-src 'none'")
    grow(study_dir, events()[4:])
    code, _, page = asked(server.server_port, "/?again")
    assert code == 200 and "t0001" in page and "Study s: done" in page and 'http-equiv="refresh" content="30"' in page
    code, headers, text = asked(server.server_port, "/status.json")
    assert headers["Content-Type"].startswith("application/json") and json.loads(text) == Observer(study_dir).see().summary


def test_the_page_only_reads_and_only_for_this_machine(served: tuple[Path, watching.StatusServer]) -> None:
    _, server = served
    port = server.server_port
    assert server.server_address[0] == "127.0.0.1"
    assert asked(port, "/", "study.example:80")[0] == 403 and asked(port, "/", "")[0] == 403
    assert asked(port, "/", "[")[0] == 400
    assert asked(port, "/", f"localhost:{port + 1}")[0] == 200  # a forwarded port
    assert asked(port, "/../journal.jsonl")[0] == 404 and asked(port, "/", method="POST")[0] == 501


def test_a_browser_that_goes_away_leaves_nothing_on_the_terminal(
    served: tuple[Path, watching.StatusServer], capfd: pytest.CaptureFixture[str]
) -> None:
    _, server = served
    for sent in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HT"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
            connection.sendall(sent)
    assert asked(server.server_port, "/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_study_cannot_put_markup_into_its_page(tmp_path: Path) -> None:
    entries = events()
    entries[4] = Entry(4, entries[4].t, Ended("t0000", "failed", (), detail="<script>alert(1)</script>", reason="x"))
    study_dir = write(tmp_path / "s-1", [*entries[:4], entries[4]], files=False)
    with watching.StatusServer(Observer(study_dir).see, 0, 60) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = asked(server.server_port, "/")[2]
        server.shutdown()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_journal_that_cannot_be_read_for_a_while_is_said_on_the_page(served: tuple[Path, watching.StatusServer]) -> None:
    study_dir, server = served
    (study_dir / "journal.jsonl").rename(study_dir / "away")
    code, _, page = asked(server.server_port, "/")
    assert code == 503 and "no journal.jsonl there" in page and 'http-equiv="refresh"' in page
    assert asked(server.server_port, "/status.json")[0] == 503
    (study_dir / "away").rename(study_dir / "journal.jsonl")
    assert "t0000" in asked(server.server_port, "/")[2]


def test_a_port_that_is_taken_and_a_folder_without_a_study_are_named(tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events(), files=False)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=r"cannot be opened[\s\S]*another port"):
        watching.StatusServer(Observer(study_dir).see, taken.getsockname()[1], 60)
    with pytest.raises(UserError, match=r"no journal\.jsonl"):
        watching.StatusServer(Observer(tmp_path).see, 0, 60)


def test_the_program_serves_until_ctrl_c(tmp_path: Path) -> None:
    study_dir = write(tmp_path / "s-1", events(), files=False)
    process = subprocess.Popen(
        program("status", study_dir, "--serve", "0"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs do not hear it
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        url = process.stdout.readline().split()[0]
        assert "Ctrl-C" in process.stderr.readline()
        assert asked(int(url.rpartition(":")[2]), "/status.json")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
