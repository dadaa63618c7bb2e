"""``cyclealign eval text``: overlap with references, variety, refusals and repetition.

sacreBLEU and ROUGE come from their libraries. PRO's published BLEU is another thing and has another name.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from cyclealign.evaluation.replies import distinct_n
from cyclealign.evaluation.responses import Response
from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Figure, bootstrap_mean, share
from cyclealign.evaluation.words import RougeWords, without_spaces, words
from cyclealign.judge.replies import is_refusal
from cyclealign.types import UserError

ROUGES = ("rouge1", "rouge2", "rougeL")
SELF_BLEU = 100  # responses that are compared with each other: the cost grows with their square
REPETITIVE = 0.2  # share of repeated 4-grams above which a reply counts as repetitive


def evaluate_text(
    source: str, responses: Mapping[str, Response], references: Mapping[str, str], *, seed: int
) -> Result:
    """Figures of the texts alone and, where prompts have references, of their overlap with those.

    ``references``: by prompt id. Raises UserError where the libraries are not installed, or no prompt has a reference
    though there are some.
    """
    texts = {i: r.text for i, r in responses.items()}
    pairs = [(i, texts[i], references[i]) for i in texts if i in references]
    if references and not pairs:
        raise UserError(f"{source}: none of its prompts has a reference; the messages must be the same")
    metrics: dict[str, Figure] = {"items": len(texts), "texts": text_figures(list(texts.values()), seed=seed)}
    values: dict[str, float] = {}
    if pairs:
        overlap, rouge = overlap_figures([h for _, h, _ in pairs], [r for _, _, r in pairs], seed=seed)
        metrics = metrics | overlap | {"with_reference": len(pairs)}
        values = dict(zip((i for i, _, _ in pairs), rouge, strict=True))
    items = [
        Item(
            key=i,
            value=values.get(i),
            prompt=responses[i].prompt.messages[-1]["content"],
            responses={"reply": text} | ({"reference": references[i]} if i in references else {}),
        )
        for i, text in texts.items()
    ]
    about: dict[str, Figure] = {"responses": source, "references": len(references)}
    return make_result("text", about=about, seed=seed, metrics=metrics, items=items, primary="rougeL")


def overlap_figures(
    hypotheses: Sequence[str], references: Sequence[str], *, seed: int
) -> tuple[dict[str, Figure], list[float]]:
    """sacreBLEU and chrF of the corpus, mean ROUGE F1 and PRO's BLEU with intervals; and ROUGE-L by item."""
    sacrebleu, rouge = _needed("sacrebleu"), _needed("rouge_score.rouge_scorer")
    bleu, chrf = sacrebleu.BLEU(tokenize=_bleu_tokens(references)), sacrebleu.CHRF()
    corpus = bleu.corpus_score(list(hypotheses), [list(references)])
    letters = chrf.corpus_score(list(hypotheses), [list(references)])
    own = _needed("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=True)
    scorer = rouge.RougeScorer(list(ROUGES), tokenizer=RougeWords(own))
    scored = [scorer.score(r, h) for h, r in zip(hypotheses, references, strict=True)]
    by_rouge = {name: [s[name].fmeasure for s in scored] for name in ROUGES}
    pro = [bleu_char_pro_compat(h, r) for h, r in zip(hypotheses, references, strict=True)]
    figures: dict[str, Figure] = {
        "sacrebleu": float(corpus.score),
        "sacrebleu_signature": str(bleu.get_signature()),
        "chrf": float(letters.score),
        **{name: bootstrap_mean(values, seed=seed) for name, values in by_rouge.items()},
        "bleu_char_pro_compat": bootstrap_mean(pro, seed=seed),
    }
    return figures, by_rouge["rougeL"]


def bleu_char_pro_compat(hypothesis: str, reference: str) -> float:
    """What PRO's tables (arXiv 2306.17492) call BLEU, times 100: NLTK's sentence BLEU called on strings, not words.

    So it is BLEU-4 over characters, unsmoothed, averaged over samples. Unrelated English sentences get 10 to 30: it
    is here to stand beside published tables, and says little. 0 for an empty side.
    """
    if not hypothesis or not reference:
        return 0.0
    sentence_bleu = _needed("nltk.translate.bleu_score").sentence_bleu
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no common 4-gram: unsmoothed BLEU is 0, as published
        return float(100 * sentence_bleu([reference], hypothesis))


def text_figures(texts: Sequence[str], *, seed: int) -> dict[str, Figure]:
    """Length, distinct-n, self-BLEU, and the shares of refusals, empty and repetitive replies."""
    tokens = [words(t) for t in texts]
    repeated = [repetition(t) for t in tokens]
    n = len(texts)
    return {
        "mean_words": fmean(map(len, tokens)),
        "distinct1": distinct_n(tokens, 1),
        "distinct2": distinct_n(tokens, 2),
        "self_bleu": self_bleu(texts, seed=seed),
        "empty_rate": share(sum(not t.strip() for t in texts), n),
        "refusal_rate": share(sum(map(is_refusal, texts)), n),
        "repetition": bootstrap_mean(repeated, seed=seed),
        "repetitive_rate": share(sum(r > REPETITIVE for r in repeated), n),
    }


def repetition(tokens: Sequence[str]) -> float:
    """Share of a reply's 4-grams that it has had before (seq-rep-4, Welleck et al. 2019, arXiv 1908.04319)."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], *, seed: int) -> float | None:
    """Mean sentence BLEU of each text against all others (Zhu et al. 2018, arXiv 1802.01886), of at most SELF_BLEU.

    Higher is less varied. None for fewer than two texts that are not empty.
    """
    found = [t for t in texts if t.strip()]
    if len(found) > SELF_BLEU:
        found = random.Random(seed).sample(found, SELF_BLEU)  # noqa: S311  seeded, to be repeated
    if len(found) < 2:
        return None
    bleu = _needed("sacrebleu").BLEU(effective_order=True, tokenize=_bleu_tokens(found))
    return fmean(bleu.sentence_score(t, found[:n] + found[n + 1 :]).score for n, t in enumerate(found))


def _bleu_tokens(texts: Sequence[str]) -> str:
    """sacreBLEU's tokenizer: its default, or characters where most texts are written without spaces (its signature
    says which)."""
    return "char" if sum(map(without_spaces, texts)) > len(texts) / 2 else "13a"


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"eval text needs the package {error.name}: pip install 'cyclealign[eval]'") from error
