"""A call and its answer without HTTP, and a page of a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.openai_server.store import Doc
from tests.openai_server.world import ApiError


@dataclass(frozen=True)
class Call:
    """`path` begins behind /v1. form: fields of a multipart body; a file is (name, content)."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, str | tuple[str, bytes]] = field(default_factory=dict)


Answer = Doc | bytes


def page(call: Call, found: list[Doc], limit: int, most: int, ids: bool = True) -> Doc:
    """A page of a list behind the cursor `after`."""
    asked = call.query.get("limit")
    if asked is not None:
        if not asked.isdigit() or not 1 <= int(asked) <= most:
            raise ApiError(400, "invalid_limit", f"limit must be between 1 and {most}.", param="limit")
        limit = int(asked)
    after = call.query.get("after")
    if after is not None:
        places = [i for i, doc in enumerate(found) if doc["id"] == after]
        if not places:
            raise ApiError(400, "invalid_cursor", f"No object {after} in this list.", param="after")
        found = found[places[0] + 1 :]
    shown = found[:limit]
    answer: Doc = {"object": "list", "data": shown, "has_more": len(found) > len(shown)}
    if ids:
        answer |= {"first_id": shown[0]["id"] if shown else "", "last_id": shown[-1]["id"] if shown else ""}
    return answer
