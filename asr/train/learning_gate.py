"""Whether a model that learnt from corrections may replace the one before: fewer errors, and nothing forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from asr.recognize.decoder import Decoder
from asr.scoring.score_report import Report
from asr.train.adaptation import Lesson
from asr.train.cross_validation import BestSetting, best_of_p_value, token_loss
from asr.train.learning_report import SIGNIFICANT, LearningReport
from asr.train.search_weights import WEIGHT_SHARES, rank_shares, score_rows, score_weights

BORNE = 1
"""Word errors more that tuned weights may make on held-out sentences which they made likelier. In ten sentences one
error is chance, and likelihoods show a change much more finely."""


def judge_learning(
    report: LearningReport,
    choice: BestSetting,
    search: Decoder,
    references: dict[str, str],
    start: Sequence[Tensor],
    shares: Sequence[float] = WEIGHT_SHARES,
) -> Decoder:
    """The search that the new model is to have; ``report.refusal`` says why it would be no better.

    Two changes are tried on the sentences that were held out: tuned weights with a share of the language models'
    weight, if tuning made the texts likelier, and the start with such a share. The first that shows a gain is taken.
    ``shares``: see ``score_weights``.
    """
    before = score_rows(search, start, references)
    report.errors_before, report.words = before.errors, before.words
    report.lm_weight_before = search.options.lm_weight
    report.gain, report.p_value = choice.gain, choice.p_value
    shown = []
    for rows, tuned in ([(choice.log_probs, choice)] if choice.gain > 0 else []) + [(start, None)]:
        found = score_weights(search.options, search.tokenizer, rows, references, shares)
        fewer = np.array([_fewer(before, one) for _, one in found])
        report.rate, report.epochs = (tuned.rate, tuned.epochs) if tuned else (0.0, 0)
        for chosen, after in rank_shares(found):
            report.lm_weight, report.errors_after = chosen.options.lm_weight, after.errors
            report.p_errors = best_of_p_value(fewer, [one for _, one in found].index(after))
            if _shows_gain(before, after, tuned):
                return chosen
        shown.append(f"at least {min(one.errors for _, one in found)} {'with' if tuned else 'without'} tuning")
    report.refusal = (
        f"cross-validation shows no gain: sentences that were held out have {before.errors} word errors in "
        f"{before.words} words before, and {', '.join(shown)}; tuning makes their texts "
        f"{'likelier' if choice.gain > 0 else 'less likely'} by {abs(choice.gain):.3f} nats a token "
        f"(p = {choice.p_value:.3f}); correct more sentences, or others"
    )
    return search


def _shows_gain(before: Report, after: Report, tuned: BestSetting | None) -> bool:
    """Whether there are fewer word errors, or as many and fewer character errors. Tuned weights, which made the texts
    likelier, may make ``BORNE`` more, and any number by chance where the texts became significantly likelier."""
    if tuned is None:
        return (after.errors, after.char_errors) < (before.errors, before.char_errors)
    borne = after.errors <= before.errors + BORNE or tuned.p_value < SIGNIFICANT
    return borne and not _more_errors(before, after)


def _more_errors(before: Report, after: Report) -> bool:
    """Whether the second has significantly more errors."""
    return after.errors > before.errors and best_of_p_value(np.array([_fewer(after, before)])) < SIGNIFICANT


def _fewer(before: Report, after: Report) -> list[float]:
    """By how many errors less the second recognises each utterance."""
    errors = {one.id: one.errors for one in before.utterances}
    return [float(errors[one.id] - one.errors) for one in after.utterances]


def check_forgetting(
    report: LearningReport, checked: Sequence[Lesson], rows: Sequence[Tensor], search: Decoder, after: Decoder
) -> None:
    """Refuse where the stored sentences have significantly more errors."""
    if not checked:
        return
    losses = np.array([token_loss(new, x) - token_loss(x.start, x) for new, x in zip(rows, checked, strict=True)])
    references = {x.id: search.tokenizer.decode(x.tokens) for x in checked}
    old, new = score_rows(search, [x.start for x in checked], references), score_rows(after, rows, references)
    report.rehearsal_before, report.rehearsal_after, report.rehearsal_words = old.errors, new.errors, old.words
    if _more_errors(old, new):
        report.refusal = (
            f"the model would forget: {new.errors} errors instead of {old.errors} in {old.words} words of "
            f"{len(checked)} stored sentences, which became less likely by {losses.mean():.3f} nats a token"
        )
