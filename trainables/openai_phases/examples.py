"""What is wrong with one example of a training file, or with the messages of one request. Pure; files are `validate`'s.

Checks what the provider documents: roles, parts, pictures only in user messages, their number, size, format and mode, weights, and
the answer at the end. It knows nothing that only the server can see: whether an address answers, and who is in a picture. What it
says never holds a picture's bytes.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.data import decode
from trainables.openai_phases.limits import Limits
from trainables.openai_phases.tokens import Count, ImageRates, TextCounter, image_tokens, message_tokens
from tune.core.errors import Problem, did_you_mean

ROLES = ("system", "user", "assistant", "tool", "function")
EXAMPLE_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
MESSAGE_KEYS = ("role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal")
FORMATS = {"jpeg": ("JPEG", "MPO"), "jpg": ("JPEG", "MPO"), "png": ("PNG",), "webp": ("WEBP",)}  # data URL's type -> Pillow's names
MODES = ("RGB", "RGBA")
_MOST_PIXELS = 178_000_000  # Pillow refuses more
_ANY_SIZE = (4096, 1536)  # of a picture by address: the most tiles there can be
_DATA_URL = re.compile(r"data:image/([\w.+-]+);base64,")
_SHOWN_CHARS = 60


@dataclass
class Found:
    """What was seen of an example. `image_tokens` counts pictures by address as anything between one and all tiles."""

    problems: list[Problem] = field(default_factory=list)
    n_images: int = 0
    image_tokens: Count = field(default_factory=lambda: Count(0, 0))
    tokens: Count = field(default_factory=lambda: Count(0, 0))


def look_at_example(example: Any, where: str, limits: Limits, rates: ImageRates, counter: TextCounter) -> Found:
    """Of one line of a training or validation file."""
    found = Found()
    if not isinstance(example, dict):
        _say(found, where, _kind(example), 'make it an object: {"messages": [...]}')
        return found
    for key in example:
        if key not in EXAMPLE_KEYS:
            _say(found, where, f"the key {_short(key)}{did_you_mean(str(key), EXAMPLE_KEYS)}", f"use {', '.join(EXAMPLE_KEYS)} only")
    messages = _messages(example.get("messages"), f"{where}: messages", found)
    _look_at_messages(messages, where, limits, rates, found)
    if messages:
        _look_at_end(messages, f"{where}: messages", found)
    _look_at_totals(messages, where, limits, counter, found, reply=True)
    return found


def look_at_question(body: Mapping[str, Any], where: str, limits: Limits, rates: ImageRates, counter: TextCounter) -> Found:
    """Of the body of a chat request."""
    found = Found()
    messages = _messages(body.get("messages"), f"{where}: messages", found)
    _look_at_messages(messages, where, limits, rates, found)
    _look_at_totals(messages, where, limits, counter, found, reply=True)
    return found


def _messages(messages: Any, where: str, found: Found) -> list[Any]:
    if isinstance(messages, list) and messages:
        return messages
    _say(found, where, _kind(messages) if messages != [] else "an empty list", "give a list of messages")
    return []


def _look_at_messages(messages: list[Any], where: str, limits: Limits, rates: ImageRates, found: Found) -> None:
    for i, message in enumerate(messages):
        at = f"{where}: messages[{i}]"
        if not isinstance(message, dict):
            _say(found, at, _kind(message), 'make it an object: {"role": ..., "content": ...}')
            continue
        role = message.get("role")
        if role not in ROLES:
            near = did_you_mean(role, ROLES) if isinstance(role, str) else ""
            _say(found, f"{at}.role", f"{_short(role)}{near}", f"use one of {', '.join(ROLES)}")
        for key in message:
            if key not in MESSAGE_KEYS:
                _say(found, at, f"the key {_short(key)}{did_you_mean(str(key), MESSAGE_KEYS)}", f"use {', '.join(MESSAGE_KEYS)} only")
        if "weight" in message and (role != "assistant" or message["weight"] not in (0, 1) or isinstance(message["weight"], bool)):
            _say(found, f"{at}.weight", f"{_short(message['weight'])} of role {_short(role)}", "give 0 or 1, to assistant messages only")
        _look_at_content(message, at, limits, rates, found)


def _look_at_content(message: dict[str, Any], at: str, limits: Limits, rates: ImageRates, found: Found) -> None:
    content, role = message.get("content"), message.get("role")
    if content is None and role == "assistant" and (message.get("tool_calls") or message.get("function_call")):
        return
    if isinstance(content, str) and content:
        return
    if not isinstance(content, list) or not content:
        got = "an empty text" if content == "" else "an empty list" if content == [] else _kind(content)
        _say(found, f"{at}.content", got, "give a text, or a list of parts of type text or image_url")
        return
    for k, part in enumerate(content):
        here = f"{at}.content[{k}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str) or not part["text"]:
                _say(found, f"{here}.text", _kind(part.get("text")) if part.get("text") != "" else "an empty text", "give a text")
        elif kind == "image_url":
            found.n_images += 1
            if role != "user":
                _say(found, here, f"a picture in a message of role {_short(role)}", "put pictures into user messages only")
            _look_at_image(part.get("image_url"), f"{here}.image_url", limits, rates, found)
        else:
            _say(found, f"{here}.type", _short(kind), "use text or image_url")


def _look_at_image(image: Any, at: str, limits: Limits, rates: ImageRates, found: Found) -> None:
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        _say(found, f"{at}.url", "none", 'give {"url": "data:image/jpeg;base64,..."} or an http(s) address')
        return
    detail = image.get("detail")
    if detail not in (None, "auto", "low", "high"):
        _say(found, f"{at}.detail", _short(detail), "use low, high or auto, or leave it out")
        detail = None
    url: str = image["url"]
    size: tuple[int, int] | None = _ANY_SIZE
    if url.startswith("data:"):
        size = _look_at_bytes(url, f"{at}.url", limits, found)
    elif not re.match(r"https?://[^\s/]+", url):
        _say(found, f"{at}.url", _short(url), "give a data URL, or an address that begins with http:// or https://")
    if size is not None:
        tokens = image_tokens(*size, detail, rates)
        found.image_tokens += Count(rates.base + rates.tile, tokens.high) if size == _ANY_SIZE and detail == "high" else tokens


def _look_at_bytes(url: str, at: str, limits: Limits, found: Found) -> tuple[int, int] | None:
    """(width, height), if the picture can be opened at all."""
    head = _DATA_URL.match(url[:100])
    if head is None or head[1].lower() not in FORMATS:
        fix = "begin it with data:image/jpeg;base64, (or png, webp): other formats are not taken"
        _say(found, at, _short(url.partition(",")[0]), fix)
        return None
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        _say(found, at, "text that is no base64", "encode the picture's bytes with standard base64, padding included")
        return None
    if limits.image_bytes is not None and len(data) > limits.image_bytes:
        _say(found, at, f"a picture of {len(data):,} bytes", f"keep it to {limits.image_bytes:,} bytes: fewer pixels or lower quality")
    try:
        decode.look(data, _MOST_PIXELS)
        size, kind, mode = _header(data)
    except decode.BadImage as error:
        _say(found, at, f"{len(data):,} bytes that cannot be used: {error}", "give a sound JPEG, PNG or WEBP")
        return None
    if kind not in FORMATS[head[1].lower()]:
        _say(found, at, f"a picture of format {kind} that is declared {head[1]}", "convert it to JPEG, PNG or WEBP and declare it so")
    if mode not in MODES:
        _say(found, at, f"a picture of mode {mode}", "convert it to RGB or RGBA: grey, palette and CMYK are not taken")
    return size


def _header(data: bytes) -> tuple[tuple[int, int], str, str]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=[name for name in decode.FORMATS if name in Image.OPEN]) as opened:
        return opened.size, opened.format or "", opened.mode


def _look_at_end(messages: list[Any], where: str, found: Found) -> None:
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        _say(found, f"{where}[{len(messages) - 1}]", "a last message that is not the assistant's", "end the example with the wanted answer")
    elif not any(m.get("weight", 1) == 1 for m in messages if isinstance(m, dict) and m.get("role") == "assistant"):
        _say(found, where, "weight 0 on every assistant message", "give one of them weight 1: nothing would be learnt")


def _look_at_totals(messages: list[Any], where: str, limits: Limits, counter: TextCounter, found: Found, reply: bool) -> None:
    if limits.images_per_example is not None and found.n_images > limits.images_per_example:
        _say(found, where, f"{found.n_images} pictures", f"keep it to {limits.images_per_example} pictures an example")
    found.tokens = message_tokens((m for m in messages if isinstance(m, dict)), found.image_tokens, counter, reply)
    if limits.example_tokens is not None and found.tokens.low > limits.example_tokens:
        fix = f"shorten it to {limits.example_tokens:,}: the end, which is the answer, would be cut off"
        _say(found, where, f"{found.tokens} tokens", fix)


def _say(found: Found, where: str, got: str, fix: str) -> None:
    found.problems.append(Problem(where, got, fix))


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    text = (value or "an empty text") if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
