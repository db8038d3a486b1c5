"""Takes a picture of a study in MLflow's own pages, in a real browser without a window.

    python -m tests.mlflow_ui_screenshot --tracking-uri sqlite:///studies/mlflow.db --experiment quickstart --out trials.png

`--page table` shows the trials of the newest study, best first, with their parameters and metrics; `--page compare` shows
MLflow's comparison with parallel coordinates. It needs Chromium on the machine (Debian: `apt-get install chromium`). It leaves
one tag on the experiment, the saved view that the table opens with.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.mlflow_log.server import MlflowServer, client_of

VIEW = "phasetune"
PAGE_WAIT_S, SETTLE_S = 90, 3
# The page would open its chat panel over a first visitor's table.
NO_HELPERS = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--page", choices=("table", "compare"), default="table")
    parser.add_argument("--metric", action="append", help="a metric column; may be repeated (default: the objective and its kin)")
    parser.add_argument("--size", default="1900x900", help="width x height in pixels")
    options = parser.parse_args(arguments)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("no browser: install Chromium (Debian and Ubuntu: apt-get install chromium)")
    with served(options.tracking_uri) as uri:
        client = client_of(uri)
        page, until = (table_page if options.page == "table" else compare_page)(client, options.experiment, options.metric)
        width, height = (int(pixels) for pixels in options.size.split("x"))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(shoot(browser, f"{uri}/#{page}&workflowType=machine_learning", options.out, (width, height), until))
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    return 0


@contextlib.contextmanager
def served(tracking_uri: str) -> Iterator[str]:
    """The address of a server over this database, started for the while; a server's own address as it is."""
    if tracking_uri.startswith(("http://", "https://")):
        yield tracking_uri.rstrip("/")
        return
    with tempfile.TemporaryDirectory() as folder, MlflowServer(Path(folder), backend_uri=tracking_uri) as server:
        yield server.uri


def newest_study(client: Any, experiment: str) -> tuple[str, Any]:
    """The experiment's id and the newest study's own run."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        sys.exit(f"no experiment '{experiment}' there; it has {[e.name for e in client.search_experiments()]}")
    newest = ["attributes.start_time DESC"]
    parents = client.search_runs([found.experiment_id], "tags.`phasetune.role` = 'study'", max_results=1, order_by=newest)
    if not parents:
        sys.exit(f"experiment '{experiment}' holds no study")
    return found.experiment_id, parents[0]


def trials_of(client: Any, experiment_id: str, study: Any) -> list[Any]:
    """Search trials, best first; those without a final value last."""
    where = f"tags.`phasetune.study` = '{study.data.tags['phasetune.study']}' and tags.`phasetune.role` = 'search'"
    order = "ASC" if study.data.params.get("metric.mode") == "min" else "DESC"
    return list(client.search_runs([experiment_id], where, max_results=1000, order_by=[f"metrics.`objective` {order}"]))


def metric_columns(study: Any, trials: list[Any]) -> list[str]:
    """The final objective, then the metric that is optimised, then the metrics of its kind and of the test, at most eight."""
    names = sorted({name for trial in trials for name in trial.data.metrics})
    metric = study.data.params.get("metric.name", "")
    kin = [name for name in names if name.count("/") == 1 and name.startswith(("val/", "test/")) and name != metric]
    return [name for name in ("objective", metric, *kin, "cost/cpu_seconds") if name in names][:8]


def table_page(client: Any, experiment: str, metrics: list[str] | None) -> tuple[str, str]:
    """Save a view with the study's parameters and metrics as columns; the page that opens it, and a text it must show."""
    experiment_id, study = newest_study(client, experiment)
    trials = trials_of(client, experiment_id, study)
    params = list(dict.fromkeys(name for trial in trials for name in trial.data.params))
    columns = [f"params.`{name}`" for name in params] + [f"metrics.`{name}`" for name in metrics or metric_columns(study, trials)]
    view = {
        "searchFilter": f"tags.`phasetune.study` = '{study.data.tags['phasetune.study']}' and tags.`phasetune.role` = 'search'",
        "orderByKey": "metrics.`objective`",
        "orderByAsc": study.data.params.get("metric.mode") == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": ["attributes.`Duration`", "tags.`phasetune.state`", *columns],
    }
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
    return f"/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}", f"{len(trials)} matching run"


def compare_page(client: Any, experiment: str, metrics: list[str] | None) -> tuple[str, str]:
    experiment_id, study = newest_study(client, experiment)
    runs = [trial.info.run_id for trial in trials_of(client, experiment_id, study)][:100]
    query = {"runs": json.dumps(runs), "experiments": json.dumps([experiment_id])}
    return "/compare-runs?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote), f"Comparing {len(runs)} Runs"


async def shoot(browser: str, url: str, out: Path, size: tuple[int, int], until: str) -> None:
    """Open `url`, wait until the page shows the text `until` and has settled, and save what a person would see."""
    async with open_page(browser, f"--window-size={size[0]},{size[1]}") as page:
        out.write_bytes(await photograph(page, url, size, until))


@contextlib.asynccontextmanager
async def open_page(browser: str, *flags: str) -> AsyncIterator[Devtools]:
    """An empty page of a browser without a window, with a profile of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        command += [*flags, "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            await until_true(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "the browser did not start")
            port = port_file.read_text().split("\n")[0]
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (target,) = [page for page in await answer.json() if page["type"] == "page"]
                async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Devtools(socket)
        finally:
            process.terminate()
            process.wait()


async def photograph(page: Devtools, url: str, size: tuple[int, int], until: str) -> bytes:
    await page.call("Page.enable")
    await page.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=NO_HELPERS)
    await page.call("Page.navigate", url=url)
    deadline_s = time.monotonic() + PAGE_WAIT_S
    while until not in (text := await page.evaluate("document.body ? document.body.innerText : ''")):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the page does not show '{until}' but: {text[:500]}")
        await asyncio.sleep(0.2)
    await asyncio.sleep(SETTLE_S)
    return base64.b64decode((await page.call("Page.captureScreenshot", format="png"))["data"])


class Devtools:
    """Calls of the browser's debugging protocol, one at a time."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self._n_calls = socket, 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._n_calls += 1
        await self._socket.send_json({"id": self._n_calls, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json(timeout=PAGE_WAIT_S)
            if answer.get("id") == self._n_calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")


async def until_true(condition: Callable[[], bool], complaint: str) -> None:
    deadline_s = time.monotonic() + PAGE_WAIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(complaint)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
