"""The tree of a lexicon: packed and back, extended without being rebuilt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion import random_log_probs
from test_lexicon import NGRAM

from asr.decode import beam_search, kernel
from asr.decode.lexicon import add_hotwords, make_words, pack_lexicon
from asr.decode.lexicon_tree import pack_tree, unpack_tree
from asr.errors import DecodeError

TEXTS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=5).map(tuple), min_size=1, max_size=20)


def walk(tree: kernel.Tree, node: int = 0) -> dict[tuple[int, ...], tuple[list[int], float]]:
    """The words that end at each node, by the tokens on the way, and the node's lookahead."""
    found = {}
    word, here = tree.nodes["word"][node], []
    while word >= 0:
        entry, word = tree.spellings[word].tolist()
        here.append(entry)
    found[()] = here, float(tree.nodes["lookahead"][node])
    for token, child in tree.children[tree.nodes["first"][node] : tree.nodes["first"][node + 1]].tolist():
        found |= {(token, *key): value for key, value in walk(tree, child).items()}
    return found


@given(TEXTS)
def test_a_tree_has_every_beginning_its_words_and_their_best_score(texts: list[tuple[int, ...]]) -> None:
    scores = -np.arange(1.0, len(texts) + 1) % 7
    found = walk(unpack_tree(pack_tree(texts, range(len(texts)), 5), scores, 5, 1))
    assert found.keys() == {text[:end] for text in texts for end in range(len(text) + 1)}
    for key, (words, lookahead) in found.items():
        assert words == [i for i in reversed(range(len(texts))) if texts[i] == key]
        best = max(scores[i] for i in range(len(texts)) if texts[i][: len(key)] == key)
        assert lookahead == (best if key else 0.0)


SOUNDS = {"A": [(2,), (2, 3)], "AB": [(2,)], "BA": [(3, 2)], "B": [(2, 3), (3,)], "NEW": [(3, 2, 2), (2,)]}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.permutations(sorted(SOUNDS)), st.integers(1, 4), st.sampled_from([-math.inf, -2.0]),
    st.booleans(), st.integers(2, 40),
)  # fmt: skip
def test_a_search_with_added_words_is_that_with_a_tree_built_with_them(
    seed: int, words: list[str], known: int, penalty: float, with_ngram: bool, beam: int
) -> None:
    options: dict[str, Any] = {"ngram": NGRAM if with_ngram else None, "unknown_penalty": penalty, "weight": 0.7}
    boosts = dict.fromkeys(words[known:], 1.5)
    base = make_words(SOUNDS.__getitem__, 4, 1, lexicon=words[:known], **options)
    before = [array.copy() for array in (*base.tree, *base.ngram)]
    added = add_hotwords(base, SOUNDS.__getitem__, boosts, words[:known], options["ngram"])
    whole = make_words(SOUNDS.__getitem__, 4, 1, lexicon=words, hotwords=boosts, **options)
    assert len(added.added.nodes)
    assert not len(whole.added.nodes)
    log_probs = random_log_probs(8, 4, seed=seed)
    assert beam_search(log_probs, beam=beam, words=added, nbest=beam) == beam_search(
        log_probs, beam=beam, words=whole, nbest=beam
    )
    assert all(map(np.array_equal, before, (*base.tree, *base.ngram)))
    assert added.tree is base.tree


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("token", lambda a: np.full_like(a, 9)), ("token", lambda a: np.full_like(a, 1)), ("token", np.zeros_like),
        ("token", lambda a: a[1:]), ("children", np.zeros_like), ("children", lambda a: a[::-1].copy()),
        ("end", lambda a: np.full_like(a, 2**32 - 1)), ("end", np.zeros_like), ("end", lambda a: a[1:]),
        ("entry", lambda a: np.full_like(a, 6)), ("entry", lambda a: np.full_like(a, -1)),
    ],
)  # fmt: skip
def test_a_packed_tree_that_does_not_fit_is_refused(name: str, change: Any) -> None:
    packed = pack_lexicon(SOUNDS.__getitem__, 4, 1, lexicon=("A", "BA"), ngram=NGRAM)
    assert packed is not None
    make_words(SOUNDS.__getitem__, 4, 1, ngram=NGRAM, tree=packed)
    with pytest.raises(DecodeError, match=r"the lexicon's tree does not fit .*make the n-gram's file anew"):
        make_words(SOUNDS.__getitem__, 4, 1, ngram=NGRAM, tree={**packed, name: change(packed[name])})
