"""Specs are pydantic models; this reads their outline and turns pydantic's errors into where, got, fix.

Validation is strict and from JSON: "32" is not 32, 13.7 is not a whole number, 1 is not true; a list may stand for a tuple. The
outline (dotted fields and tagged unions) lets a search space and `--set` be checked key by key before any value is drawn.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tune.core.errors import UserError, did_you_mean
from tune.core.patch import Branching, settled_key

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
_TEXT_LIMIT = 90


class Part(BaseModel):
    """A section of a study file, or a part of one: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Mistake:
    """One mistake inside a document; `path` leads to it from the document's root."""

    path: Path
    got: str
    fix: str

    def below(self, prefix: Path) -> Mistake:
        return Mistake((*prefix, *self.path), self.got, self.fix)


@dataclass(frozen=True)
class Outline:
    """The dotted keys that a spec may have. `fields`: key -> its types, one for each branch that has it, and what it means.

    `open_keys` are mappings with keys of any name. `branchings`: tagged unions by the dotted key of their mapping.
    """

    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    helps: Mapping[str, str] = field(default_factory=dict)
    open_keys: frozenset[str] = frozenset()
    branchings: Mapping[str, Branching] = field(default_factory=dict)

    def settled(self, key: str) -> str:
        """`key` without the names of branches of flat unions."""
        return settled_key(key, self.branchings)

    def has(self, key: str) -> bool:
        parts = self.settled(key).split(".")
        return ".".join(parts) in self.fields or any(".".join(parts[:i]) in self.open_keys for i in range(1, len(parts)))

    def is_part(self, key: str) -> bool:
        """True if `key` is a mapping of fields (and nothing else)."""
        return any(name.startswith(f"{self.settled(key)}.") for name in self.fields)

    def children(self, key: str) -> tuple[str, ...]:
        """Names of the fields directly under `key` ("" for the root)."""
        prefix = f"{key}." if key else ""
        names = {name[len(prefix) :].partition(".")[0]: None for name in self.fields if name.startswith(prefix)}
        return tuple(names)

    def misfit(self, key: str, value: Any) -> str | None:
        """How to mend `value` so that the type of `key` takes it, or None if it does (in some branch)."""
        fixes: list[str] = []
        for wanted in self.fields.get(self.settled(key), ()):
            try:
                _adapter(wanted).validate_json(json.dumps(value), strict=True)
                return None
            except ValidationError as error:
                fixes += [_explain(e, value, self, (), ())[1] for e in error.errors()]
            except UserError as error:
                fixes += [problem.fix for problem in error.problems]
        return " or ".join(dict.fromkeys(fixes)).replace(" or use ", " or ") or None


@lru_cache(maxsize=64)
def outline_of(model: type[BaseModel]) -> Outline:
    """The outline of a spec class."""
    fields: dict[str, tuple[Any, ...]] = {}
    helps: dict[str, str] = {}
    open_keys: set[str] = set()
    branchings: dict[str, Branching] = {}
    _walk(model, "", fields, helps, open_keys, branchings, depth=0)
    return Outline(fields, helps, frozenset(open_keys), branchings)


def validated(model: type[Model], data: Any) -> tuple[Model | None, list[Mistake]]:
    """The spec of `data`, or every mistake in it."""
    try:
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        return None, explained(error, data, outline_of(model))
    except UserError as error:  # from a validator of the spec
        return None, [Mistake((problem.where,), problem.got, problem.fix) for problem in error.problems]


def explained(error: ValidationError, data: Any, outline: Outline) -> list[Mistake]:
    """Mistakes of a pydantic error, those of the alternatives of one value joined into one."""
    joined: dict[Path, list[tuple[str, str]]] = {}
    located = [(one, _real_path(one["loc"], data, one["type"])) for one in error.errors()]
    absent = {path for one, path in located if one["type"] == "missing"}
    unknown = [path for one, path in located if one["type"] == "extra_forbidden"]
    misspelt = {(*p[:-1], name) for p in unknown for name in near_words(str(p[-1]), _names_at(p[:-1], data, outline))} & absent
    for one, path in located:
        if path in misspelt:
            continue  # told once, at the key as it is written
        if (
            one["type"] == "literal_error"
            and isinstance(one.get("input"), Mapping)
            and len([p for _, p in located if p[: len(path)] == path]) > 1
        ):
            continue  # a mapping was meant to be the mapping among the alternatives, no word
        joined.setdefault(path, []).append(_explain(one, one.get("input"), outline, path, _names_at(path[:-1], data, outline)))
    mistakes = []
    for path, texts in joined.items():
        gots = list(dict.fromkeys(got for got, _ in texts))
        gots = [got for got in gots if not any(other != got and other.startswith(got) for other in gots)]
        fixes = " or ".join(dict.fromkeys(fix for _, fix in texts)).replace(" or use ", " or ")
        mistakes.append(Mistake(path, "; ".join(gots), fixes))
    return mistakes


