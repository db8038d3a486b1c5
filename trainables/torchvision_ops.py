"""Make `import torchvision` safe on a CPU build of torch, in every process, before timm or transformers is imported.

The published Linux torchvision is a CUDA build; beside a CPU torch its import dies with "operator torchvision::nms does not
exist". Declaring the two missing operators is enough, since nothing here calls them: a call would still fail by name.
"""

from __future__ import annotations

from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept_alive: list[Any] = []  # a torch.library.Library takes its operators away when it is collected


def ensure_torchvision_ops() -> None:
    """Declare what is missing of torchvision's operators, once a process. Does nothing where the real ones load."""
    if _kept_alive:
        return
    import torch

    _load_real_operators()
    missing = [name for name in _SCHEMAS if not _exists(torch, name)]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(_SCHEMAS[name])
    _kept_alive.append(library)


def _exists(torch: Any, name: str) -> bool:
    try:
        getattr(torch.ops.torchvision, name)
    except (AttributeError, RuntimeError):
        return False
    return True


def _load_real_operators() -> None:
    """Load torchvision's compiled library if it fits this torch, without running torchvision's own import."""
    import contextlib
    import importlib.machinery
    import importlib.util
    from pathlib import Path

    import torch

    spec = importlib.util.find_spec("torchvision")
    for folder in spec.submodule_search_locations or () if spec else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.exists():
                with contextlib.suppress(OSError):  # built for CUDA libraries that are not here
                    torch.ops.load_library(str(library))
                return
