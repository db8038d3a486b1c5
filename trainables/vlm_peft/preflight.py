"""What can be known, and refused, about data, model, processor and method before anything starts.

Rows are worded and tokenised without their pictures, of which one of each data set is processed, so that rows which are too long
are found here and not after hours. That is exact where all pictures widen a prompt alike (LLaVA, PaliGemma, BLIP-2), and else true
for the picture looked at. Everything wrong is said at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from trainables.data.decode import BadImage
from trainables.text_metrics.registry import METRICS as SCORES
from trainables.vlm_data.open import VlmTable, open_rows
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec
from trainables.vlm_data.wording import example
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.encode import later_turns, mean_colour, opened, processed, too_long_problems
from trainables.vlm_peft.estimate import bare, on_meta
from trainables.vlm_peft.model import context_of, end_ids, load_processor, located
from trainables.vlm_peft.spec import VlmPeftSpec
from trainables.vlm_peft.tiny import LABEL
from trainables.weights_look import weights_problems
from tune.core.errors import Problem, UserError


def look(spec: VlmPeftSpec, seed: int) -> dict[str, Any]:
    """Facts: `digest`, `rows` (part -> count), `kept`, `classes` where answers are few, `longest_tokens`, `weights`, `warnings`.

    Fetches hub files once, so that trials do not do it at the same time. `seed` is not needed: subsets have their own. Raises
    UserError with every problem of data, model, processor and method.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    tables: dict[str, VlmTable] = {}
    facts: dict[str, Any] = {}
    sets = {"": spec.data, **spec.kept}
    for name, data in sets.items():
        with _Noting(problems):
            tables[name] = open_rows(data)
            warnings += [f"kept.{name}: {text}" if name else text for text in tables[name].warnings]
            problems += _unscorable(spec, data, tables[name], f"trainable.kept.{name}" if name else "trainable.data")
    config: Any = None
    with _Noting(problems):
        _, config = on_meta(spec)
    absent: list[Problem] = []
    with _Noting(absent):
        facts["weights"] = LABEL if spec.model.tiny_family else str(located(spec.model))
        if config is not None and not spec.model.tiny_family:
            problems += weights_problems(located(spec.model), bare(config, spec.model), "trainable.model.name")
    problems += [problem for problem in absent if problem not in problems]
    chat: Chat | None = None
    with _Noting([] if absent and spec.model.processor is None else problems):  # a model that is nowhere is said once
        processor = load_processor(spec.model)
        chat = Chat(processor, spec.model, end_ids(spec.model))
    if chat is not None and config is not None:
        context = context_of(config) or spec.model.max_length
        n_own = int(getattr(spec.peft.chosen, "tokens", 0)) if spec.peft.method in ("prompt", "prefix") else 0  # places they take
        if n_own >= context:
            got = f"{n_own}, but the model's context is {context} tokens"
            raise UserError([*problems, Problem(f"trainable.peft.{spec.peft.method}.tokens", got, "set it far lower, such as 20")])
        longest = min(spec.model.max_length, context - n_own)
        for name, table in tables.items():
            with _Noting(problems):
                n_most = _most_tokens(table, sets[name], spec, chat, processor, longest)
                facts["longest_tokens"] = max(n_most, facts.get("longest_tokens", 0))
    if problems:
        raise UserError(problems)
    table = tables[""]
    if spec.model.quantize != "none":
        warnings.append(f"model.quantize: {spec.model.quantize} needs a GPU in each worker; on a CPU the study stops at its first trial")
    if spec.batch > table.counts()["train"]:
        warnings.append(f"batch {spec.batch} is larger than the {table.counts()['train']} training rows: an epoch is one smaller step")
    facts |= {"digest": table.digest, "rows": table.counts(), "warnings": warnings}
    if table.classes:
        facts["classes"] = list(table.classes)
    if spec.kept:
        facts["kept"] = {name: {"digest": tables[name].digest, "rows": tables[name].counts()} for name in spec.kept}
    return facts


def _most_tokens(table: VlmTable, data: VlmDataSpec, spec: VlmPeftSpec, chat: Chat, processor: Any, longest: int) -> int:
    """Tokens of the longest row. Raises UserError for rows over `longest`."""
    wider = {True: 0, False: 0}
    first = next((row for row in table.rows if row.image is not None), None)
    if first is not None:
        wider[True] = _wider(first, table, data, spec, chat, processor)
    lengths: list[tuple[Row, int]] = []
    for row in table.rows:
        item, has_picture = example(row, data, table.classes), row.image is not None
        answer, n_replaced = chat.answer_ids(item.prompt, item.target, has_picture)
        plain = len(chat.prompt_ids(chat.asked(item.prompt, has_picture)))
        later, _ = later_turns(chat, row, item)
        lengths.append((row, plain + wider[has_picture] - n_replaced + len(answer) + len(later)))
    over = [(row, n) for row, n in lengths if n > longest]
    if over:
        raise UserError(list(too_long_problems(((str(row.at), row.id, n) for row, n in over), longest)))
    return max(n for _, n in lengths)


def _wider(row: Row, table: VlmTable, data: VlmDataSpec, spec: VlmPeftSpec, chat: Chat, processor: Any) -> int:
    """By how many tokens a picture makes a prompt longer than its text alone."""
    assert row.image is not None
    asked = chat.asked(example(row, data, table.classes).prompt, True)
    try:
        image = opened(row.image, table.max_pixels, mean_colour(processor, spec.model))
        n_wide = processed(processor, asked, image)["input_ids"].shape[1]
    except (OSError, BadImage) as error:
        raise UserError(Problem(f"{row.at}: {row.image.name}", str(error), "mend the picture, or leave its rows out")) from None
    except (ValueError, TypeError, KeyError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        got = f"{type(processor).__name__} refuses a picture with its prompt: {said}"
        raise UserError(Problem("trainable.model.processor", got, "use the processor that belongs to the model")) from None
    return int(n_wide - len(chat.prompt_ids(asked)))


def _unscorable(spec: VlmPeftSpec, data: VlmDataSpec, table: VlmTable, where: str) -> Iterable[Problem]:
    for name in spec.scores_of(data):
        needs = SCORES[name].needs
        module = (needs or "").split("==")[0].replace("-", "_")
        if needs and importlib.util.find_spec(module) is None:
            yield Problem("trainable.evaluation.scores", f"{name}, which needs {needs}", f"run: pip install '{needs}'")
    if spec.evaluation.by == "likelihood" and not table.classes and not all(row.choices for row in table.rows):
        yield Problem(where, "rows without options in a data set without classes", "set evaluation.by: generate")


class _Noting:
    """Collects the problems of a UserError raised inside, and goes on."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError):
            self._problems += [problem for problem in error.problems if problem not in self._problems]
            return True
        return False
