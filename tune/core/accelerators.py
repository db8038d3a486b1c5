"""The sorts of accelerator that Ray names, so that `check` can tell a misspelt one without loading Ray. Pure.

A name that Ray does not list is no mistake by itself: Ray marks a node with what its driver calls the device (A10, L40, ...), and an
administrator may mark it with anything. What is a mistake is a listed name in another spelling, since Ray compares them letter by letter.
"""

from __future__ import annotations

import re

# ray.util.accelerators of Ray 2.60; a test compares them.
NAMES = (
    *("V100", "P100", "T4", "P4", "K80", "A10G", "L4", "L40S", "A100", "H100", "H200", "H20", "B200", "B300", "GB200", "GB300"),
    *("RTX-PRO-6000", "A100-40G", "A100-80G", "Intel-GPU-Max-1550", "Intel-GPU-Max-1100", "Intel-GAUDI", "AMD-Instinct-MI100"),
    *("AMD-Instinct-MI250X", "AMD-Instinct-MI250X-MI250", "AMD-Instinct-MI210", "AMD-Instinct-MI300A", "AMD-Instinct-MI300X-OAM"),
    *("AMD-Instinct-MI300X-HF", "AMD-Instinct-MI308X", "AMD-Instinct-MI325X-OAM", "AMD-Instinct-MI350X-OAM", "AMD-Instinct-MI355X-OAM"),
    *("AMD-Radeon-R9-200-HD-7900", "AMD-Radeon-HD-7900", "aws-neuron-core", "TPU-V2", "TPU-V3", "TPU-V4", "TPU-V5P", "TPU-V5LITEPOD"),
    *("TPU-V6E", "TPU-V7X", "Ascend910B", "Ascend910B4", "MXC500", "MXC550", "FURIOSA_RNGD", "MOBILINT_ARIES", "MOBILINT_REGULUS"),
    *("M1", "M1-Pro", "M1-Max", "M1-Ultra", "M2", "M2-Pro", "M2-Max", "M2-Ultra", "M3", "M3-Pro", "M3-Max", "Apple-Silicon"),
)


def meant(name: str) -> str | None:
    """The listed name that `name` spells otherwise (h100, NVIDIA_TESLA_V100, A100_80G), or None if it is listed or like none."""
    if name in NAMES:
        return None
    return next((known for known in NAMES if _bare(known) == _bare(name)), None)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(nvidia|amd|intel|google)?[^a-z0-9]*(tesla|instinct)?", "", name.casefold()))
