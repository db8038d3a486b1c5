"""Keeps passwords out of what is written down or printed: journals, summaries, commands, errors."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/@\s:]*):(?P<password>[^\s/]+)@")


def masked(text: str) -> str:
    """`text` with the password of every `scheme://user:password@host` in it replaced by `***`."""
    return _USERINFO.sub(lambda m: f"{m['scheme']}{m['user']}:***@", text)


def has_password(text: str) -> bool:
    return _USERINFO.search(text) is not None
