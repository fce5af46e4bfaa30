"""Words in the search: a lexicon, its n-gram and hot words as the flat arrays that the search kernel reads.

A lexicon is a prefix tree of words over tokens. With it each prefix stands at one place of the tree, and the n-gram's
opinion of a word is known when the word ends; until then the prefix carries the best unigram among the words that it
may become (lookahead), so that pruning sees words coming. Lookahead cancels out: a finished hypothesis has the n-gram's
score exactly. Where tokens are phones a word may have several spellings and a spelling several words: the search takes
the word that the n-gram prefers after the earlier words, and :func:`read` chooses again with the later words in view.
Hot words are an Aho-Corasick automaton over tokens (Aho & Corasick 1975): a prefix earns a hot word's boost letter by
letter and loses what it has earned when it leaves the word.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode import kernel
from asr.decode.lexicon_tree import Packed, added_tree, pack_tree, unpack_tree
from asr.decode.ngram import Ngram
from asr.decode.posteriors import finite_number, positive_int
from asr.errors import DecodeError, TextError
from asr.text.normalisation import VARIANT
from asr.text.tokenizer import lexicon_words, token_ids

Speller = Callable[[str], Sequence[Sequence[int]]]
"""Token ids of a word or phrase, all ways to spell it (``Tokenizer.spellings``); raises ``TextError`` where there is
none."""


def make_words(
    spell: Speller,
    columns: int,
    space: int | None,
    *,
    lexicon: Iterable[str] = (),
    ngram: Ngram | None = None,
    hotwords: Mapping[str, float] | None = None,
    weight: float = 1.0,
    word_bonus: float = 0.0,
    unknown_penalty: float = -math.inf,
    tree: Packed | None = None,
) -> kernel.Words:
    """Prepare words for a search.

    Args:
        spell: gives a word's token ids, every way it may be spelt.
        columns: ``V`` of the matrices that will be decoded.
        space: id of the token between words.
        lexicon: the words; without any, those of the ``ngram``. Hot words join a lexicon.
        ngram: its words are looked up as they are written in the lexicon; other words count as ``<unk>``, and where it
            has none as the rarest of its words.
        hotwords: boost (natural log) of words and phrases; negative boosts make them rarer.
        weight: of the n-gram's natural log-probabilities.
        word_bonus: added for each word.
        unknown_penalty: added for a word outside the lexicon, which the n-gram then sees as ``<unk>``; ``-inf`` (the
            default) allows none. Words of the n-gram that the tokenizer cannot spell are left out.
        tree: that of these words for these tokens (``pack_lexicon``), where it has been made before.

    Raises:
        DecodeError: a word of the lexicon or a hot word that cannot be spelt (named), no usable words, no space token,
            a weight or boost that is not finite, an unknown-word penalty above 0.
    """
    if space is None:
        raise DecodeError("expected a vocabulary with a space token, got one without; words need a separator")
    columns, hotwords = positive_int("columns", columns), hotwords or {}
    (space,) = token_ids([space], columns, least=kernel.BLANK_ID + 1, error=DecodeError)
    if isinstance(lexicon, str):
        raise DecodeError(f"lexicon: expected words, got the text {lexicon[:60]!r}")
    for name, value in {"weight": weight, "word_bonus": word_bonus}.items():
        if not math.isfinite(finite_number(name, value)):
            raise DecodeError(f"{name}: expected a finite number, got {value}")
    if not finite_number("unknown_penalty", unknown_penalty) <= 0:
        raise DecodeError(f"expected an unknown-word penalty of at most 0, got {unknown_penalty}")
    if weight < 0:
        raise DecodeError(f"expected a language model weight of at least 0, got {weight}")
    if weight == 0:
        ngram = None
    hot_arrays(spell, columns, space, hotwords)  # what is wrong with them comes first
    known: dict[str, Any] = dict.fromkeys(lexicon)
    packed = pack_lexicon(spell, columns, space, lexicon=known, ngram=ngram) if tree is None else tree
    lexicon_tree = kernel.NO_TREE
    if packed is not None:
        try:
            lexicon_tree = unpack_tree(packed, None if ngram is None else ngram.unigrams, columns, space)
        except ValueError as error:
            raise DecodeError(f"{error}; make the n-gram's file anew (asr lm-convert)") from error
    places = [-1, -1, 0] if ngram is None else [ngram.unknown, ngram.end, ngram.start]
    words = kernel.NO_WORDS._replace(
        tree=lexicon_tree,
        ngram=kernel.NO_NGRAM if ngram is None else ngram.search_arrays,
        options=np.array([weight, word_bonus, unknown_penalty], np.float64),
        ids=np.array([space, *places, columns]),
    )
    return add_hotwords(words, spell, hotwords, known or (() if ngram is None else ngram), ngram)


def pack_lexicon(
    spell: Speller, columns: int, space: int, *, lexicon: Iterable[str] = (), ngram: Ngram | None = None
) -> dict[str, Any] | None:
    """The tree of a lexicon, or else of an n-gram's words, as ``asr.decode.lexicon_tree`` packs it; None without words.

    Arguments and errors are those of ``make_words``.
    """
    spelt: dict[str, Sequence[Sequence[int]]] = {word: _spellings(word, spell, columns) for word in lexicon}
    for word, spellings in spelt.items():
        if any(space in ids for ids in spellings):
            raise DecodeError(f"lexicon: expected single words, got {word!r}")
    if not spelt and ngram is not None:
        spelt = dict(_spellable(ngram.words, spell, columns, space))
        if not spelt:
            raise DecodeError(
                "none of the n-gram's words can be spelt with the model's tokens; check upper and lower case"
            )
    if not spelt:
        return None
    numbers = [kernel.NONE if ngram is None else ngram.entry_of(word) for word in spelt]
    flat = [(ids, number) for found, number in zip(spelt.values(), numbers, strict=True) for ids in found]
    return pack_tree([ids for ids, _ in flat], [number for _, number in flat], columns)


def add_hotwords(
    words: kernel.Words, spell: Speller, hotwords: Mapping[str, float], known: Any, ngram: Ngram | None
) -> kernel.Words:
    """Words of a search with other hot words; the arrays of ``words`` stay as they are and are shared.

    Where there is a lexicon, words that are not ``known`` (a container, or the n-gram whose words are the lexicon)
    join it. Errors are those of ``make_words``.
    """
    columns, space = int(words.ids[kernel.COLUMNS]), int(words.ids[kernel.SPACE])
    parts: dict[str, Any] = hot_arrays(spell, columns, space, hotwords)
    if len(words.tree.nodes):
        listed = known.knows if isinstance(known, Ngram) else known.__contains__
        new = dict.fromkeys(word for phrase in hotwords for word in phrase.split() if not listed(word))
        spelt = []
        for word in new:
            number = kernel.NONE if ngram is None else ngram.entry_of(word)
            score = 0.0 if ngram is None else float(ngram.unigrams[number])
            for ids in _spellings(word, spell, columns):
                if space in ids:
                    raise DecodeError(f"lexicon: expected single words, got {word!r}")
                spelt.append((ids, number, score))
        parts["added"] = added_tree(words, spelt)
    return words._replace(**parts)


def hot_arrays(
    spell: Speller, columns: int, space: int | None, hotwords: Mapping[str, float]
) -> dict[str, npt.NDArray[Any]]:
    """The hot words' part of ``kernel.Words``, for words of the lexicon or a search without one.

    Arguments and errors are those of ``make_words``.
    """
    if space is None:
        raise DecodeError("expected a vocabulary with a space token, got one without; words need a separator")
    if not isinstance(hotwords, Mapping):
        raise DecodeError(f"hot words: expected words with boosts, such as {{'GORDON': 5.0}}, got {hotwords!r}"[:200])
    phrases = []
    for phrase, boost in hotwords.items():
        if not math.isfinite(finite_number(f"hot word {phrase}", boost)):
            raise DecodeError(f"hot word {phrase}: expected a finite number, got {boost}")
        phrases += [(ids, boost) for ids in _spellings(phrase, spell, columns)]
    if not phrases:
        return {"hot_next": kernel.NO_WORDS.hot_next, "hot_gain": kernel.NO_WORDS.hot_gain}
    return _automaton(phrases, columns, space)


def _spellings(word: str, spell: Speller, columns: int) -> list[list[int]]:
    try:
        found = _token_ids(word, spell, columns)
    except TextError as error:
        raise DecodeError(f"{word!r}: cannot be spelt with the model's tokens: {error}") from error
    if not all(found):
        raise DecodeError(f"{word!r}: expected a word with at least one token, got none; remove it")
    return found


def _token_ids(word: str, spell: Speller, columns: int) -> list[list[int]]:
    try:
        return [token_ids(ids, columns, least=kernel.BLANK_ID + 1, error=DecodeError) for ids in spell(word)]
    except DecodeError as error:
        raise DecodeError(f"{word!r}: {error}, as the posteriors have {columns} columns") from error


def read_word_list(path: str | Path) -> list[str]:
    """Words from a file: the first column of each line, blank lines and CMUdict's comments (``;;;``) and numbers of
    variants skipped. Raises ``DecodeError`` naming the file."""
    try:
        found = lexicon_words(path)
    except OSError as error:
        raise DecodeError(f"{path}: cannot read the lexicon: {error}") from error
    words = list(dict.fromkeys(VARIANT.sub("", word) if ")" in word else word for word in found))
    if not words:
        raise DecodeError(f"{path}: expected a word on each line, got an empty file")
    return words


def parse_hotwords(values: Sequence[str]) -> dict[str, float]:
    """``["GORDON:5", "NEW YORK:3"]`` as ``{"GORDON": 5.0, ...}``. Raises ``DecodeError`` naming the value."""
    hotwords = {}
    for value in values:
        word, _, boost = value.rpartition(":")
        try:
            number = float(boost)
        except ValueError:
            number = math.nan
        hotwords[" ".join(word.split())] = number
        if not word.strip() or not math.isfinite(number):
            raise DecodeError(f"hot word {value!r}: expected WORD:BOOST such as GORDON:5")
    return hotwords


def read_words(
    candidates: Sequence[Sequence[str]],
    ngram: Ngram | None,
    *,
    weight: float = 1.0,
    boosts: Mapping[str, float] | None = None,
    forms: Mapping[str, str] | None = None,
) -> list[str]:
    """One of the words that sound alike in each place: the likeliest sentence (Viterbi 1967), else the first of each.

    ``weight``: of the n-gram's logarithms; ``boosts``: of hot words; ``forms``: words as the n-gram writes them.
    """
    boosts, forms = boosts or {}, forms or {}
    if all(len(words) == 1 for words in candidates):
        return [words[0] for words in candidates]
    if ngram is None:
        return [max(words, key=lambda word: boosts.get(word, 0.0)) for words in candidates]
    # By the words that the n-gram remembers: the best sentence that ends in them.
    paths: dict[tuple[str, ...], tuple[float, list[str]]] = {("<s>",): (0.0, [])}
    for words in [*candidates, ("</s>",)]:
        longer: dict[tuple[str, ...], tuple[float, list[str]]] = {}
        for context, (score, sentence) in paths.items():
            for word in words:
                known = ngram.words[ngram.entry_of(forms.get(word, word))]
                total = score + weight * ngram.log_prob(context, known) + boosts.get(word, 0.0)
                key = (*context, known)[max(0, len(context) + 2 - ngram.order) :]
                if key not in longer or total > longer[key][0]:
                    longer[key] = total, [*sentence, word]
        paths = longer
    return max(paths.values(), key=lambda path: path[0])[1][:-1]


def _spellable(
    words: Iterable[str], spell: Speller, columns: int, space: int
) -> Iterable[tuple[str, Sequence[Sequence[int]]]]:
    for word in words:
        if word in ("<s>", "</s>", "<unk>", "<UNK>"):
            continue
        try:
            found = [ids for ids in _token_ids(word, spell, columns) if ids and space not in ids]
        except TextError:
            continue
        if found:
            yield word, found


def _automaton(phrases: Sequence[tuple[Sequence[int], float]], columns: int, space: int) -> dict[str, npt.NDArray[Any]]:
    """Aho-Corasick automaton of phrases between spaces; a search starts as if a space had just been seen."""
    children: list[dict[int, int]] = [{}]
    earned, boost_at = [0.0], [0.0]
    ended: set[int] = set()
    for ids, boost in phrases:
        node = 0
        for depth, token in enumerate((space, *ids, space)):
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
                earned.append(0.0)
                boost_at.append(0.0)
            node = children[node][token]
            if 0 < depth <= len(ids):
                share = boost * depth / len(ids)
                earned[node] = share if earned[node] == 0 else max(earned[node], share)
        # Phrases that sound alike end in one place.
        boost_at[node] = max(boost_at[node], boost) if node in ended else boost
        ended.add(node)
    following = np.zeros((len(children), columns), np.int32)
    fallback = [0] * len(children)
    queue = deque([0])
    while queue:
        node = queue.popleft()
        if node:
            following[node] = following[fallback[node]]
            boost_at[node] += boost_at[fallback[node]]
            if not children[node]:  # a phrase's end: nothing under way but what its last space begins
                earned[node] = earned[fallback[node]]
        for token, child in children[node].items():
            fallback[child] = int(following[node, token]) if node else 0
            following[node, token] = child
            queue.append(child)
    # A finished phrase can be the beginning of a longer one; what is earned there counts from its boost on.
    held = np.array(earned)
    gain = held[following] + np.array(boost_at)[following] - held[:, None]
    end = following[:, space]
    gain[:, kernel.BLANK_ID] = np.array(boost_at)[end] - held
    # The search stands at state 0: let that be the one after a space.
    start = children[0][space]
    order = np.arange(len(children))
    order[[0, start]] = start, 0
    return {"hot_next": order[following[order]].astype(np.int32), "hot_gain": gain[order]}
