"""Second opinions on labels: texts of the same recordings from another model or program, and whether they agree.

Where two recognisers that make different errors write the same text, it is mostly right. ``asr label --agree-with``
keeps only such labels.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr.errors import ConfigError
from asr.scoring import transcript_files, wer
from asr.scoring.rules import LITERAL_RULES
from asr.text.normalisation import normalise
from asr.text.prose import FOREIGN, ProseSpeller
from asr.text.tokenizer import Tokenizer
from asr.text.user_words import NO_LANGUAGE


@dataclass(frozen=True)
class Opinion:
    """Texts by utterance id from another model or program, and its name for messages."""

    name: str
    texts: Mapping[str, str]


class LabelSpeller:
    """Texts of any origin as a model with these tokens writes them: numbers in words, no punctuation, its case."""

    def __init__(self, tokenizer: Tokenizer, language: str) -> None:
        self.tokenizer = tokenizer
        self.speller: ProseSpeller | None = None
        if tokenizer.config.tokenizer in ("char", "bpe"):
            alphabet = frozenset("".join(tokenizer.symbols[1:])) - {" ", "▁"}
            self.speller = ProseSpeller(alphabet, tokenizer.config, None if language in NO_LANGUAGE else language)

    def spell(self, text: str) -> str:
        """The words of a text; what cannot be said, or is foreign to the alphabet, keeps its normalised form."""
        if self.speller is None or (found := self.speller.spell(text)) is None:
            return " ".join(normalise(text, self.tokenizer.config).split())
        return found

    def learnable(self, text: str) -> bool:
        """Whether a text of ``spell`` can be a label."""
        return bool(text) and FOREIGN not in text.split() and not self.tokenizer.unspelt(text)


def read_opinion(path: str) -> Opinion:
    """Transcripts in any format of ``asr score``, such as a manifest of a teacher. Raises ``ManifestError``."""
    return Opinion(path, transcript_files.read(path).texts)


def differences(own: Mapping[str, str], other: Mapping[str, str]) -> dict[str, float]:
    """How much two texts of an utterance differ, for the ids that both have: character errors over the characters of
    the longer text, 0 for equal and 1 for nothing in common."""
    found = {id: float(bool(text)) for id, text in own.items() if other.get(id) == ""}
    shared = {id: text for id, text in own.items() if other.get(id)}
    if not shared:
        return found
    report = wer.score({id: other[id] for id in shared}, shared, LITERAL_RULES)
    longest = {id: max(len(text), len(other[id]), 1) for id, text in shared.items()}
    return found | {scored.id: min(1.0, scored.char_errors / longest[scored.id]) for scored in report.utterances}


@dataclass(frozen=True)
class Agreement:
    """What several opinions say of one's own texts.

    ``agreed``: ids where all opinions are near enough; ``disputed``: where one is not; ``unjudged``: where one has no
    text for the id. ``remark``: in a sentence, how far each opinion is from one's own texts.
    """

    agreed: frozenset[str]
    disputed: frozenset[str]
    unjudged: frozenset[str]
    remark: str


def compare_opinions(
    own: Mapping[str, str], opinions: Sequence[Opinion], speller: LabelSpeller, most_disagreement: float
) -> Agreement:
    """Compare one's own texts by id with each opinion, as ``speller`` writes them.

    Raises ``ConfigError`` naming an opinion that has none of the ids.
    """
    said = {id: speller.spell(text) for id, text in own.items()}
    disputed: set[str] = set()
    unjudged: set[str] = set()
    remarks = []
    for opinion in opinions:
        found = differences(said, {id: speller.spell(opinion.texts[id]) for id in said if id in opinion.texts})
        if said and not found:
            raise ConfigError(
                f"{opinion.name}: expected texts of these utterances, got none of their {len(said)} ids, such as "
                f"{next(iter(said))}; it has {transcript_files.first_few(sorted(opinion.texts))}"
            )
        unjudged |= said.keys() - found.keys()
        disputed |= {id for id, share in found.items() if share > most_disagreement}
        if found:
            median = 100 * statistics.median(found.values())
            remarks.append(f"the texts of {opinion.name} differ by {median:.0f} % of their characters (median)")
    agreed = said.keys() - disputed - unjudged
    return Agreement(frozenset(agreed), frozenset(disputed), frozenset(unjudged - disputed), "; ".join(remarks))
