"""From a prompt and an answer to tokens: the model's own chat template, or a named one, and what of it is the answer.

The prompt is what the model sees when it is asked; the answer is what follows it, up to and with the token that ends a turn. Both
are cut from one tokenisation of the whole text where a template is used, so that a tokenizer that joins characters over the border
gives in training what it gives in use: the tokens that differ from those of the prompt alone are the answer's.

Promises: answers end with an end token, whether the template writes one or not (LLaVA's does not); nothing after it is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables.vlm_peft.spec import ModelSpec
from tune.core.errors import Problem, UserError

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)  # fastchat's vicuna_v1, as in LLaVA-1.5
_WHERE = "trainable.model.template"


@dataclass(frozen=True)
class Asked:
    """`text`: what the processor is given. `special`: whether the tokenizer puts its own beginning before it."""

    text: str
    special: bool


class Chat:
    """The words round prompts and answers of one model. `end_ids`: tokens that end an answer."""

    def __init__(self, processor: Any, spec: ModelSpec, end_ids: Sequence[int] = ()) -> None:
        self.tokenizer = processor.tokenizer
        self._processor, self._template = processor, spec.template
        token = getattr(processor, "image_token", None)
        self.image_token = None if token is None else str(getattr(token, "content", token))
        eos = self.tokenizer.eos_token_id
        self.end_ids = frozenset(end_ids) | ({eos} if eos is not None else set())
        if not self.end_ids:
            raise UserError(Problem("trainable.model", "a tokenizer without an end token", "give one with an eos_token"))
        self._end = eos if eos is not None else min(self.end_ids)
        if spec.template == "own" and not self._own_template():
            got = f"{spec.name}, whose processor {type(processor).__name__} has no chat template"
            raise UserError(Problem(_WHERE, got, "set it to plain (picture, prompt, newline), or to vicuna_v1 for LLaVA-1.5's checkpoints"))
        self._answers: dict[str, tuple[int, ...]] = {}

    def asked(self, prompt: str, has_picture: bool) -> Asked:
        """What is put before the model."""
        said = prompt if self.image_token is None else prompt.replace(self.image_token, " ").strip()
        if self._template == "own":
            return self._with_beginning(self._rendered(self._messages(said, has_picture), ask=True))
        picture = self.image_token if has_picture and self.image_token is not None and not self._places_pictures() else ""
        if self._template == "vicuna_v1":
            return self._with_beginning(f"{_VICUNA_SYSTEM} USER: {picture}{picture and chr(10)}{said} ASSISTANT:")
        return self._with_beginning(f"{picture}{said}" if self._ends_prompts() else f"{picture}{said}\n")

    def prompt_ids(self, asked: Asked) -> list[int]:
        """Tokens with the picture's place still one token (or none)."""
        return list(self.tokenizer(asked.text, add_special_tokens=asked.special)["input_ids"])

    def answer_ids(self, prompt: str, answer: str, has_picture: bool) -> tuple[list[int], int]:
        """(tokens of the answer with its end, how many of the prompt's last tokens they replace).

        The second is above zero only where the tokenizer joins over the border.
        """
        if self._template == "plain":
            ids = self.tokenizer(answer.strip(), add_special_tokens=False)["input_ids"]
            return [*ids, self._end], 0
        asked = self.asked(prompt, has_picture)
        after = self._after(asked.text, self._whole(prompt, answer, has_picture, asked))
        n_all = len(self.tokenizer(self._whole(prompt, answer, has_picture, asked), add_special_tokens=asked.special)["input_ids"])
        return self._ended(after), len(self.prompt_ids(asked)) - (n_all - len(after))

    def later_ids(self, turns: Sequence[tuple[str, str]], has_picture: bool) -> tuple[list[int], list[int]]:
        """(tokens after the first answer, 1 for each that is learnt) of a conversation's later turns: questions are not learnt.

        Raises UserError with the plain template, which has no turns.
        """
        ids: list[int] = []
        learnt: list[int] = []
        for n in range(1, len(turns)):
            before, asked, whole = (self._dialogue(turns, n, end, has_picture) for end in ("answered", "asked", "whole"))
            question = self._after(before, asked)
            answer = self._ended(self._after(asked, whole))
            ids += [*question, *answer]
            learnt += [*([0] * len(question)), *([1] * len(answer))]
        return ids, learnt

    def candidate_ids(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer after any prompt: what stands before an answer is the same for all."""
        if answer not in self._answers:
            self._answers[answer] = tuple(self.answer_ids("?", answer, False)[0])
        return self._answers[answer]

    def text_of(self, ids: Sequence[int]) -> str:
        """The words of generated tokens, up to the first end."""
        cut = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return str(self.tokenizer.decode(list(ids[:cut]), skip_special_tokens=True)).strip()

    def _whole(self, prompt: str, answer: str, has_picture: bool, asked: Asked) -> str:
        if self._template == "vicuna_v1":
            return f"{asked.text} {answer.strip()}"
        said = prompt if self.image_token is None else prompt.replace(self.image_token, " ").strip()
        messages = [*self._messages(said, has_picture), {"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]}]
        whole = self._rendered(messages, ask=False)
        if not whole.startswith(asked.text):
            raise UserError(
                Problem(_WHERE, "own, whose question is not the beginning of the same question with its answer", "set plain or vicuna_v1")
            )
        return whole.rstrip()

    def _dialogue(self, turns: Sequence[tuple[str, str]], n: int, end: str, has_picture: bool) -> str:
        """The text up to question n: without it, with it, or with its answer too."""
        if self._template == "plain":
            raise UserError(Problem(_WHERE, "plain, with conversations of several turns", "set own or vicuna_v1, which have turns"))
        if self._template == "vicuna_v1":
            text = f"{self.asked(turns[0][0], has_picture).text} {turns[0][1].strip()}{self.tokenizer.eos_token}"
            for said, answered in turns[1:n]:
                text += f"USER: {said} ASSISTANT: {answered.strip()}{self.tokenizer.eos_token}"
            if end == "answered":
                return text
            asked = f"{text}USER: {turns[n][0]} ASSISTANT:"
            return asked if end == "asked" else f"{asked} {turns[n][1].strip()}"
        messages: list[dict[str, Any]] = []
        for k, (said, answered) in enumerate(turns[: n + 1]):
            messages += self._messages(said, has_picture and k == 0)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answered.strip()}]})
        kept = {"answered": messages[:-2], "asked": messages[:-1], "whole": messages}[end]
        text = self._rendered(kept, ask=end == "asked")
        return text if end == "asked" else text.rstrip()

    def _after(self, before: str, whole: str) -> list[int]:
        """The tokens of `whole` that follow those it has in common with `before`."""
        special = self._with_beginning(before).special
        first, every = (list(self.tokenizer(text, add_special_tokens=special)["input_ids"]) for text in (before, whole))
        same = 0
        while same < min(len(first), len(every)) and first[same] == every[same]:
            same += 1
        return every[same:]

    def _ended(self, ids: list[int]) -> list[int]:
        cut = next((i for i, token in enumerate(ids) if token in self.end_ids), None)
        return [*ids, self._end] if cut is None else ids[: cut + 1]

    def _messages(self, said: str, has_picture: bool) -> list[dict[str, Any]]:
        picture = [{"type": "image"}] if has_picture else []
        return [{"role": "user", "content": [*picture, {"type": "text", "text": said}]}]

    def _rendered(self, messages: list[dict[str, Any]], *, ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(self._processor.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False))
        except (TemplateError, TypeError, ValueError) as error:  # a template is a program: it may do anything wrong
            got = f"own, and the model's chat template fails: {str(error) or type(error).__name__}"
            raise UserError(Problem(_WHERE, got[:300], "mend its chat_template.jinja, or set plain or vicuna_v1")) from None

    def _with_beginning(self, text: str) -> Asked:
        begin = self.tokenizer.bos_token
        return Asked(text, special=not (begin and text.startswith(begin)))

    def _own_template(self) -> bool:
        return bool(getattr(self._processor, "chat_template", None))

    def _places_pictures(self) -> bool:
        """BLIP-2's processor puts the picture's tokens first by itself."""
        return getattr(self._processor, "num_query_tokens", None) is not None

    def _ends_prompts(self) -> bool:
        """PaliGemma's processor puts the newline after the prompt by itself."""
        return type(self._processor).__name__ == "PaliGemmaProcessor"
