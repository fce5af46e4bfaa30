"""Whether a model that learnt from corrections may replace the one before: fewer errors, and nothing forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from asr.recognize.decoder import Decoder
from asr.scoring.score_report import Report
from asr.train.adaptation import Lesson
from asr.train.cross_validation import BestSetting, best_of_p_value, token_loss
from asr.train.learning_report import LearningReport
from asr.train.search_weights import choose_weight, fewest_errors, score_rows, score_weights

SIGNIFICANT = 0.05
AGREEING = 0.2
"""A gain this likely to be chance is enough where held-out sentences have fewer word errors, too."""
WEIGHT_ALONE = 1 / 3
"""Where tuning shows no gain, fewer errors by another weight of the language models are enough below this p."""


def judge_learning(
    report: LearningReport, choice: BestSetting, search: Decoder, references: dict[str, str], start: Sequence[Tensor]
) -> Decoder:
    """The search that the new model is to have; ``report.refusal`` says why it would be no better."""
    before = score_rows(search, start, references)
    chosen, after = choose_weight(search.options, search.tokenizer, choice.log_probs, references)
    report.lm_weight_before, report.lm_weight = search.options.lm_weight, chosen.options.lm_weight
    report.rate, report.epochs = choice.rate, choice.epochs
    report.gain, report.p_value = choice.gain, choice.p_value
    report.errors_before, report.errors_after, report.words = before.errors, after.errors, before.words
    bar = AGREEING if after.errors < before.errors else SIGNIFICANT
    if choice.gain <= 0 or choice.p_value >= bar:
        report.refusal = (
            "cross-validation shows no gain: sentences that were held out became "
            f"{'likelier' if choice.gain > 0 else 'less likely'} by {abs(choice.gain):.3f} nats a token "
            f"(p = {choice.p_value:.3f}, expected below {bar}) and have {after.errors} word errors instead of "
            f"{before.errors}; correct more sentences, or others"
        )
        return _weight_alone(report, search, references, start, before) or chosen
    elif _more_errors(before, after):
        report.refusal = (
            f"cross-validation shows more errors on held-out sentences, {after.errors} instead of {before.errors} in "
            f"{before.words} words; correct more sentences"
        )
    return chosen


def _weight_alone(
    report: LearningReport, search: Decoder, references: dict[str, str], start: Sequence[Tensor], before: Report
) -> Decoder | None:
    """The start with another weight of its language models, where that makes fewer errors; the refusal is lifted."""
    found = score_weights(search.options, search.tokenizer, start, references)
    chosen, after = fewest_errors(found)
    old = {one.id: one.errors for one in before.utterances}
    gains = np.array([[float(old[one.id] - one.errors) for one in report.utterances] for _, report in found])
    if after.errors >= before.errors or best_of_p_value(gains) >= WEIGHT_ALONE:
        return None
    report.refusal, report.rate, report.epochs = "", 0.0, 0
    report.errors_after, report.lm_weight = after.errors, chosen.options.lm_weight
    return chosen


def _more_errors(before: Report, after: Report) -> bool:
    """Whether the second has significantly more errors."""
    return after.errors > before.errors and _p_of_errors(before, after) < SIGNIFICANT


def _p_of_errors(fewer: Report, more: Report) -> float:
    """Probability that the second has so many errors more by chance, paired by utterance."""
    errors = {one.id: one.errors for one in fewer.utterances}
    changes = np.array([float(one.errors - errors[one.id]) for one in more.utterances])
    return best_of_p_value(changes[None])


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
