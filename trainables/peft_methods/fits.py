"""Which methods an engine cannot train. Light: `check` asks it for every corner of a space."""

from __future__ import annotations

from trainables.engine_spec import EngineSpec, ZeroSpec
from trainables.peft_methods.spec import PeftSpec
from tune.core.errors import Problem


def peft_problems(spec: PeftSpec, engine: EngineSpec, where: str = "engine") -> list[Problem]:
    """Problems of training `spec` under `engine`; the other methods train under every stage as they do in plain torch."""
    if spec.method == "adalora" and isinstance(engine.zero, ZeroSpec) and engine.zero.stage == 3:
        # the library computes its orthogonality term from parameters that stage 3 holds in shares at that moment
        return [Problem(f"{where}.zero.stage", "3 with peft.method: adalora, whose loss needs whole parameters", "set stage to 0, 1 or 2")]
    return []
