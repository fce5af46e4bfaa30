"""A word bigram estimated from a few phrases, for a search in which their words may come in any order.

Absolute discounting (Ney, Essen & Kneser 1994), interpolated with the unigram: of each count ``DISCOUNT`` goes to the
words that were not seen behind the same word. So every word of the list may follow every other, and pairs of the list
are likelier than others.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from asr.decode.ngram import Ngram
from asr.errors import DecodeError

DISCOUNT = 0.5
IMPOSSIBLE = -99 * math.log(10)
"""The natural logarithm that stands for a probability of 0, as in ARPA files."""


def bigram_of_phrases(phrases: Iterable[Sequence[str]], discount: float = DISCOUNT) -> Ngram:
    """The bigram of phrases, each a sequence of words; the word ``<unk>`` stands for any other word.

    Raises ``DecodeError`` where there is no word, for a word that marks an end of sentences, and for a discount that is
    not between 0 and 1.
    """
    if not 0 < discount < 1:
        raise DecodeError(f"discount: expected more than 0 and less than 1, got {discount}")
    sentences = [("<s>", *words, "</s>") for words in phrases if words]
    counts = Counter(pair for words in sentences for pair in itertools.pairwise(words))
    unigrams, contexts, followers = Counter[str](), Counter[str](), Counter[str]()
    for (before, word), count in counts.items():
        unigrams[word] += count
        contexts[before] += count
        followers[before] += 1
    if not sentences or unigrams["</s>"] != len(sentences) or unigrams["<s>"]:
        raise DecodeError("phrases: expected words other than <s> and </s>, got none or one of these")
    total = unigrams.total()
    spare = {before: discount * followers[before] / contexts[before] for before in contexts}
    entries: dict[tuple[str, ...], tuple[float, float]] = {("<s>",): (IMPOSSIBLE, math.log(spare["<s>"]))}
    for word, count in unigrams.items():
        entries[word,] = math.log(count / total), math.log(spare[word]) if word in spare else 0.0
    for (before, word), count in counts.items():
        share = (count - discount) / contexts[before] + spare[before] * unigrams[word] / total
        entries[before, word] = math.log(share), 0.0
    return Ngram(2, entries)
