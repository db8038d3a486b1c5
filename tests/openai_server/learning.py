"""How well the server's models answer: a known shape over phase, resolution, epochs, batch and multiplier, so that a search can find it.

Knowledge K adds up over the jobs of a lineage. A job of `rows` rows, `epochs` epochs, multiplier m and batch b teaches
    rows / rows_a_pass * (1 + 0.6 + 0.6^2 + ... epochs terms) * exp(-ln(m / best(b))^2 / 2.88),   best(b) = 2 sqrt(b)
and strains a model by 0.008 for each epoch above 4 and by 0.008 for each job after the third. Accuracy at a resolution is
    zero_shot + (ceiling - zero_shot) * (1 - exp(-K / 1.77)) - strain - 0.01 * |log2(trained px / asked px)|
with zero_shot .75 and .70 and ceiling .89 and .86 at 400 and 100 px, linear in log px: near the published phases, not equal to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

TAU = 1.77
AUTO = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0}  # what the server puts for "auto"


@dataclass(frozen=True)
class Skill:
    """px: resolution of the last job's pictures, None before the first."""

    zero_shot: float = 0.0
    knowledge: float = 0.0
    strain: float = 0.0
    n_jobs: int = 0
    px: int | None = None


def best_multiplier(batch: float) -> float:
    return 2.0 * math.sqrt(batch)


def taught(skill: Skill, rows: float, rows_a_pass: float, epochs: float, batch: float, multiplier: float, px: int | None) -> Skill:
    """The skill after a job, or after a part of its epochs."""
    passes = (1 - 0.6**epochs) / 0.4
    fit = math.exp(-(math.log(multiplier / best_multiplier(batch)) ** 2) / 2.88)
    return replace(
        skill,
        knowledge=skill.knowledge + rows / rows_a_pass * passes * fit,
        strain=skill.strain + 0.008 * max(0.0, epochs - 4) + (0.008 if skill.n_jobs >= 3 else 0.0),
        n_jobs=skill.n_jobs + 1,
        px=px or skill.px,
    )


def accuracy(skill: Skill, px: int | None) -> float:
    """The share of questions at `px` that the model gets right."""
    px = px or skill.px or 400
    coarse = math.log(400 / max(px, 8)) / math.log(4)  # 0 at 400 px, 1 at 100
    zero_shot = 0.75 - 0.05 * coarse + skill.zero_shot
    ceiling = 0.89 - 0.03 * coarse + skill.zero_shot / 3
    value = zero_shot + (ceiling - zero_shot) * (1 - math.exp(-skill.knowledge / TAU)) - skill.strain
    if skill.px is not None:
        value -= 0.01 * abs(math.log2(skill.px / px))
    return min(max(value, 0.02), 0.98)


def losses(skill: Skill, part: float) -> dict[str, float]:
    """Losses and token accuracies of a model, `part` 0..1 of its job done."""
    right = accuracy(skill, skill.px)
    train_right = right + (1 - right) * 0.5 * part
    return {
        "train_loss": -math.log(train_right),
        "train_mean_token_accuracy": train_right,
        "valid_loss": -math.log(right),
        "valid_mean_token_accuracy": right,
    }
