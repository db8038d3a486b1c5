"""What is asked of a model for each sort of row: data, no code. The model's own chat template goes round it later.

Fields of a template: {text} the row's text; {context} `Context: ...` and a newline, or nothing; {tokens} `Reference OCR token: ...` and a
newline before it, or nothing; {choices} the options, comma-separated; {lettered} the options as lines `A. ...`.

Sources. Zhou et al. (2024) publish families of prompts, not their wording: ten caption paraphrases, "a single word or phrase" for VQA,
lettered options for ScienceQA, a list of choices or a blank to fill for IconQA, an "Unanswerable" instruction for VizWiz. Wording is
that of LLaVA-1.5, whose checkpoints they start from, where LLaVA has it (docs/Evaluation.md and llava/eval of haotian-liu/LLaVA), and
elsewhere that of a public re-implementation of their data (the IconQA texts; nine of the ten captions). The tenth caption, of the
eleven brief instructions of Liu et al. (2023, table 11), is our guess, and so is which of the two left over it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Prompt:
    """`templates`: paraphrases, one of which is drawn for each row. `answer`: what is to be answered; `letter` of the right option."""

    templates: tuple[str, ...]
    answer: Literal["text", "letter", "label"]
    source: str


_LLAVA = "LLaVA-1.5"
_AGAIN = "re-implementation of Zhou et al. (2024)"
_SHORT = "Answer the question using a single word or phrase."

PROMPTS: dict[str, Prompt] = {
    "as_is": Prompt(("{text}",), "text", "the data's own words"),
    "short_answer": Prompt(("{text}\n" + _SHORT,), "text", _LLAVA),
    "short_answer_context": Prompt(("{text}{tokens}\n" + _SHORT,), "text", _LLAVA + " (TextVQA with OCR tokens)"),
    "vizwiz_short": Prompt(
        ("{text}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n" + _SHORT,), "text", _LLAVA
    ),
    "option_letter": Prompt(
        ("{context}{text}\n{lettered}\nAnswer with the option's letter from the given choices directly.",), "letter", _LLAVA
    ),
    "iconqa_choices": Prompt(("{text} Choices: {choices}. Choose an option from the choices to answer the question.",), "text", _AGAIN),
    "iconqa_blank": Prompt(("{text} Fill in the blanks in (_) or answer this question",), "text", _AGAIN),
    "caption": Prompt(
        (
            "Describe the image concisely.",
            "Provide a brief description of the given image.",
            "Offer a succinct explanation of the picture presented.",
            "Summarize the visual content of the image.",
            "Share a concise interpretation of the image provided.",
            "Present a compact description of the photo's key features.",
            "Relay a brief, clear account of the picture shown.",
            "Render a clear and concise summary of the photo.",
            "Write a terse but informative summary of the picture.",
            "Create a compact narrative representing the image presented.",
        ),
        "text",
        "Liu et al. (2023), brief image description; ten of its eleven",
    ),
    "caption_one": Prompt(("Provide a one-sentence caption for the provided image.",), "text", _LLAVA + " (TextCaps)"),
    "post_as_is": Prompt(("{text}",), "label", "GaTech report: the post's words and nothing else"),
    "post_sentiment": Prompt(("{text}\nWhat is the sentiment of this post? Answer with positive, neutral or negative.",), "label", "ours"),
    "clipart_class": Prompt(("{text}\nWhat does the picture show? Answer with one of: {labels}.",), "label", "ours"),
}
