"""How this process shows a Ray cluster who it is: the mode and the token, explicit in every case.

A running cluster is joined with the token that Ray itself would find (`RAY_AUTH_TOKEN`, the file `RAY_AUTH_TOKEN_PATH` names,
`~/.ray/auth_token`, in this order), or without one. A token is read here, sent to the cluster, and never printed or written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tune.core.errors import Problem, UserError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
HOW_TO_GIVE_IT = (
    f"export {MODE}=token and {TOKEN}=... (or {TOKEN_PATH}=FILE, or keep it in ~/.ray/auth_token): the token that the head was started with"
)


def token() -> str | None:
    """The token that Ray would use, or None. Raises UserError if the file that is named for it cannot be read."""
    if os.environ.get(TOKEN):
        return os.environ[TOKEN].strip()
    named = os.environ.get(TOKEN_PATH)
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if named is None and not path.exists():
        return None
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise UserError(Problem(TOKEN_PATH if named else str(path), f"{path}: {error.strerror}", "name a file that can be read")) from None


def for_running_cluster() -> dict[str, str]:
    """The variables to set before a running cluster is joined. Raises UserError if a token is asked for and there is none."""
    mode = os.environ.get(MODE)
    if mode is None:
        return {MODE: "disabled" if token() is None else "token"}
    if mode == "token" and token() is None:
        raise UserError(Problem(MODE, "token, and there is no token", HOW_TO_GIVE_IT))
    return {}


def set_environment(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set (None: unset) variables and return what they were. Ray is told of a changed mode, which it reads when it is imported."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if MODE in before:
        import ray

        ray._raylet.Config.initialize("")  # this is how Ray itself makes a later change known
    return before
