"""Captions to words without Java, against what Stanford's tokenizer makes of the same captions."""

from __future__ import annotations

import shutil

import pytest

from trainables.text_metrics.captions import cider
from trainables.text_metrics.tokens import python_tokens, tokenized
from tune.core.errors import UserError

# caption -> what PTBTokenizer 3.4.1 of pycocoevalcap 1.2 gave for it
CAPTIONS = {
    "A man doesn't look at his friend's dog, which is running.": "a man does n't look at his friend 's dog which is running",
    "A child is climbing up a set of stairs in an entry way .": "a child is climbing up a set of stairs in an entry way",
    "A black-and-white dog (a collie?) jumps over a 3-foot fence.": (
        "a black-and-white dog -lrb- a collie -rrb- jumps over a 3-foot fence"  # brackets stay, see tokens.py
    ),
    'The sign says "STOP" and the clock reads 10:30.': "the sign says stop and the clock reads 10:30",
    "A St. Bernard sits near the U.S. flag.": "a st. bernard sits near the u.s. flag",
    "It costs $1,000.50 at 50% off; the shop's closed.": "it costs $ 1,000.50 at 50 % off the shop 's closed",
    "A woman holding a sign that reads 'Free Hugs' in Times Square": "a woman holding a sign that reads free hugs in times square",
    "People can't see the boys' bikes because they're behind it.": "people ca n't see the boys bikes because they 're behind it",
    "A man wearing a #23 jersey & jeans...": "a man wearing a # 23 jersey & jeans",
    "He's gonna cannot do it -- she'll see, we've won and I'd go.": "he 's gon na can not do it she 'll see we 've won and i 'd go",
    "A cat, a dog and an elephant. They play.": "a cat a dog and an elephant they play",
    "Mr. Smith is at 5 p.m. in the park": "mr. smith is at 5 p.m. in the park",
    "A group of people sitting on a 1970's style sofa": "a group of people sitting on a 1970 's style sofa",
}
NEEDS_JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="no Java runtime")


@pytest.mark.parametrize("caption", CAPTIONS)
def test_words_are_those_of_the_penn_treebank(caption: str) -> None:
    assert python_tokens(caption) == CAPTIONS[caption]


@NEEDS_JAVA
@pytest.mark.slow
def test_the_expected_words_are_stanfords_own() -> None:
    pytest.importorskip("pycocoevalcap")
    assert tokenized(list(CAPTIONS), "ptb") == list(CAPTIONS.values())


@NEEDS_JAVA
@pytest.mark.slow
def test_cider_without_java_is_cider_with_java_on_these_captions() -> None:
    pytest.importorskip("pycocoevalcap")
    known = [[caption, caption.replace("A ", "The ")] for caption in CAPTIONS]
    said = [caption.lower().replace("the ", "a ", 1) for caption in CAPTIONS]
    assert cider(said, known, tokenizer="python") == pytest.approx(cider(said, known, tokenizer="ptb"))


def test_the_java_tokenizer_without_java_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError) as caught:
        tokenized(["a dog"], "ptb")
    assert "tokenizer ptb runs Java, and there is no java on the PATH\n    fix: install a Java runtime" in str(caught.value)
