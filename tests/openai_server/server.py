"""The server on loopback: HTTP around `api.handle`, faults, and the control endpoints that tests and demos steer it by.

`with LocalServer() as server:` serves in a thread of this process at `server.base_url`; `python -m tests.openai_server` serves alone.
Control, under /_control and without a key: faults (POST a list, DELETE), advance, settings, truth, retire, forget (POST), bill, state,
requests (GET). Bodies and keys are never logged.
"""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.openai_server import api, batches, faults, jobs
from tests.openai_server.calls import Call
from tests.openai_server.rows import read_picture
from tests.openai_server.settings import Settings
from tests.openai_server.store import Store
from tests.openai_server.world import ApiError, World

PREFIXES = ("/openai/v1", "/v1")


class App:
    """All of it runs on one event loop, and each call is handled in one piece: two calls never mix."""

    def __init__(self, world: World):
        self.world = world
        self._late: list[tuple[float, Call]] = []
        self._closing = asyncio.Event()
        self.web = web.Application(client_max_size=9 * 1024**3)
        self.web.router.add_route("*", "/_control/{what}", self.control)
        self.web.router.add_route("*", "/{path:.*}", self.serve)
        self.web.on_shutdown.append(self._close)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = next((request.path[len(p) :] for p in PREFIXES if request.path.startswith(p + "/")), None)
        key = request.headers.get("api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if path is None:
            return self._error(ApiError(404, None, f"Invalid URL ({request.method} {request.path})"))
        if not key:
            return self._error(ApiError(401, "invalid_api_key", "You didn't provide an API key."))
        try:
            call = await _read(request, path)
        except ValueError:
            return self._error(ApiError(400, None, "We could not parse the JSON body of your request."))
        self._run_late()
        fault = faults.due(self.world, f"{request.method} /v1{path}")
        kind = fault.kind if fault else ""
        self.world.store.put("request", f"{self.world.store.count('request'):08d}", {"call": f"{call.method} {path}", "fault": kind})
        if fault is not None:
            if kind == "error":
                return self._error(fault.error(key))
            if kind == "drop":
                return self._drop(request)
            if kind == "hang":
                return await self._hang(request, fault)
            if kind == "late":
                self._late.append((self.world.now() + float(fault.values.get("after_s", 60)), call))
                return self._drop(request)
        doom = (str(fault.values["code"]), str(fault.values["message"])) if fault is not None and kind == "doom" else None
        answered = self._act(call, doom)
        if fault is not None:
            if kind == "error_after":
                return self._error(fault.error(key))
            if kind == "drop_after":
                return self._drop(request)
            if kind == "hang_after":
                return await self._hang(request, fault)
        return answered

    def _act(self, call: Call, doom: tuple[str, str] | None = None) -> web.Response:
        try:
            answer = api.handle(self.world, call, doom)
        except ApiError as error:
            return self._error(error)
        finally:
            self.world.store.commit()
        headers = {"x-request-id": self.world.new_id("req_")}
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/octet-stream", headers=headers)
        return web.json_response(answer, headers=headers)

    def _run_late(self) -> None:
        due = [call for t, call in self._late if t <= self.world.now()]
        self._late = [(t, call) for t, call in self._late if t > self.world.now()]
        for call in due:
            self._act(call)

    def _error(self, error: ApiError) -> web.Response:
        self.world.store.commit()
        headers = {"x-request-id": self.world.new_id("req_")}
        if error.wait_s is not None:
            headers["Retry-After"] = f"{error.wait_s:.3f}"
        return web.json_response(error.body, status=error.status, headers=headers)

    def _drop(self, request: web.Request) -> web.Response:
        self.world.store.commit()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _hang(self, request: web.Request, fault: faults.Fault) -> web.Response:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), float(fault.values.get("hang_s", 3600)))
        return self._drop(request)

    async def _close(self, _: web.Application) -> None:
        self._closing.set()

    # --- control --------------------------------------------------------------------------------------------------------------

    async def control(self, request: web.Request) -> web.Response:
        what, body = request.match_info["what"], await request.text()
        try:
            answer = self._control(request.method, what, json.loads(body) if body else None)
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"{what}: {type(error).__name__} {error}"}, status=400)
        self.world.store.commit()
        return web.json_response(answer)

    def _control(self, method: str, what: str, body: Any) -> Any:
        world = self.world
        if (method, what) == ("POST", "faults"):
            for fault in body:
                faults.add(world, fault)
        elif (method, what) == ("DELETE", "faults"):
            faults.clear(world)
        elif (method, what) == ("POST", "advance"):
            world.advance(float(body["seconds"]))
        elif (method, what) == ("POST", "settings"):
            world.change(body)
        elif (method, what) == ("POST", "forget"):
            self._late.clear()
            world.forget()
        elif (method, what) == ("POST", "retire"):
            world.store.put("retired", body["model"], {})
        elif (method, what) == ("POST", "truth"):
            world.learn_truth(
                (read_picture(row["image"], "auto").key if "image" in row else "text:" + row["text"], row["label"]) for row in body
            )
        elif (method, what) == ("GET", "faults"):
            return world.store.all("fault")
        elif (method, what) == ("GET", "requests"):
            return world.store.all("request")
        elif what not in ("bill", "state"):
            raise ValueError(f"no control {method} {what}")
        self._run_late()
        api.settle(world)
        if what == "bill":
            return world.bill()
        if what == "state":
            return {
                "now": world.now(),
                "settings": json.loads(world.settings.to_json()),
                "jobs": [jobs.public(job) for job in world.store.all("job")],
                "batches": [batches.public(batch) for batch in world.store.all("batch")],
                "files": world.store.all("file"),
                "models": [{name: doc[name] for name in ("id", "base", "skill")} for doc in world.store.all("model")],
                "n_truth": len(world.store.items("truth")),
            }
        return {"now": world.now()}


