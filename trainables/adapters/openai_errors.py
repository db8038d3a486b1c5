"""What an error of the openai package means to the protocol: wait, look, or stop with the fix. Names no key, keeps no request.

The package's own exceptions hold the request with its headers, so none of them leaves this file's callers: what is raised is new,
from None, with the service's words after the key, and whatever looks like one, has been struck out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import openai

from trainables.openai_phases.failures import MODERATION, MODERATION_FIX, model_gone
from trainables.openai_phases.wire import Busy, Missing, Profile, Unsure
from tune.core.errors import FailTrial, StopStudy

GONE = re.compile(r"deprecated|retired|shut ?down|no longer (supported|available|offered)", re.IGNORECASE)
GONE_CODES = frozenset({"model_deprecated", "model_retired", "model_shut_down", "model_not_available", "DeploymentModelRetired"})
NEVER_LEFT = frozenset({"ConnectError", "ConnectTimeout", "UnsupportedProtocol"})  # of whichever HTTP package openai uses
LOOKS_LIKE_KEY = re.compile(r"\b(sk|key|pk)-[A-Za-z0-9_*\-]{6,}")
DETAIL_CHARS = 600  # of a service's message; a row of data may be quoted in it

Meaning = Unsure | Busy | Missing | FailTrial | StopStudy


def meaning(error: openai.APIError, profile: Profile, key: str, creating: bool) -> Meaning:
    """`creating`: a missing model then is the order's fault, not something that is still being loaded."""
    said = struck(_message(error), key)
    if isinstance(error, openai.APIConnectionError):
        never_left = type(error.__cause__).__name__ in NEVER_LEFT
        return Unsure(f"{profile.base_url}: {said}", sent=not never_left)
    if not isinstance(error, openai.APIStatusError):
        return Unsure(f"an answer that could not be read: {said}")
    code, status = error.code or error.type or "", error.status_code
    detail = f"{code or status}: {said}" + (f" (request {error.request_id})" if error.request_id else "")
    if code == "insufficient_quota":
        return StopStudy("insufficient_quota", detail, f"add credit to the account of {profile.name} or raise its limit, then resume")
    if code in MODERATION:
        return StopStudy("moderation", detail, MODERATION_FIX)
    if status == 401:
        return StopStudy("unauthorized", detail, f"put a valid key of {profile.name} in the environment variable {profile.api_key_env}")
    if status == 403:
        return StopStudy(
            "permission",
            detail,
            f"let the project of the key in {profile.api_key_env} fine-tune this model, or use another profile; "
            "a service that winds fine-tuning down refuses new users first",
        )
    if code in GONE_CODES or (status in (400, 404, 410) and error.param == "model" and GONE.search(said)):
        return StopStudy("model_gone", detail, "name a model that the service still offers, or use another profile")
    if status == 429:
        return Busy(code or "rate_limit_exceeded", detail, retry_after_s(error.response.headers))
    if status in (408, 409) or status >= 500:
        return Unsure(detail, wait_s=retry_after_s(error.response.headers))
    if status == 404:
        if creating and code == "model_not_found":
            return model_gone(profile.name, detail)
        return FailTrial("refused", detail) if creating else Missing(detail)
    return FailTrial("refused", detail)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `Retry-After`, which may also be a date; that is taken relative to the answer's own `Date`."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * scale, 0.0)
        except (KeyError, ValueError):
            continue
    try:
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return max((until - now).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):
        return None


def struck(text: str, key: str) -> str:
    """`text` without the key, without what looks like one, and not longer than a log line bears."""
    if key:
        text = text.replace(key, "***")
    text = LOOKS_LIKE_KEY.sub(lambda m: f"{m[1]}-***", text)
    return text if len(text) <= DETAIL_CHARS else text[:DETAIL_CHARS] + " ..."


def _message(error: openai.APIError) -> str:
    body = error.body
    if isinstance(body, dict):
        return str(body.get("message") or error.message)
    cause = error.__cause__
    return f"{error.message} ({type(cause).__name__})" if cause is not None else error.message
