"""Prices of hosted models and of devices, read from a YAML file whose every table has a source and a date.

Dollars are `Decimal`, read from the digits as written, so that a bill is exact: tokens are whole, prices have few digits, and a
product of the two loses nothing. Only the journal and reports see floats. A missing price is a UserError where it is needed, never a
guess: no batch price is made from another.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

import trainables
from trainables.openai_phases.profile import ProfileSpec
from trainables.openai_phases.spec import base_model_of, is_tuned
from trainables.openai_phases.tokens import ImageRates
from tune.core.errors import Problem, UserError, did_you_mean

SHIPPED = Path(trainables.__file__).parents[1] / "configs" / "prices.yaml"
By = Literal["chat", "batch"]


def _as_written(value: Any) -> Any:
    """A number of YAML as its shortest decimal text: 2.225 is 2.225, not the nearest binary fraction."""
    return Decimal(repr(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Usd = Annotated[Decimal, BeforeValidator(_as_written), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenPrices(_Part):
    """Dollars per million tokens. cached_input None: cached tokens are charged as any others."""

    input: Usd
    cached_input: Usd | None
    output: Usd


class ImageTokens(_Part):
    """Tokens of a picture: `base`, and `tile` for each tile of high detail."""

    base: int = Field(ge=0)
    tile: int = Field(ge=0)


class ModelPrices(_Part):
    """Of one base model and the models tuned from it. None: not listed."""

    aliases: tuple[Name, ...] = ()
    image_tokens: ImageTokens
    training: Usd | None
    base: TokenPrices | None
    base_batch: TokenPrices | None
    tuned: TokenPrices | None
    tuned_batch: TokenPrices | None

    @property
    def image_rates(self) -> ImageRates:
        return ImageRates(self.image_tokens.base, self.image_tokens.tile)


class _Dated(_Part):
    read_on: str = Field(pattern=r"^20\d\d-\d\d(-\d\d)?$")
    source: Name


class PriceTable(_Dated):
    """What one provider charges."""

    note: str = ""
    hosting_usd_per_hour: Usd
    models: dict[Name, ModelPrices]

    @model_validator(mode="after")
    def _a_name_means_one_model(self) -> PriceTable:
        names = [*self.models, *(alias for model in self.models.values() for alias in model.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands for two models; give each name once")
        return self


class DevicePrice(_Dated):
    """What an hour of a device costs, so that its trials stand in dollars beside hosted ones."""

    usd_per_hour: Usd


class PriceFile(_Part):
    """All tables of a file."""

    tables: dict[Name, PriceTable]
    devices: dict[Name, DevicePrice] = {}


class Prices:
    """The prices of one table, asked for by model id. Raises UserError for what it does not list."""

    def __init__(self, table: PriceTable, name: str, file: Path):
        self.table, self.name, self._file = table, name, file

    @property
    def source(self) -> str:
        return f"table {self.name} of {self._file.name}, read {self.table.read_on}: {self.table.source}"

    def model(self, model: str) -> ModelPrices:
        """Of a base model, an alias, or any model tuned from one."""
        base = base_model_of(model)
        for name, prices in self.table.models.items():
            if base == name or base in prices.aliases:
                return prices
        known = [*self.table.models, *(alias for prices in self.table.models.values() for alias in prices.aliases)]
        got = f"no prices of {base}{did_you_mean(base, known)}; it lists {', '.join(self.table.models) or 'no models'}"
        raise self._missing(f"tables.{self.name}.models", got, "add the model with its prices to a copy of the file")

    def training(self, model: str) -> Decimal:
        """Dollars per million trained tokens."""
        price = self.model(model).training
        if price is None:
            raise self._missing(f"tables.{self.name}.models.{base_model_of(model)}.training", "null", "fill in the price of training")
        return price

    def tokens(self, model: str, by: By, tuned: bool | None = None) -> TokenPrices:
        """Of questions to `model`. tuned: None tells it by the id; True asks for a model that is yet to be tuned from it."""
        kind = "tuned" if tuned or (tuned is None and is_tuned(model)) else "base"
        key = kind if by == "chat" else f"{kind}_batch"
        found: TokenPrices | None = getattr(self.model(model), key)
        if found is None:
            fix = "fill it in" + (", or set trainable.evaluation.by: chat" if by == "batch" else "")
            raise self._missing(f"tables.{self.name}.models.{base_model_of(model)}.{key}", "null: not listed", fix)
        return found

    def _missing(self, key: str, got: str, fix: str) -> UserError:
        return UserError(Problem(f"{self._file}: {key}", got, f"{fix}, and name it in trainable.profile.price_file"))


def prices_of(profile: ProfileSpec) -> Prices:
    """The table that a profile is charged by."""
    path = SHIPPED if profile.price_file is None else Path(profile.price_file).expanduser()
    file = read_prices(path)
    if profile.prices not in file.tables:
        got = f"{profile.prices}{did_you_mean(profile.prices, file.tables)}, which {path} does not have"
        raise UserError(Problem("trainable.profile.prices", got, f"name one of {', '.join(file.tables)}"))
    return Prices(file.tables[profile.prices], profile.prices, path)


def read_prices(path: Path) -> PriceFile:
    """A file of prices. Raises UserError with every problem, each with its line."""
    try:
        tree = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        got = str(error.problem or error.context).splitlines()[0]
        raise UserError(Problem(f"{path}:{line}", got, "mend the YAML there")) from None
    except (OSError, ValueError, YAMLError) as error:
        got = f"it cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise UserError(Problem(str(path), got, "name a YAML file of prices, such as a copy of configs/prices.yaml")) from None
    try:
        return PriceFile.model_validate(_plain(tree))
    except ValidationError as error:
        problems = [
            Problem(
                f"{path}:{_line(tree, found['loc'])}: {'.'.join(map(str, found['loc']))}".rstrip(": "), found["msg"], "mend or remove it"
            )
            for found in error.errors()
        ]
        raise UserError(problems) from None


def _plain(tree: Any) -> Any:
    """ruamel's values as Python's own."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    if isinstance(tree, bool) or tree is None:
        return tree
    if isinstance(tree, int):
        return int(tree)
    return float(tree) if isinstance(tree, float) else str(tree)


def _line(tree: Any, place: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `place` that is there."""
    line, node = 1, tree
    for part in place:
        try:
            mark = node.lc.item(part) if isinstance(part, int) else node.lc.key(part)
            line, node = mark[0] + 1, node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
