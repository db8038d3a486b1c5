"""A trial's model as folders that peft and transformers load: the adapter on its base, or the whole model with the adapter merged in.

Adapter: `adapter_config.json` and `adapter_model.safetensors` for `PeftModel.from_pretrained`, the processor's files beside them, and in
`tuned.safetensors` trained tensors that no adapter holds. The base stays where it is, and is named; one that was made here (of a tiny
family, assembled, or of another trial) exists nowhere else and is written to `base/`. Whole: what `save_pretrained` writes, for methods
that train the model itself, or when merged.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.vlm_data.prompts import PROMPTS
from trainables.vlm_peft.assemble import UNKNOWN_LICENCE, is_made, licence_of, said_of
from trainables.vlm_peft.assemble_spec import PREFIX
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.model import DTYPE, FACTS, FOLDER, end_ids, load_config, load_model, located, match_statistics, written
from trainables.vlm_peft.model import _processor_from as processor_from
from trainables.vlm_peft.model_class import brought
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec
from tune.core.errors import Problem, UserError
from tune.core.exports import Exported, ExportOrder, Predictor, TextUse

BASE = "base"  # in an export: a base model that was made here
_ADAPTER, _TUNED = "adapter_config.json", "tuned.safetensors"
_NEEDS_OPTIONS = ("{choices}", "{lettered}")


def export(order: ExportOrder) -> Exported:
    """Raises UserError: no model kept, an adapter that no weights can hold, a quantised base to merge into, base weights not to be had."""
    spec = _placed(order.spec)
    home = order.workdir / FOLDER
    if not (home / FACTS).exists():
        raise UserError(Problem(str(home), f"no {FACTS} in it", "export a trial that ran to its end"))
    if order.merge and spec.model.quantize != "none":
        got = f"a base held in {spec.model.quantize}, into which an adapter cannot be merged exactly"
        raise UserError(Problem("--merge", got, "leave --merge out: the adapter loads on the base as it is"))
    facts = json.loads((home / FACTS).read_text(encoding="utf-8"))
    whole = order.merge or not (home / _ADAPTER).exists()
    base = BASE if _made_here(spec.model) else spec.model.name.removeprefix("hf:")
    if whole:
        _write_whole(spec, home, order.folder)
    else:
        _write_adapter(spec, home, order.folder, base)
    shutil.copytree(home / "processor", order.folder, dirs_exist_ok=True)
    begun = str(facts["base"]) if spec.model.tiny_family else said_of(spec.model)
    prompt, use = words_of(spec)
    chat = Chat(processor_from(order.folder, spec.model), spec.model, end_ids(spec.model))
    labels = asks_for_labels(spec, facts["classes"])
    return Exported(
        task="labels" if labels else "text",
        text=use,
        about={"layout": "whole" if whole else "adapter", "spec": written(spec), "classes": facts["classes"]},
        max_pixels=spec.data.max_pixels,
        facts={
            "base model": begun,
            "method": f"{spec.peft.method}; connector {spec.peft.connector}, vision tower {spec.peft.vision}; kept by {spec.keep.method}",
            "form": _form(spec, order.folder, whole, order.merge),
            "prompt": f"{prompt} ({PROMPTS[prompt].templates[0]!r})",
            "answers": _answers(spec, facts["classes"], labels),
        },
        loading=_loading(spec, order.folder, base, chat, whole),
        starting_weights=begun,
        licence=_licence(spec),
        random_weights=spec.model.tiny_family is not None,
        packages=("transformers" if whole else "peft", *(() if whole else ("transformers",)), "torch", "safetensors", "pillow"),
        tags=("image-text-to-text", *(() if whole else (spec.peft.method,))),
        notes=_notes(spec, labels),
    )


def predict(folder: Path, about: Mapping[str, Any]) -> Predictor:
    """The model of an export, on a GPU if there is one."""
    from trainables.vlm_peft.answer import Answerer

    return Answerer(folder, VlmPeftSpec.model_validate(about["spec"]), tuple(about["classes"]), about["layout"] == "whole")


def words_of(spec: VlmPeftSpec) -> tuple[str, TextUse]:
    """The prompt that a question is put into, and whether it needs words. Options of a row are part of the words of a question."""
    name = spec.data.prompt_name
    template = PROMPTS[name].templates[0]
    if any(field in template for field in _NEEDS_OPTIONS):
        return "as_is", "required"
    if "{text}" not in template:
        return name, "none"
    return name, "optional" if PROMPTS[name].answer == "label" else "required"


def asks_for_labels(spec: VlmPeftSpec, classes: tuple[str, ...] | list[str]) -> bool:
    """True where the trial was judged by the likeliest of answers that are the same for every row."""
    return spec.evaluation.by == "likelihood" and bool(classes) and words_of(spec)[0] == spec.data.prompt_name


def opened(folder: Path, spec: VlmPeftSpec, whole: bool, device: str) -> tuple[Any, Any]:
    """(model in eval mode on a device, the model spec whose files it comes from)."""
    from trainables.peft_methods.save import load_adapter

    _quiet_unless_watched()
    local = folder if whole else folder / BASE if (folder / BASE).exists() else None
    source = spec.model if local is None else spec.model.model_copy(update={"name": str(local), "processor": None})
    module = load_model(source, device)
    if not whole:
        module = load_adapter(module, folder)
    if spec.model.quantize == "none":
        module.to(device)
        for parameter in module.parameters():  # not buffers: rounded rotary frequencies would move every position
            parameter.data = parameter.data.to(DTYPE[spec.engine.precision])
        match_statistics(module)
    return module.eval(), source


def _made_here(model: ModelSpec) -> bool:
    return model.tiny_family is not None or is_made(model.name)


def _placed(spec: VlmPeftSpec) -> VlmPeftSpec:
    """Folders by their full path: an export is asked from anywhere."""

    def full(name: str | None) -> str | None:
        return name if name is None or name.startswith(("hf:", "tiny:", PREFIX)) else str(Path(name).expanduser().resolve())

    model = spec.model.model_copy(update={"name": full(spec.model.name), "processor": full(spec.model.processor)})
    return spec.model_copy(update={"model": model})


def _write_adapter(spec: VlmPeftSpec, home: Path, folder: Path, base: str) -> None:
    for path in home.iterdir():
        if path.is_file() and path.name != FACTS and path.suffix in (".json", ".safetensors"):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
    (folder / _ADAPTER).write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2), encoding="utf-8")
    if spec.model.tiny_family:
        load_model(spec.model).save_pretrained(folder / BASE)
    elif base == BASE:
        shutil.copytree(located(spec.model), folder / BASE)


def _write_whole(spec: VlmPeftSpec, home: Path, folder: Path) -> None:
    from trainables.peft_methods.anatomy import anatomy_of
    from trainables.peft_methods.build import Adapted
    from trainables.peft_methods.save import load_adapter, merged

    _quiet_unless_watched()
    base = load_model(spec.model)
    anatomy, n_base = anatomy_of(base, None), sum(parameter.numel() for parameter in base.parameters())
    try:
        model = merged(Adapted(load_adapter(base, home), anatomy, spec.peft, n_base))
    except UserError as error:
        raise UserError([Problem("--merge", problem.got, "leave --merge out") for problem in error.problems]) from None
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPE[spec.engine.precision])
    match_statistics(model)
    model.save_pretrained(folder)
    if spec.model.trust_remote_code:
        for code in located(spec.model).glob("*.py"):
            shutil.copyfile(code, folder / code.name)


def _quiet_unless_watched() -> None:
    """Bars of loading and writing are for a terminal: elsewhere they stand between the lines of answers."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _form(spec: VlmPeftSpec, folder: Path, whole: bool, merged: bool) -> str:
    if whole:
        return "the adapter merged into the base model's weights" if merged else "the whole model, which was trained itself"
    return "a peft adapter" + (f", and trained tensors of the base in {_TUNED}" if (folder / _TUNED).exists() else "")


