"""Rows encoded once a node: tokens of prompt and answer, and what the processor makes of each picture, shared by all trials and epochs.

The folder's name is a digest of data, prompt, processor, template and precision, so that trials that differ in none of these share
it. It is built under a lock into a temporary folder and put in place whole; a builder that is killed leaves nothing that a reader
could take for rows. A picture that many questions ask about is processed once.

Half precision trains on half-precision inputs, so floats are then kept in 16 bits, which halves the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data import decode
from trainables.vlm_data.open import VlmTable
from trainables.vlm_data.row import Picture, Row
from trainables.vlm_data.spec import VlmDataSpec
from trainables.vlm_data.wording import Example, example
from trainables.vlm_peft.chat import Asked, Chat
from trainables.vlm_peft.ragged import Reader, Writer
from trainables.vlm_peft.spec import ModelSpec
from tune.core.errors import Problem, StopStudy, UserError

VERSION = 2  # of what is written; raised when the same inputs give other tokens
NO_PICTURE = -1
_TOKEN_KEYS = ("input_ids", "attention_mask")
_LEFT_OUT = frozenset({"labels", "rows", "cols", "attention_mask"})
_SHOWN = 5


@dataclass(frozen=True)
class Encoded:
    """Rows of a table, in its order.

    prompts, answers: int32 token ids; of a conversation, the answers with the questions between them. learnt: 1 for each token of
    `answers` that is an answer's. extras: further values for each token of a prompt, by the model's name for them. pictures:
    by the model's name, an array for each distinct picture; `picture_of[row]` is its place there or NO_PICTURE.
    """

    examples: tuple[Example, ...]
    prompts: Reader
    answers: Reader
    learnt: Reader
    extras: dict[str, Reader]
    pictures: dict[str, Reader]
    picture_of: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, prompt and answer."""
        return self.prompts.lengths() + self.answers.lengths()

    @cached_property
    def n_answer_tokens(self) -> NDArray[np.int64]:
        return np.array([int(self.learnt[i].sum()) for i in range(len(self.learnt))], dtype=np.int64)


def encoded(
    table: VlmTable,
    data: VlmDataSpec,
    *,
    chat: Chat,
    processor: Any,
    processor_digest: str,
    model: ModelSpec,
    context: int | None,
    half: bool,
    cache_dir: Path,
) -> Encoded:
    """All rows of `table`, built where this node has not got them yet.

    context: most tokens that the model takes, None if it does not say. half: floats in 16 bits. Raises UserError for rows that are
    longer than that or than max_length, StopStudy if the disk is full or a picture is damaged inside.
    """
    from filelock import FileLock

    examples = tuple(example(row, data, table.classes) for row in table.rows)
    longest = min(model.max_length, context or model.max_length)
    words = (VERSION, decode.VERSION, table.digest, data.prompt_name, data.target, processor_digest, model.template, model.pad_to_square)
    said = hashlib.sha256("\n".join(f"{item.id}\0{item.prompt}\0{item.target}" for item in examples).encode("utf-8", "surrogatepass"))
    key = hashlib.sha256(f"{words}/{longest}/{half}/{said.hexdigest()}".encode()).hexdigest()[:24]
    folder = cache_dir / f"encoded-{key}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            with FileLock(f"{folder}.lock"):
                if not folder.exists():  # another process may have built it while this one waited
                    _build(folder, table, examples, chat, processor, model, longest, half)
    except OSError as error:
        detail = f"{folder}: {error.strerror or error}"
        fix = "free space there or set PHASETUNE_CACHE to a folder with room that you may write, then resume"
        raise StopStudy("cache_unusable", detail, fix) from None
    about = json.loads((folder / "about.json").read_text())
    return Encoded(
        examples=examples,
        prompts=Reader(folder, "prompts"),
        answers=Reader(folder, "answers"),
        learnt=Reader(folder, "learnt"),
        extras={name: Reader(folder, f"extra-{name}") for name in about["extras"]},
        pictures={name: Reader(folder, f"picture-{name}") for name in about["pictures"]},
        picture_of=np.array(about["picture_of"], dtype=np.int64),
    )


def processed(processor: Any, asked: Asked, image: Any | None) -> dict[str, NDArray[Any]]:
    """What the model's processor makes of one prompt and picture, each array with a leading axis of its own.

    Keys are the model's argument names; `input_ids` and what else has one value a token have shape (1, tokens).
    """
    given = {} if image is None else {"images": [image]}
    out = processor(text=[asked.text], return_tensors="pt", add_special_tokens=asked.special, **given)
    return {name: value.numpy() for name, value in out.items() if name not in _LEFT_OUT and hasattr(value, "numpy")}


