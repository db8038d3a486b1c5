"""What a study says about the data of a vision-language trainable. Light: pydantic and the registry's names only, `check` reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainables.data.spec import SplitSpec
from trainables.vlm_data.prompts import PROMPTS
from trainables.vlm_data.registry import READERS, Reader
from tune.core.errors import did_you_mean

Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartsSpec(_Part):
    """Which split of the source plays which part; absent: taken out of train, with the shares of `split`."""

    train: str = Field(description="The source's split to train on.")
    val: str | None = Field(default=None, description="The source's split to choose by.")
    test: str | None = Field(default=None, description="The source's split to report on.")


class SubsetSpec(_Part):
    """How many rows of each part are used, drawn with the seed; a smaller subset is a part of a larger one. Absent: all."""

    train: Count | None = Field(default=None, description="Rows to train on, such as 1000, 5000 or 10000.")
    val: Count | None = Field(default=None, description="Rows to choose by.")
    test: Count | None = Field(default=None, description="Rows to report on.")
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the draw alone, so that it does not follow the study's.")


class VlmDataSpec(_Part):
    """Rows of picture, words and answers."""

    reader: str = Field(description="What the source is: " + ", ".join(READERS) + ".")
    source: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "A folder in the data set's published layout, a folder saved by datasets.save_to_disk, or hf:owner/name of the Hugging Face "
            "hub. Absent for what comes with a package (clipart, easy_vqa)."
        ),
    )
    prompt: str | None = Field(default=None, description="Name of a prompt template; absent: the reader's own.")
    text_field: str | None = Field(default=None, description="Which words of a row are its text; absent: the reader's first choice.")
    parts: PartsSpec | None = Field(default=None, description="Which splits are used as train, val and test; absent: the reader's own.")
    split: SplitSpec = Field(default_factory=SplitSpec, description="How rows are divided where the source does not say.")
    subset: SubsetSpec = Field(default_factory=SubsetSpec, description="How many rows of each part are used.")
    target: Literal["most_common", "drawn"] = Field(
        default="most_common", description="The answer to train on, of several: the commonest, the first of equals; or one drawn by seed."
    )
    agreement: Literal["all", "lenient"] | None = Field(
        default=None,
        description=(
            "mvsa: keep rows whose words and picture have one label (all, the default), or let neutral yield and drop only positive "
            "against negative (lenient)."
        ),
    )
    image_folder: str | None = Field(default=None, description="llava_json: where its pictures are; absent: beside the file.")
    imageless: Literal["fail", "drop", "keep"] = Field(
        default="fail", description="Rows without a picture: refuse them, leave them out, or keep them as text alone."
    )
    leaks: Literal["keep", "drop"] = Field(
        default="keep",
        description=(
            "Rows of train whose picture is also in the source's own val or test: keep them, as published, with a warning, or leave them "
            "out. Splits drawn here never share a picture."
        ),
    )
    undecodable: Literal["fail", "latin-1"] | None = Field(
        default=None, description="Text that is not UTF-8: refuse it or read it as latin-1; absent: latin-1 for mvsa, refused elsewhere."
    )
    pictures: Literal["look", "trust"] = Field(
        default="look",
        description=(
            "look: read every used picture once, refuse damaged ones and find exact copies by content. trust: only see that the files "
            "are there, and tell pictures apart by name; for very large sets."
        ),
    )
    max_pixels: int = Field(default=89_000_000, ge=1, le=178_000_000, description="Pictures of more pixels count as damaged.")

    @property
    def entry(self) -> Reader:
        return READERS[self.reader]

    @property
    def prompt_name(self) -> str:
        return self.prompt or self.entry.prompt

    @property
    def words(self) -> str:
        """The text field in force."""
        return self.text_field or self.entry.text_fields[0]

    @field_validator("reader")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in READERS:
            raise ValueError(f"no reader is called {name}{did_you_mean(name, READERS)}; there are {', '.join(READERS)}")
        return name

    @field_validator("prompt")
    @classmethod
    def _is_a_prompt(cls, name: str | None) -> str | None:
        if name is not None and name not in PROMPTS:
            raise ValueError(f"no prompt is called {name}{did_you_mean(name, PROMPTS)}; there are {', '.join(PROMPTS)}")
        return name

    @model_validator(mode="after")
    def _fits_the_reader(self) -> VlmDataSpec:
        """Options that this reader would not use are refused: a dead knob is a wrong result."""
        entry = self.entry
        for option in ("agreement", "image_folder"):
            if getattr(self, option) is not None and option not in entry.options:
                raise ValueError(f"{option} means nothing to reader {self.reader}; leave it out")
        if self.text_field is not None and self.text_field not in entry.text_fields:
            raise ValueError(f"reader {self.reader} has no text field {self.text_field}; it has {', '.join(entry.text_fields)}")
        if self.source is None and not entry.packaged:
            raise ValueError(f"reader {self.reader} needs a source: {entry.download}")
        if self.source is not None and entry.packaged:
            raise ValueError(f"reader {self.reader} reads what comes with a package; leave source out")
        if self.parts is not None and entry.splits == ("all",):
            raise ValueError(f"reader {self.reader} has no splits of its own; leave parts out and set split")
        if PROMPTS[self.prompt_name].answer == "letter" and not entry.has_choices:
            raise ValueError(f"prompt {self.prompt_name} asks for an option's letter, and rows of {self.reader} have no options")
        if PROMPTS[self.prompt_name].answer == "label" and not entry.has_labels:
            raise ValueError(f"prompt {self.prompt_name} asks for a class, and rows of {self.reader} have none")
        return self
