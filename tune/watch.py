"""Looking at a running study again and again: a table in a terminal that keeps up, or a page for the browsers of this machine.

Both show what they are given of it, which is what `phasetune status` shows, and steer nothing. Whoever has an account on the machine
can read the page.
"""

from __future__ import annotations

import html
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tune.core.errors import Problem, UserError

if TYPE_CHECKING:
    from rich.console import Console

HOST = "127.0.0.1"
_LOOK_EVERY_S = 1.0
_FEWEST = 3  # lines of trials, and of a head, that a small terminal shows
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{every_s}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }} body {{ margin: 1rem }}
pre {{ font: 13px/1.45 ui-monospace, monospace; overflow-x: auto }}
</style>
</head><body><pre>{text}</pre></body></html>
"""


@dataclass(frozen=True)
class Seen:
    """A study at one moment: its status as text and as JSON, and whether it is over for good."""

    text: str
    summary: dict[str, Any]
    over: bool


Look = Callable[[int | None], Seen]  # with so many lines of trials at most


def watch(look: Look, most: int | None, say: Callable[[str], None], console: Console | None = None) -> None:
    """Show the status of a study until it is done or failed; in a terminal in place, else whenever something is new.

    most: lines of trials, in a terminal no more than it holds. Raises what the first `look` does; what a later one raises is shown.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = console or Console()
    seen = look(most)
    if not console.is_terminal:
        said = ""
        while True:
            if seen.text != said:
                say(seen.text + "\n")
                said = seen.text
            if seen.over:
                return
            time.sleep(_LOOK_EVERY_S)
            seen = _look_again(look, most)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not seen.over:
            shown, seen = _fitting(look, most, console.height - 1)
            live.update(Text(shown, no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(_LOOK_EVERY_S)
    say(look(most).text)


def _look_again(look: Look, most: int | None) -> Seen:
    """What cannot be read now, because storage is away or somebody mends it, may be readable at the next look."""
    try:
        return look(most)
    except UserError as error:
        return Seen(str(error), {"error": str(error)}, over=False)


def _fitting(look: Look, most: int | None, height: int) -> tuple[str, Seen]:
    """The status in so many lines: fewer trials first, then what is in the middle of its head is left out."""
    room = height if most is None else min(most, height)
    while True:
        seen = _look_again(look, room)
        lines = seen.text.splitlines()
        excess = len(lines) - height
        if excess <= 0 or room <= _FEWEST:
            break
        room = max(_FEWEST, room - excess)
    if excess > 0:
        lines[_FEWEST : _FEWEST + excess + 1] = ["  ..."]
    return "\n".join(lines[: max(height, 1)]), seen


class StatusServer(ThreadingHTTPServer):
    """The status of a study as a page (`/`) and as JSON (`/status.json`), on loopback alone. Raises UserError if the port is taken,
    and what `look` does: without a study there is nothing to serve."""

    daemon_threads = True

    def __init__(self, look: Look, port: int, most: int | None):
        self._look, self._most, self._looking = look, most, threading.Lock()
        self.status()
        try:
            super().__init__((HOST, port), _Answer)
        except OSError as error:
            fix = "choose another port; 0 takes a free one"
            raise UserError(Problem(f"--serve {port}", f"it cannot be opened: {error.strerror}", fix)) from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def status(self, again: bool = False) -> Seen:
        with self._looking:
            return _look_again(self._look, self._most) if again else self._look(self._most)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error; anything else is one of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Answer(BaseHTTPRequestHandler):
    """Refuses hosts other than loopback's names, so that no page on the web can read the study through a name of its own."""

    server: StatusServer
    server_version, sys_version = "phasetune", ""
    timeout = 10.0

    def do_GET(self) -> None:
        try:
            host, path = urlsplit(f"//{self.headers.get('Host', '')}").hostname, urlsplit(self.path).path
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if host not in (HOST, "localhost", "::1"):
            self.send_error(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
            return
        if path not in ("/", "/status.json"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        seen = self.server.status(again=True)
        code = HTTPStatus.SERVICE_UNAVAILABLE if "error" in seen.summary else HTTPStatus.OK
        if path == "/status.json":
            self._send(code, "application/json", json.dumps(seen.summary))
            return
        title, every_s = html.escape(f"{seen.summary.get('study', '')} phasetune"), 30 if seen.over else 2
        self._send(code, "text/html", _PAGE.format(every_s=every_s, title=title, text=html.escape(seen.text)))

    def _send(self, code: HTTPStatus, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the study's."""
