"""Published numbers of a paper, from a small YAML file, to stand beside ours. Every number names its source.

```yaml
paper: Roumeliotis et al., IEEE Access 2025
test_items: 180                 # optional: how many items the shares were counted on
results:
  - {system: ResNet-50 at 400 px, metric: test/accuracy, value: 0.5889, source: "table 5"}
```
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tune.core.errors import Problem, UserError
from tune.core.spec import validated
from tune.yaml_file import read


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedResult(_Part):
    """One number. `metric` is spelt as ours is, such as test/f1_weighted."""

    system: str = Field(min_length=1, description="What was measured, as the paper names it.")
    metric: str = Field(min_length=1, description="The metric under our name, such as test/accuracy.")
    value: float = Field(description="The number as published; shares are 0..1.")
    source: str = Field(min_length=1, description="Where it stands: table, page or file.")


class Published(_Part):
    """The numbers of one paper."""

    paper: str = Field(min_length=1, description="Authors, venue and year.")
    note: str = Field(default="", description="What a reader must know to compare: data, split, differences to ours.")
    test_items: int | None = Field(default=None, ge=1, description="Number of test items behind the shares, for an interval.")
    results: tuple[PublishedResult, ...] = Field(min_length=1, description="The numbers.")

    @property
    def systems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.system for result in self.results))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.metric for result in self.results))

    def find(self, system: str, metric: str) -> PublishedResult | None:
        return next((r for r in self.results if r.system == system and r.metric == metric), None)


def read_published(path: Path) -> Published:
    """Raises UserError with every mistake in the file."""
    document = read(path)
    if document.problems:
        raise UserError(document.problems)
    if not isinstance(document.value, dict):
        raise UserError(Problem(str(path), "not a mapping", "write paper: and results: at the top"))
    found, mistakes = validated(Published, document.value)
    if found is None:
        raise UserError([Problem(document.where(mistake.path), mistake.got, mistake.fix) for mistake in mistakes])
    seen: set[tuple[str, str]] = set()
    for i, result in enumerate(found.results):
        if (result.system, result.metric) in seen:
            where = document.where(("results", i))
            raise UserError(Problem(where, f"{result.system}, {result.metric} a second time", "keep one of them"))
        seen.add((result.system, result.metric))
    return found
