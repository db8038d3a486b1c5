"""Files of a Hugging Face hub repository on this machine: from the cache, or fetched once, or a UserError that says what to do.

Promises: without a network it says so after seconds; it fetches no Python file unless code of others may be run.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tune.core.errors import Problem, UserError

_REACH_TIMEOUT_S = 10.0
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.bin")
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")


def snapshot(name: str, *, where: str, code: bool = False, weights: bool = True) -> Path:
    """The folder of `owner/name` with its configuration, processor and weights. code: its Python files too. weights: False leaves
    them out. Raises UserError."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [*(pattern for pattern in _FILES if weights or pattern not in _WEIGHTS), *(["*.py"] if code else [])]
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=wanted))
        if not weights or any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UserError(Problem(where, f"hf:{name}, which is no hub name: {error}", "write hf:owner/name")) from None
    url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
    if constants.HF_HUB_OFFLINE or not reachable(url):
        raise UserError(
            Problem(
                where,
                f"hf:{name}, but {constants.ENDPOINT} cannot be reached and {name} is not in the cache {constants.HF_HUB_CACHE}",
                f"on a connected machine run `hf download {name} --local-dir DIR`, bring DIR here, and put its path in place of hf:{name}",
            )
        )
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HfHubHTTPError as error:
        first = str(error).splitlines()[0]
        raise UserError(Problem(where, f"hf:{name}: {first}", "check the name, and `hf auth login` for gated models")) from None


def reachable(url: str) -> bool:
    """One try, so that a machine without a network is told at once. Any answer of the server counts."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "phasetune"})
    try:
        urllib.request.urlopen(request, timeout=_REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