def _answers(spec: VlmPeftSpec, classes: list[str], labels: bool) -> str:
    if labels:
        return f"the most probable of {len(classes)} answers: {', '.join(classes[:20])}{' ...' if len(classes) > 20 else ''}"
    return f"greedy words, at most {spec.evaluation.new_tokens} tokens"


def _notes(spec: VlmPeftSpec, labels: bool) -> tuple[str, ...]:
    notes = []
    if spec.evaluation.by == "likelihood" and not labels:
        notes.append("The trial was tested by the likeliest of each row's options; `phasetune predict` does not know them and generates.")
    if words_of(spec)[0] != spec.data.prompt_name:
        wording = PROMPTS[spec.data.prompt_name].templates[0]
        notes.append(f"`--text` is put before the model as it is; in training a question with its options was worded {wording!r}.")
    if spec.model.pad_to_square:
        notes.append("Pictures were padded to a square with the processor's mean colour first, which the snippet above leaves out.")
    if spec.peft.method == "bottleneck":
        notes.append("peft knows the method bottleneck only after `import trainables.peft_methods.bottleneck` of Phasetune.")
    return tuple(notes)


def _licence(spec: VlmPeftSpec) -> str:
    if spec.model.tiny_family is not None:
        return "none: there were no weights to begin with"
    if _made_here(spec.model):
        return licence_of(spec.model)
    card = located(spec.model, weights=False) / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace")[:4000], re.M) if card.is_file() else None
    return f"{found[1]} (as the base model's card says)" if found else UNKNOWN_LICENCE


