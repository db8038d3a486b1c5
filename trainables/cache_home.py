"""Where this node keeps what all trials and studies share: decoded pictures, encoded rows, assembled models."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """The folder that PHASETUNE_CACHE names, else one in the user's own cache. It need not exist yet."""
    return Path(os.environ.get("PHASETUNE_CACHE") or Path.home() / ".cache" / "phasetune")
