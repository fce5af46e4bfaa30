"""The prefix tree of a lexicon: built from spelt words in bulk, packed for files, extended without being rebuilt.

Nodes are numbered breadth first, the children of a node side by side. So a packed tree is two numbers a node: its token
and how many children it has. Words that are added copy the nodes on their way (a persistent tree, Driscoll et al.
1989): the tree itself stays as it is, and many searches with hot words of their own share it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from asr.decode import kernel
from asr.decode.ngram_arrays import NgramArray

Packed: TypeAlias = Mapping[str, NgramArray]
"""``token`` ``(nodes - 1,)``, ``children`` ``(nodes,)``; by spelling ``end`` (its last node) and ``entry`` (its word in
the n-gram, -1 without one)."""
MOST_TOKENS = 1 << 16


def pack_tree(spellings: Sequence[Sequence[int]], entries: Sequence[int], columns: int) -> dict[str, NgramArray]:
    """The tree of spellings, each at least one token below ``columns``, with the n-gram's number of each one's word."""
    lengths = np.fromiter(map(len, spellings), np.int64, len(spellings))
    flat = np.fromiter(itertools.chain.from_iterable(spellings), np.int64, int(lengths.sum()))
    begins = np.cumsum(lengths) - lengths
    node, left = np.zeros(len(spellings), np.int64), np.arange(len(spellings))
    tokens, parents, count = [], [], 1
    for depth in itertools.count():
        left = left[lengths[left] > depth]
        if not left.size:
            break
        keys, inverse = np.unique(node[left] * columns + flat[begins[left] + depth], return_inverse=True)
        tokens.append(keys % columns)
        parents.append(keys // columns)
        node[left] = count + inverse
        count += len(keys)
    kind = np.uint16 if columns <= MOST_TOKENS else np.uint32
    return {
        "token": np.concatenate(tokens).astype(kind),
        "children": np.bincount(np.concatenate(parents), minlength=count).astype(kind),
        "end": node.astype(np.uint32),
        "entry": np.asarray(entries, np.int32),
    }


def unpack_tree(packed: Packed, unigrams: NgramArray | None, columns: int, space: int) -> kernel.Tree:
    """The tree for a search; ``unigrams`` are the n-gram's log-probabilities without a context.

    Raises ``ValueError`` for arrays that are no tree of tokens below ``columns`` without the space.
    """
    token, end, entry = (np.asarray(packed[name], np.int32) for name in ("token", "end", "entry"))
    children = np.asarray(packed["children"], np.int64)
    nodes = len(children)
    first = np.concatenate([[0], np.cumsum(children)])
    lowest, words = (kernel.NONE, 0) if unigrams is None else (0, len(unigrams))
    good = (
        nodes > 1 and len(token) == nodes - 1 == first[-1] and len(end) == len(entry) > 0
        and token.min() > kernel.BLANK_ID and token.max() < columns and not (token == space).any()
        and (first[1:-1] >= np.arange(1, nodes)).all() and end.min() > 0 and end.max() < nodes
        and entry.min() >= lowest and entry.max() < max(words, 1)
    )  # fmt: skip
    if not good:
        raise ValueError("the lexicon's tree does not fit the model's tokens")
    scores = np.zeros(len(entry)) if unigrams is None else unigrams[entry]
    lookahead = np.full(nodes, -math.inf)
    np.maximum.at(lookahead, end, scores)
    parent = np.repeat(np.arange(nodes), children)
    bounds = [1]
    while bounds[-1] < nodes:
        bounds.append(1 + int(first[bounds[-1]]))
    for low, high in reversed(list(itertools.pairwise(bounds))):
        np.maximum.at(lookahead, parent[low - 1 : high - 1], lookahead[low:high])
    lookahead[0] = 0.0
    word, twin = np.full(nodes, kernel.NONE, np.int32), np.full(len(end), kernel.NONE, np.int32)
    order = np.argsort(end, kind="stable")
    same = end[order[1:]] == end[order[:-1]]
    twin[order[1:][same]] = order[:-1][same]
    word[end[order]] = order  # the last one stays
    return _tree(first, word, lookahead, token, np.arange(1, nodes), entry, twin)


def _tree(first: Any, word: Any, lookahead: Any, token: Any, node: Any, entry: Any, twin: Any) -> kernel.Tree:
    """A tree of its columns, of which ``first`` has one value more than there are nodes."""
    nodes = np.full(len(first), np.array((0, kernel.NONE, -math.inf), kernel.TREE_NODE))
    nodes["first"] = first
    nodes["word"][:-1], nodes["lookahead"][:-1] = word, lookahead
    children, spellings = np.empty(len(token), kernel.CHILD), np.empty(len(entry), kernel.SPELLING)
    children["token"], children["node"] = token, node
    spellings["entry"], spellings["twin"] = entry, twin
    return kernel.Tree(nodes, children, spellings)


def added_tree(words: kernel.Words, spelt: Iterable[tuple[Sequence[int], int, float]]) -> kernel.Tree:
    """Spellings that join the lexicon of ``words``, as its ``added`` words.

    ``spelt``: tokens, the n-gram's number of the word, its unigram log-probability. The search is as if the tree had
    been built with them.
    """
    tree = words.tree
    base = len(tree.nodes) - 1
    children: list[dict[int, int]] = []
    word_at: list[int] = []
    lookahead: list[float] = []
    entry: list[int] = []
    twin: list[int] = []

    def copied(node: int) -> int:
        """The number among the added nodes of a copy of a node of the tree; of a new node for -1."""
        own = (
            tree.children[tree.nodes["first"][node] : tree.nodes["first"][node + 1]] if node >= 0 else tree.children[:0]
        )
        children.append(dict(own.tolist()))
        word_at.append(int(tree.nodes["word"][node]) if node >= 0 else kernel.NONE)
        lookahead.append(float(tree.nodes["lookahead"][node]) if node >= 0 else -math.inf)
        return len(children) - 1

    copied(0)
    for tokens, number, score in spelt:
        place = 0
        for token in tokens:
            found = children[place].get(token, -1)
            if found < base:
                found = base + copied(found)
                children[place][token] = found
            place = found - base
            lookahead[place] = max(lookahead[place], score)
        twin.append(word_at[place])
        word_at[place] = len(tree.spellings) + len(entry)
        entry.append(number)
    if not entry:
        return kernel.NO_TREE
    first = np.cumsum([0, *map(len, children)])
    pairs = np.array([pair for each in children for pair in each.items()])
    return _tree(first, word_at, lookahead, pairs[:, 0], pairs[:, 1], entry, twin)
