"""Running prose as sentences of words in a model's alphabet: the texts that language models learn from.

``ProseSpeller`` writes numbers and abbreviations out (``asr.text.written_out``), applies the text configuration of a
model, and counts what it cannot write. ``split_sentences`` splits paragraphs.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from asr.config.sections import TextConfig
from asr.errors import TextError
from asr.text.normalisation import normalise
from asr.text.written_out import spoken

FOREIGN = "<foreign>"
"""Stands for a word that the alphabet cannot spell: a language model counts it as an unknown word."""
PLAIN = re.compile(r"[A-Za-z ,;:!?\"“”'’()\-–—…]+\.?[\"”'’]*")
"""A sentence that has no numbers, abbreviations and symbols."""
BARE_TITLES = re.compile(r"\b(?:Mr|Mrs|Messrs|Dr|St|Prof|Mt|Sgt|Capt|Lt)\b")
"""Titles that are written without a full stop too."""
STOPS = re.compile(r"[.!?…]+[\"”'’)\]]*\s+(?=[\"“‘'(\[]*[^\W_a-z])")
"""Where a sentence may end: a stop, closing marks, white space, and something that is not a small letter."""
NO_END = re.compile(
    r"(?:^|[\s\"“‘'(\[—-])(?:[A-Z]|Mr|Mrs|Ms|Messrs|Dr|St|Prof|Mt|Sgt|Capt|Lt|Col|Gen|Rev|Hon|Maj|Gov|Sen|Esq|Jr|Sr|vs|etc|No|"
    r"Vol|Co|Mme|Mlle|[A-Z]\.[A-Z])\.\s+$"
)
"""Text before a full stop that ends an abbreviation or an initial, not a sentence."""
ABBREVIATION = 8
"""Characters of the longest abbreviation in ``NO_END``, with the one before it."""
LONGEST = 1_000_000
"""Characters of a line or a paragraph; what is longer is cut, so that memory does not grow with the text."""


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph of running prose, without white space around them.

    A sentence ends behind ``.``, ``!``, ``?`` or ``…`` and closing quotes, where a capital, a digit or an opening quote
    follows. An initial (``J. Smith``) and a title (``Mr. Smith``) end none.
    """
    text = " ".join(paragraph.split())
    parts, start = [], 0
    for match in STOPS.finditer(text):
        # From the character before the word, also where that is outside the sentence; a longer look would cost the
        # square of a paragraph that is all initials.
        before = max(start - 1, match.start() - ABBREVIATION, 0)
        if not (match[0][0] == "." and match[0][1:2].isspace() and NO_END.search(text, before, match.end())):
            parts.append(text[start : match.end()].strip())
            start = match.end()
    return [part for part in (*parts, text[start:].strip()) if part]


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs of a text with lines: empty lines stand between them. Those longer than ``LONGEST`` are cut."""
    parts: list[str] = []
    length = 0
    for line in lines:
        if line.strip():
            parts.append(line)
            length += len(line)
        if parts and (length > LONGEST or not line.strip()):
            yield " ".join(parts)
            parts, length = [], 0
    if parts:
        yield " ".join(parts)


@dataclass
class ProseSpeller:
    """Sentences as a model with the characters ``alphabet`` writes them. Counts what is left out.

    Attributes:
        alphabet: the characters of words; a space stands between words.
        config: the model's replacements and case.
        language: numbers and abbreviations are written out in it; None leaves them as they are.
        unsayable: sentences left out, because ``spoken`` does not know how a part is said.
        foreign: words with characters outside the alphabet; ``FOREIGN`` stands in their place.
        characters: these characters, with their numbers.
    """

    alphabet: frozenset[str]
    config: TextConfig = field(default_factory=TextConfig)
    language: str | None = "en"
    unsayable: int = 0
    foreign: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def spell(self, sentence: str) -> str | None:
        """``sentence`` as words of the alphabet, single spaces between them; None where it is left out."""
        plain = self.language == "en" and PLAIN.fullmatch(sentence) and not BARE_TITLES.search(sentence)
        if plain or self.language is None:
            text = sentence
        else:
            try:
                text = spoken(sentence, self.language)
            except TextError:
                self.unsayable += 1
                return None
        words = [self._spelt(word) for word in text.replace("-", " ").replace("—", " ").replace("–", " ").split()]
        return " ".join(word for word in words if word)

    def _spelt(self, word: str) -> str:
        """One or more words (a replacement may have spaces), FOREIGN, or nothing for punctuation alone."""
        found = self._known.get(word)
        if found is None:
            if len(self._known) > 2_000_000:  # bounded memory, whatever the text
                self._known.clear()
            found = self._known[word] = self._read(word)
        if found == FOREIGN:
            self.foreign += 1
            self.characters.update(c for c in normalise(word, self.config) if c.isalnum() and c not in self.alphabet)
        return found

    def _read(self, word: str) -> str:
        text = normalise(word.replace("’", "'").replace("‘", "'"), self.config)
        if not self.alphabet.issuperset(text):
            text = "".join(map(self._nearest, text))
        # An apostrophe at the edge is a quotation mark more often than a letter left out.
        text = " ".join(part for part in (part.strip("'") for part in text.split()) if part)
        return text if self.alphabet.issuperset(text.replace(" ", "")) else FOREIGN

    def _nearest(self, character: str) -> str:
        """A character of the alphabet for one outside it: its base letter, a space for punctuation, else itself."""
        if character in self.alphabet or character == " ":
            return character
        base = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        if base and self.alphabet.issuperset(base):
            return base
        return character if character.isalnum() else " "

    def remark(self) -> str:
        """What was left out, in a sentence; empty where nothing was."""
        said = []
        if self.unsayable:
            said.append(f"left out {self.unsayable} sentences with numbers or symbols of unknown spoken form")
        if self.foreign:
            common = ", ".join(f"{c!r} {count} times" for c, count in self.characters.most_common(5))
            said.append(
                f"counted {self.foreign} words with characters outside the alphabet as unknown words ({common})"
            )
        return "; ".join(said)