def _loading(spec: VlmPeftSpec, folder: Path, base: str, chat: Chat, whole: bool) -> str:
    prompt, use = words_of(spec)
    asked = chat.asked(PROMPTS[prompt].templates[0].format_map(_Marked()), True)
    where = "EXPORT/base" if base == BASE else base
    dtype = str(DTYPE[spec.engine.precision])
    own = brought(load_config(spec.model)) if spec.model.trust_remote_code else None
    auto, trust = (own[1], ", trust_remote_code=True") if own is not None else ("AutoModelForImageTextToText", "")
    lines = ["import torch", "from PIL import Image", f"from transformers import {auto}, AutoProcessor", ""]
    if whole:
        lines += [f'model = {auto}.from_pretrained("EXPORT", dtype={dtype}{trust}).eval()']
    else:
        bottleneck = (
            ["import trainables.peft_methods.bottleneck  # of Phasetune: registers the method"] if spec.peft.method == "bottleneck" else []
        )
        lines[2:2] = ["from peft import PeftModel", *bottleneck]
        lines += [f'base = {auto}.from_pretrained("{where}", dtype={dtype}{trust})']
        if (folder / _TUNED).exists():
            lines[2:2] = ["from safetensors.torch import load_file"]
            lines += [f'base.load_state_dict(load_file("EXPORT/{_TUNED}"), strict=False)']
        lines += ['model = PeftModel.from_pretrained(base, "EXPORT").eval()']
    said = repr(asked.text) + (".replace('QUESTION', question)" if use != "none" else "")
    lines += [
        f'processor = AutoProcessor.from_pretrained("EXPORT"{", trust_remote_code=True" if spec.model.trust_remote_code else ""})',
        *(['question = "..."'] if use != "none" else []),
        f"text = {said}",
        'image = Image.open("picture.jpg").convert("RGB")',
        f'inputs = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens={asked.special})',
        f"ends = {sorted(chat.end_ids)}",
        f"tokens = model.generate(**inputs, max_new_tokens={spec.evaluation.new_tokens}, do_sample=False, eos_token_id=ends)",
        'print(processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(lines)


class _Marked(dict[str, str]):
    """Fills a prompt's text with a mark, and its other fields with nothing."""

    def __missing__(self, field: str) -> str:
        return "QUESTION" if field == "text" else ""
