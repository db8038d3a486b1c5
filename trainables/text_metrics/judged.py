"""Scores that another model gives: how informative an answer is, and whether it tells of things that are not in the picture.

The scale and its reading are MMHal-Bench's (Sun et al. 2023, arXiv 2309.14525): 0 to 6, where 3 and above is without hallucination. The
judge sees no picture, only what is known to be in it. The wording of the request is ours, so scores do not compare with published ones
unless `template` is the benchmark's own. A reply without one clear rating is no rating: it is counted, not scored as zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainables.text_metrics.pairs import check
from tune.core.errors import Problem, UserError

Ask = Callable[[str], str]
TEMPLATE = """You judge the answer of a vision-language model to a question about a picture.
You do not see the picture; what is in it is listed.

Picture: {content}
Question: {question}
A right answer: {reference}
The model's answer: {answer}

Does the answer tell of anything that is neither in the picture nor follows from it (a hallucination)? How informative is it?
6: very informative, with good analysis, no hallucination. 5: very informative, no hallucination. 4: somewhat informative, no hallucination.
3: not informative, no hallucination. 2: very informative, with hallucination. 1: somewhat informative, with hallucination.
0: not informative, with hallucination.
Explain in a sentence or two, then end with a line `Rating: N`."""
_RATING = re.compile(r"rating\s*[:=]\s*\**\s*([0-6])(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Judged:
    """`score`: mean rating, 0..6. `hallucination_rate`: share of ratings below 3, 0..1. `n_unrated`: replies without a rating."""

    score: float
    hallucination_rate: float
    n_unrated: int


def judged(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    questions: Sequence[str],
    contents: Sequence[str],
    ask: Ask,
    template: str = TEMPLATE,
) -> Judged:
    """Ratings of all predictions by `ask(request) -> reply`. `contents`: what is in each picture. Raises ValueError without any rating."""
    check(predictions, references)
    ratings: list[int | None] = []
    for answer, known, question, content in zip(predictions, references, questions, contents, strict=True):
        ratings.append(rating(ask(template.format(content=content, question=question, reference=known[0], answer=answer))))
    given = [value for value in ratings if value is not None]
    if not given:
        raise ValueError("the judge gave no rating")
    return Judged(sum(given) / len(given), sum(value < 3 for value in given) / len(given), len(ratings) - len(given))


def rating(reply: str) -> int | None:
    """The one rating of a reply, or None if there is none or several that differ."""
    found = {int(value) for value in _RATING.findall(reply)}
    return found.pop() if len(found) == 1 else None


def openai_judge(base_url: str, model: str, key_variable: str = "OPENAI_API_KEY", timeout_s: float = 60.0) -> Ask:
    """`ask` of any OpenAI-compatible endpoint, temperature 0. The key comes from the environment and is kept nowhere."""
    key = os.environ.get(key_variable)
    if not key:
        raise UserError(
            Problem("metric", f"the judge needs a key, and {key_variable} is not set", f"set {key_variable}; any text, if none is asked")
        )
    import openai

    client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_s)

    def ask(request: str) -> str:
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": request}], temperature=0)
        return reply.choices[0].message.content or ""

    return ask