def opened(picture: Picture, max_pixels: int, square: tuple[float, ...] | None) -> Any:
    """The picture as RGB. square: mean colour, 0..1 by channel, that it is padded to a square with; None: as it is."""
    from PIL import Image

    image = decode.decode_rgb(picture.load(), max_pixels)
    if square is None or image.width == image.height:
        return image
    side = max(image.size)
    colour = tuple(int(255 * share) for share in square)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def mean_colour(processor: Any, model: ModelSpec) -> tuple[float, ...] | None:
    """The colour pictures are padded with, None where they are not."""
    if not model.pad_to_square:
        return None
    mean = getattr(processor.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
    return tuple(float(share) for share in mean)


# ---- building


def _build(
    folder: Path,
    table: VlmTable,
    examples: tuple[Example, ...],
    chat: Chat,
    processor: Any,
    model: ModelSpec,
    longest: int,
    half: bool,
) -> None:
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # of builders that were killed: this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    new = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    new.mkdir()
    try:
        _write(new, table, examples, chat, processor, model, longest, half)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(
    new: Path,
    table: VlmTable,
    examples: tuple[Example, ...],
    chat: Chat,
    processor: Any,
    model: ModelSpec,
    longest: int,
    half: bool,
) -> None:
    places: dict[str, int] = {}
    picture_of = [places.setdefault(row.image.name, len(places)) if row.image is not None else NO_PICTURE for row in table.rows]
    first_rows: dict[int, int] = {}
    for i, place in enumerate(picture_of):
        first_rows.setdefault(place, i)
    mean = mean_colour(processor, model)
    shown = {place: chat.asked(examples[i].prompt, True) for place, i in first_rows.items() if place != NO_PICTURE}

    def look(place: int) -> dict[str, NDArray[Any]]:
        row = table.rows[first_rows[place]]
        assert row.image is not None
        return processed(processor, shown[place], _opened_or_stop(row.image, table.max_pixels, mean))

    widths: dict[int, _Width] = {}
    with ExitStack() as stack:
        writers: dict[str, Writer] = {}
        with decode.quiet(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for place, values in enumerate(pool.map(look, range(len(places)))):
                n_tokens = values["input_ids"].shape[1]
                for name, value in values.items():
                    if _is_of_tokens(name, value, n_tokens):
                        continue
                    if name not in writers:
                        writers[name] = stack.enter_context(Writer(new, f"picture-{name}"))
                    writers[name].append(_stored(value, half))
                if place == 0 and sum(v.nbytes for v in values.values()) * len(places) // (2 if half else 1) > shutil.disk_usage(new).free:
                    raise OSError(28, "not enough space for all pictures")  # said before hours of work, not after
                widths[place] = _Width.of(chat, shown[place], values)
        names = _rows(new, stack, table, examples, chat, processor, picture_of, widths, longest, mean)
        pictures = sorted(writers)
    about = {"extras": names, "pictures": pictures, "picture_of": picture_of}
    (new / "about.json").write_text(json.dumps(about))


def _rows(
    new: Path,
    stack: ExitStack,
    table: VlmTable,
    examples: tuple[Example, ...],
    chat: Chat,
    processor: Any,
    picture_of: list[int],
    widths: dict[int, _Width],
    longest: int,
    mean: tuple[float, ...] | None,
) -> list[str]:
    """Tokens of every row. The names of the extras."""
    prompts, answers, learnt = (stack.enter_context(Writer(new, name)) for name in ("prompts", "answers", "learnt"))
    extras: dict[str, Writer] = {}
    too_long: list[tuple[Row, int]] = []
    for row, item, place in zip(table.rows, examples, picture_of, strict=True):
        asked = chat.asked(item.prompt, place != NO_PICTURE)
        values = widths[place].of_tokens(chat.prompt_ids(asked)) if place in widths else None
        if values is None:
            image = None if row.image is None else _opened_or_stop(row.image, table.max_pixels, mean)
            got = processed(processor, asked, image)
            n = got["input_ids"].shape[1]
            values = {name: value[0] for name, value in got.items() if _is_of_tokens(name, value, n)}
        answer, n_replaced = chat.answer_ids(item.prompt, item.target, place != NO_PICTURE)
        kept = len(values["input_ids"]) - n_replaced
        prompts.append(values["input_ids"][:kept].astype(np.int32))
        later, later_learnt = later_turns(chat, row, item)
        learnt.append(np.array([*([1] * len(answer)), *later_learnt], dtype=np.int32))
        answer = [*answer, *later]
        answers.append(np.array(answer, dtype=np.int32))
        for name, value in values.items():
            if name not in _TOKEN_KEYS:
                if name not in extras:
                    extras[name] = stack.enter_context(Writer(new, f"extra-{name}"))
                extras[name].append(value[:kept].astype(np.int32))
        if kept + len(answer) > longest:
            too_long.append((row, kept + len(answer)))
    if too_long:
        raise UserError(list(too_long_problems(((str(row.at), row.id, n) for row, n in too_long), longest)))
    return sorted(extras)


def later_turns(chat: Chat, row: Row, item: Example) -> tuple[list[int], list[int]]:
    """`Chat.later_ids` of a row that is a conversation; nothing of any other."""
    if len(row.turns) < 2:
        return [], []
    turns = [(item.prompt, item.target), *((turn.said, turn.answered) for turn in row.turns[1:])]
    return chat.later_ids(turns, row.image is not None)


def too_long_problems(rows: Iterator[tuple[str, str, int]], longest: int) -> Iterator[Problem]:
    """(place, id, tokens) of rows over the limit -> problems, the first few by name."""
    fix = "shorten or leave out such rows, or raise model.max_length as far as the model's context goes"
    found = list(rows)
    for at, name, n in found[:_SHOWN]:
        yield Problem(at, f"row {name} has {n} tokens with its picture and answer, more than {longest}", fix)
    if len(found) > _SHOWN:
        yield Problem("trainable.model.max_length", f"{len(found) - _SHOWN} more rows of more than {longest} tokens", fix)


@dataclass(frozen=True)
class _Width:
    """How one picture widens the tokens of any prompt: `token` becomes `widened`, with `extras` for each of these tokens."""

    token: int
    widened: NDArray[Any]
    extras: dict[str, NDArray[Any]]

    @staticmethod
    def of(chat: Chat, asked: Asked, values: dict[str, NDArray[Any]]) -> _Width:
        """From one prompt with the picture. Where the widened place cannot be told, nothing is said and each prompt is processed."""
        plain, wide = chat.prompt_ids(asked), values["input_ids"][0]
        token = chat.tokenizer.convert_tokens_to_ids(chat.image_token) if chat.image_token is not None else None
        nothing = _Width(-1, wide[:0], {})
        if token is None or plain.count(token) != 1:
            return nothing
        i = plain.index(token)
        end = len(wide) - (len(plain) - i - 1)
        if end <= i or plain[:i] != wide[:i].tolist() or plain[i + 1 :] != wide[end:].tolist():
            return nothing
        extras = {
            name: value[0]
            for name, value in values.items()
            if name not in _TOKEN_KEYS and _is_of_tokens(name, value, values["input_ids"].shape[1])
        }
        if any(part.any() for value in extras.values() for part in (value[:i], value[end:])):
            return nothing  # what stands outside the picture is not the same for all prompts
        return _Width(token, wide[i:end], {name: value[i:end] for name, value in extras.items()})

    def of_tokens(self, plain: list[int]) -> dict[str, NDArray[Any]] | None:
        if self.token == -1 or plain.count(self.token) != 1:
            return None
        i = plain.index(self.token)
        before, after = np.array(plain[:i], np.int64), np.array(plain[i + 1 :], np.int64)
        out = {"input_ids": np.concatenate([before, self.widened, after])}
        for name, value in self.extras.items():
            out[name] = np.concatenate([np.zeros(len(before), value.dtype), value, np.zeros(len(after), value.dtype)])
        return out


def _is_of_tokens(name: str, value: NDArray[Any], n_tokens: int) -> bool:
    return name == "input_ids" or name.endswith("token_type_ids") or (value.shape == (1, n_tokens) and not name.startswith("pixel"))


def _stored(value: NDArray[Any], half: bool) -> NDArray[Any]:
    if value.dtype.kind == "f":
        return value.astype(np.float16 if half else np.float32)
    return value.astype(np.int64)


def _opened_or_stop(picture: Picture, max_pixels: int, mean: tuple[float, ...] | None) -> Any:
    try:
        return opened(picture, max_pixels, mean)
    except (OSError, decode.BadImage) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "put a sound picture there, or leave its rows out, and start a new study"
        raise StopStudy("picture_unreadable", f"{picture.name}: {why}", fix) from None
