"""Scores of captions: CIDEr, ROUGE-L, BLEU, each computed by the library that papers use."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.text_metrics.optional import need
from trainables.text_metrics.pairs import check, mean_over
from trainables.text_metrics.tokens import Tokenizer, tokenized


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer = "python") -> float:
    """Corpus CIDEr-D, 0..10; papers print it times 100.

    tf-idf weighted n-grams of 1 to 4 words against each reference, document frequencies from these references, sigma 6. Because of the
    idf a corpus of one picture scores 0, and values of corpora of different size do not compare. Source: Vedantam et al. (2015),
    `pycocoevalcap` 1.2 (Cider, pure Python). Published values are made with tokenizer `ptb`, which needs Java; see `tokens`.
    """
    check(predictions, references)
    scorer = need("pycocoevalcap.cider.cider", "pycocoevalcap==1.2", "CIDEr").Cider()
    flat = tokenized([*predictions, *(text for known in references for text in known)], tokenizer)
    said, rest = flat[: len(predictions)], iter(flat[len(predictions) :])
    known = {i: [next(rest) for _ in texts] for i, texts in enumerate(references)}
    score, _ = scorer.compute_score(known, {i: [text] for i, text in enumerate(said)})
    return float(score)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L F1 against the best reference, a share in 0..1; words are not stemmed. Source: Lin (2004), `rouge-score` 0.1.2."""
    scorer = need("rouge_score.rouge_scorer", "rouge-score==0.1.2", "ROUGE-L").RougeScorer(["rougeL"], use_stemmer=False)
    return mean_over(predictions, references, lambda said, known: float(scorer.score_multi(list(known), said)["rougeL"].fmeasure))


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 as a share in 0..1 (papers print it times 100), tokenizer 13a, exponential smoothing.

    Pictures may have different numbers of references. Source: Papineni et al. (2002), Post (2018), `sacrebleu` 2.6.0.
    """
    check(predictions, references)
    scorer = need("sacrebleu.metrics", "sacrebleu==2.6.0", "BLEU").BLEU()
    most = max(map(len, references))
    columns = [[known[k] if k < len(known) else None for known in references] for k in range(most)]
    return float(scorer.corpus_score(list(predictions), columns).score) / 100.0
