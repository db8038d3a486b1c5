"""What the parts of the server share: its store, its virtual clock, its settings, ids, the bill, what it knows to be true, its errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from tests.openai_server.rows import Row, distance
from tests.openai_server.settings import ALIASES, MODELS, BaseModel, Settings
from tests.openai_server.store import Doc, Store, hexed


class ApiError(Exception):
    """An answer that is an error, in the service's shape."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        wait_s: float | None = None,
    ):
        self.status, self.wait_s = status, wait_s
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        super().__init__(message)


def not_found(what: str, key: str) -> ApiError:
    return ApiError(404, None, f"No such {what}: {key}", param="id")


class World:
    def __init__(self, store: Store, settings: Settings, real_now: Callable[[], float] = time.time):
        self.store, self._real_now = store, real_now
        kept = store.get("server", "settings")
        self.settings = Settings(**kept) if kept else settings
        if kept is None:
            self.store.put("server", "settings", json.loads(settings.to_json()))
            self._anchor(datetime.fromisoformat(settings.start).timestamp())
        self._truth: dict[str, str] = {key: doc["label"] for key, doc in store.items("truth").items()}
        self._near: dict[str, str | None] = {}

    # --- time -----------------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        anchor = self.store.get("server", "clock")
        assert anchor is not None
        return float(anchor["virtual"] + (self._real_now() - anchor["real"]) * self.settings.speed)

    def advance(self, seconds: float) -> None:
        self._anchor(self.now() + seconds)

    def _anchor(self, virtual: float) -> None:
        self.store.put("server", "clock", {"virtual": virtual, "real": self._real_now()})

    def forget(self) -> None:
        """Everything but the settings and the time."""
        self.store.forget()
        self._truth.clear()
        self._near.clear()

    def change(self, values: Mapping[str, Any]) -> None:
        now = self.now()
        self.settings = self.settings.patched(values)
        self.store.put("server", "settings", json.loads(self.settings.to_json()))
        self._anchor(now)

    # --- ids and models -------------------------------------------------------------------------------------------------------

    def new_id(self, prefix: str, length: int = 24) -> str:
        return prefix + hexed(self.settings.seed, prefix, self.store.count(prefix), length=length)

    def base(self, model: str) -> BaseModel:
        """The base model of a name, an alias or a fine-tuned model. Raises the service's 404."""
        tuned = self.store.get("model", model)
        found = MODELS.get(tuned["base"] if tuned else ALIASES.get(model, model))
        if found is None:
            raise ApiError(404, "model_not_found", f"The model '{model}' does not exist or you do not have access to it.", param="model")
        if self.gone(found):
            raise ApiError(404, "model_not_found", f"The model '{model}' has been shut down.", param="model")
        return found

    def gone(self, base: BaseModel) -> bool:
        retired = self.store.get("retired", base.id) is not None
        if self.settings.shutdown and base.shutdown_date is not None:
            retired = retired or self.now() >= datetime.fromisoformat(base.shutdown_date + "T00:00:00+00:00").timestamp()
        return retired

    # --- money ----------------------------------------------------------------------------------------------------------------

    def charge(self, what: str, of: str, model: str, usd: float, **tokens: int) -> None:
        n = self.store.count("bill")
        self.store.put("bill", f"{n:08d}", {"n": n, "t": self.now(), "what": what, "of": of, "model": model, "usd": usd, **tokens})

    def bill(self) -> Doc:
        """Every charge, and the dollars of each kind."""
        charges = self.store.all("bill")
        kinds = sorted({charge["what"] for charge in charges})
        usd = {kind: sum(charge["usd"] for charge in charges if charge["what"] == kind) for kind in kinds}
        return {"charges": charges, "usd": usd, "total_usd": sum(usd.values())}

    # --- truth ----------------------------------------------------------------------------------------------------------------

    def learn_truth(self, rows: Iterable[tuple[str, str]]) -> None:
        """(key, label) of pictures or texts, told through the control endpoint or seen in labelled files."""
        for key, label in rows:
            if self._truth.get(key) != label:
                self._truth[key] = label
                self._near.clear()
                self.store.put("truth", key, {"label": label})

    def learn_rows(self, rows: Iterable[Row]) -> None:
        self.learn_truth((row.key, row.label) for row in rows if row.label is not None and not row.mistake)

    def truth(self, key: str, most_bits: int = 30) -> tuple[str, str] | None:
        """(key, label) of the same picture or text, at whatever resolution it was seen."""
        if key in self._truth:
            return key, self._truth[key]
        if not key.startswith("hash:"):
            return None
        if key not in self._near:
            near = min((known for known in self._truth if known.startswith("hash:")), key=lambda known: distance(known, key), default=None)
            self._near[key] = near if near is not None and distance(near, key) <= most_bits else None
        found = self._near[key]
        return None if found is None else (found, self._truth[found])