async def _read(request: web.Request, path: str) -> Call:
    """Raises ValueError for a body that is no JSON."""
    query = {name: request.query[name] for name in request.query}
    body: dict[str, Any] = {}
    form: dict[str, str | tuple[str, bytes]] = {}
    if request.content_type.startswith("multipart/"):
        posted = await request.post()
        for name, value in posted.items():
            form[name] = (value.filename, value.file.read()) if isinstance(value, web.FileField) else str(value)
    elif request.can_read_body and (text := await request.text()):
        body = json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("not an object")
    return Call(request.method, path, query, body, form)


async def started(app: App, port: int) -> tuple[web.AppRunner, int]:
    """The runner and the port; with 0 the system chooses one."""
    runner = web.AppRunner(app.web, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, int(runner.addresses[0][1])


class LocalServer:
    """In a thread of this process. `state`: its database, or None; the port stays over restarts of the same object."""

    def __init__(self, state: Path | None = None, settings: Settings | None = None):
        self._state, self._settings = state, settings or Settings(speed=0)
        self.port = 0

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.root + ("/openai/v1" if self._settings.dialect == "azure_foundry" else "/v1")

    def start(self) -> None:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="openai-server", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(ready))
        self._loop.close()

    async def _main(self, ready: threading.Event) -> None:
        self._end = asyncio.Event()
        store = Store(self._state)
        runner, self.port = await started(App(World(store, self._settings)), self.port)
        ready.set()
        await self._end.wait()
        await runner.cleanup()
        store.close()

    def control(self, what: str, body: Any = None, method: str | None = None) -> Any:
        """POST with a body, GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.root}/_control/{what}", data, method=method or ("GET" if data is None else "POST"))
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def fault(self, match: str, **values: Any) -> None:
        self.control("faults", [{"match": match, **values}])

    def advance(self, seconds: float) -> None:
        self.control("advance", {"seconds": seconds})

    def state(self) -> Mapping[str, Any]:
        return self.control("state")  # type: ignore[no-any-return]

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
