"""What ``asr learn`` found and did, as plain values and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SIGNIFICANT = 0.05
"""Probability of chance below which something counts as shown."""
SHOWN = 12
"""Words and utterances that the report names; the JSON has all."""


@dataclass(frozen=True)
class Misfit:
    """A correction whose text is probably not what was said. ``ratio``: see ``asr.train.text_check.TextFit``."""

    id: str
    text: str
    ratio: float


@dataclass
class LearningReport:
    """What was read, what cross-validation and the check for forgetting showed, and what was decided.

    ``errors_*``: word errors on held-out corrections, decoded as the model directory says. ``rehearsal_*``: on
    ``rehearsal`` stored sentences. ``gain``: nats per token by tuning, which is left out where ``epochs`` is 0.
    ``p_value``, ``p_errors``: of as large a gain, or as many errors less, by chance. ``proved``: one of them is
    significant; two are looked at, so it has to be below 0.025 (Bonferroni).
    ``lm_weight``: of the new model's language models. ``recognised``: words of the corrections that the start missed
    and the new model, which has learnt these very sentences, recognises.
    """

    model: str
    corrections: int
    used: int = 0
    learnt: bool = False
    refusal: str = ""
    output: str = ""
    misfits: list[Misfit] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    rate: float = 0.0
    epochs: int = 0
    gain: float = 0.0
    p_value: float = 1.0
    p_errors: float = 1.0
    lm_weight_before: float | tuple[float, ...] = 0.0
    lm_weight: float | tuple[float, ...] = 0.0
    words: int = 0
    errors_before: int = 0
    errors_after: int = 0
    rehearsal: int = 0
    rehearsal_words: int = 0
    rehearsal_before: int = 0
    rehearsal_after: int = 0
    new_words: list[str] = field(default_factory=list)
    recognised: list[str] = field(default_factory=list)

    @property
    def proved(self) -> bool:
        """Whether the gain is more than chance would bring."""
        return min(self.p_value if self.epochs else 1.0, self.p_errors) < SIGNIFICANT / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"proved": self.proved}

    def summary(self) -> str:
        """The report in words, some lines."""
        lines = [f"{self.used} of {self.corrections} corrections can be used"]
        lines += [
            f"  {one.id}: {one.text[:60]!r} is probably not what was said (loss {one.ratio:.0%} of a random text's)"
            for one in self.misfits[:SHOWN]
        ]
        lines += [f"  {id}: {reason}" for id, reason in list(self.left_out.items())[:SHOWN]]
        more = max(0, len(self.misfits) - SHOWN) + max(0, len(self.left_out) - SHOWN)
        lines += [f"  and {more} more (--json lists all)"] if more else []
        if self.words:
            lines.append(
                f"held-out corrections: {self.errors_before} errors before, {self.errors_after} after, in {self.words} "
                f"words (p = {self.p_errors:.3f}); {self.gain:+.3f} nats a token by tuning, p = {self.p_value:.4f} "
                f"({f'rate {self.rate:g}, {self.epochs} epochs' if self.epochs else 'so the network stays as it is'})"
            )
        if self.refusal:
            return "\n".join([*lines, f"refused, nothing written: {self.refusal}"])
        if self.errors_after > self.errors_before:
            lines.append("held-out corrections have more errors, which may be chance; their texts became likelier")
        if not self.proved:
            lines.append("so few sentences do not prove the gain: compare both models before you delete the old one")
        lines.append(_named("now recognises", self.recognised) or "no word of the corrections is newly recognised")
        if self.lm_weight != self.lm_weight_before:
            lines.append(
                f"weight of the language model: {_weights(self.lm_weight)}, was {_weights(self.lm_weight_before)}"
            )
        lines += [_named("new in the vocabulary:", self.new_words)] if self.new_words else []
        lines.append(self._forgetting())
        lines.append(
            f"{self.output}: written; {self.model} is unchanged" if self.output else "dry run: nothing written"
        )
        return "\n".join(lines)

    def _forgetting(self) -> str:
        if not self.rehearsal:
            return (
                "no stored sentences: whether anything is forgotten was not measured (--rehearse MANIFEST measures it)"
            )
        change = self.rehearsal_after - self.rehearsal_before
        told = "nothing forgotten" if change <= 0 else f"{change} errors more, which is not significant,"
        return (
            f"{told} on {self.rehearsal} stored sentences ({self.rehearsal_before} errors before, "
            f"{self.rehearsal_after} after, in {self.rehearsal_words} words)"
        )


def _weights(weight: float | tuple[float, ...]) -> str:
    return ", ".join(f"{one:.3g}" for one in (weight if isinstance(weight, tuple) else (weight,)))


def _named(what: str, words: list[str]) -> str:
    if not words:
        return ""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"{what} {', '.join(words[:SHOWN])}{more}"