def near_words(word: str, known: Sequence[str]) -> list[str]:
    """The known word that `did_you_mean` would name, if any."""
    return [name for name in known if f"'{name}'" in did_you_mean(word, known)]


def shown(value: Any) -> str:
    """A value for an error text: short, and with its type where the spelling could mislead."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, value)) or 'no keys'}"[:_TEXT_LIMIT]
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 3] + "..."
    return f"{text} (text)" if isinstance(value, str) else text


def listed(words: Sequence[Any]) -> str:
    return ", ".join(str(word) for word in words)


# -- outline ---------------------------------------------------------------------------------------------------------------------


def _walk(
    model: type[BaseModel],
    prefix: str,
    fields: dict[str, tuple[Any, ...]],
    helps: dict[str, str],
    open_keys: set[str],
    branchings: dict[str, Branching],
    depth: int,
) -> None:
    assert depth < 20, f"{model.__name__} contains itself"
    names = frozenset(model.model_fields)
    for name, info in model.model_fields.items():
        key = prefix + name
        typed = (info.annotation, *info.metadata)
        fields[key] = (*fields.get(key, ()), Annotated[typed] if info.metadata else info.annotation)
        if info.description:
            helps.setdefault(key, info.description)
        options = _literals(info.annotation)
        parts = [option for option in options if option in names and _parts(model.model_fields[option].annotation)]
        other = branchings.get(prefix.rstrip("."))  # a field with one word in common with the selector is none
        if parts and (other is None or len(parts) > sum(bool(keys) for keys in other.branches.values())):
            branchings[prefix.rstrip(".")] = Branching(name, {o: frozenset({o} & names) for o in options}, nested=True)
        members = _parts(info.annotation)
        selector = _discriminator(info)
        if selector is not None and len(members) > 1:
            tagged = {tag: frozenset(m.model_fields) for m in members for tag in _literals(m.model_fields[selector].annotation)}
            branchings[key] = Branching(selector, tagged)
        for member in members:
            _walk(member, f"{key}.", fields, helps, open_keys, branchings, depth + 1)
        if any(get_origin(member) in (dict, Mapping) or member is dict for member in _members(info.annotation)):
            open_keys.add(key)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None, Annotated and Union taken apart."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [] if annotation is type(None) else [annotation]


def _parts(annotation: Any) -> list[type[BaseModel]]:
    """The alternatives of an annotation that are mappings of fields."""
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]


def _literals(annotation: Any) -> list[str]:
    """The texts of the Literals in an annotation."""
    return [v for member in _members(annotation) if get_origin(member) is Literal for v in get_args(member) if isinstance(v, str)]


def _discriminator(info: FieldInfo) -> str | None:
    if isinstance(info.discriminator, str):
        return info.discriminator
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Annotated:
            for extra in get_args(part)[1:]:
                if isinstance(extra, FieldInfo) and isinstance(extra.discriminator, str):
                    return extra.discriminator
    return None


@lru_cache(maxsize=512)
def _cached_adapter(wanted: Any) -> TypeAdapter[Any]:
    return TypeAdapter(wanted)


def _adapter(wanted: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(wanted)
    except TypeError:  # an annotation that cannot be hashed
        return TypeAdapter(wanted)


# -- pydantic's errors -----------------------------------------------------------------------------------------------------------


def _real_path(loc: tuple[str | int, ...], data: Any, kind: str) -> Path:
    """`loc` without the tags of unions, which pydantic mixes into it."""
    path: list[str | int] = []
    node = data
    for i, part in enumerate(loc):
        is_item = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if is_item or (isinstance(node, Mapping) and part in node):
            node = node[part]
        elif not (kind in ("missing", "extra_forbidden") and i == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _names_at(path: Path, data: Any, outline: Outline) -> Sequence[str]:
    """The fields that the mapping at `path` may have, given the branch that it chose."""
    key = ".".join(str(part) for part in path)
    branching = outline.branchings.get(key)
    if branching is None or branching.nested:
        return outline.children(key)
    node = data
    for part in path:
        node = node[part]
    tag = node.get(branching.selector) if isinstance(node, Mapping) else None
    names = branching.branches.get(tag) if isinstance(tag, str) else None
    return [name for name in outline.children(key) if names is None or name in names]


_NUMBER_FIXES = {
    "greater_than": ("gt", "use a number above {}"),
    "greater_than_equal": ("ge", "use a number of at least {}"),
    "less_than": ("lt", "use a number below {}"),
    "less_than_equal": ("le", "use a number of at most {}"),
    "multiple_of": ("multiple_of", "use a multiple of {}"),
}
_TYPE_FIXES = {
    "int_type": "use a whole number",
    "int_from_float": "use a whole number",
    "int_parsing": "use a whole number",
    "float_type": "use a number",
    "float_parsing": "use a number",
    "finite_number": "use a finite number",
    "bool_type": "use true or false",
    "bool_parsing": "use true or false",
    "string_type": "use text (put it between quotes)",
    "path_type": "use a path as text",
    "list_type": "use a list: [...]",
    "tuple_type": "use a list: [...]",
    "dict_type": "use a mapping: {key: value}",
    "none_required": "use null",
}


def _explain(error: Any, value: Any, outline: Outline, path: Path, names: Sequence[str]) -> tuple[str, str]:
    """(got, fix) of one pydantic error. `names`: the fields that may stand beside the one at `path`."""
    kind, context = error["type"], error.get("ctx", {})
    key = ".".join(str(part) for part in path)
    if kind == "missing":
        about = outline.helps.get(key, "")
        return "nothing: it is required", f"add it{f': {about}' if about else ''}"
    if kind == "extra_forbidden":
        got = f"a key that does not exist here{did_you_mean(str(path[-1]), names)}"
        return got, f"use one of {listed(names)}" if names else "remove it"
    if kind in _NUMBER_FIXES:
        name, text = _NUMBER_FIXES[kind]
        return shown(value), text.format(f"{context[name]:g}")
    if kind in _TYPE_FIXES:
        return shown(value), _TYPE_FIXES[kind]
    if kind in ("literal_error", "enum"):
        words = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        return shown(value) + near, f"use {context['expected']}"
    if kind == "union_tag_invalid":
        tags = [word.strip(" '") for word in context["expected_tags"].split(",")]
        name = context["discriminator"].strip("'")
        return f"{name}: {context['tag']}{did_you_mean(str(context['tag']), tags)}", f"set {name} to one of {listed(tags)}"
    if kind == "union_tag_not_found":
        branching = outline.branchings.get(key)
        name = context["discriminator"].strip("'")
        return f"{shown(value)}, without {name}", f"add {name}: {' | '.join(branching.branches) if branching else '...'}"
    if kind in ("model_type", "model_attributes_type", "dataclass_type"):
        return shown(value), f"use a mapping with keys of {listed(outline.children(key))}"
    if kind == "string_pattern_mismatch":
        return shown(value), f"use text that matches {context['pattern']}"
    if kind == "string_too_short":
        return shown(value), f"use text of at least {context['min_length']} character(s)"
    if kind == "too_short" or kind == "too_long":
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return shown(value), f"use a list of {bound} item(s)"
    if kind in ("value_error", "assertion_error"):
        return _own_words(str(context.get("error", error["msg"])), value)
    return shown(value), error["msg"].lower()


def _own_words(message: str, value: Any) -> tuple[str, str]:
    """A validator's own sentence split into what is wrong and how to mend it."""
    for mark in ("; ", ": "):
        if mark in message:
            got, _, fix = message.rpartition(mark) if mark == "; " else message.partition(mark)
            if " " in got and " " in fix:
                return got, fix
    if ", got " in message:
        fix, _, got = message.rpartition(", got ")
        return got, fix
    return shown(value), message
