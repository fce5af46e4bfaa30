"""The prefix beam search itself: numba kernels over flat arrays, compiled ahead or at first use (``compilation.py``).

The kernels of the search are in this one file, since the compiler makes one function of them: read it as one program.
When any file that kernels are made of changes, all are compiled anew (``compiled.py``).

**Search** (Graves 2012, chapter 7; Hannun et al. 2014). For each prefix two masses: of its paths that end in ``blank``
and of those that end in its last ``label``. A frame ``p`` makes of a prefix ``l`` of total mass ``m``

- ``l`` itself, by blank with ``m * p[blank]`` and by repeating its last token with ``label * p[last]``;
- each ``l + c`` with ``m * p[c]``, or ``blank * p[c]`` where ``c`` is the last token of ``l`` (else it is a repeat).
  Where ``l + c`` is in the beam already the two meet, and their masses are added: that is the merging of prefixes.

**Scale.** Masses are probabilities, not logarithms, all over one factor whose logarithm is ``offset``: adding and
multiplying takes a nanosecond, a sum of logarithms twenty. Whenever the best mass leaves 1e-100 to 1 the factor is
renewed, so that nothing overflows and what is within 470 nats of the best prefix never underflows; what is further
below may be lost. No frame's probability is taken for less than ``SMALLEST``, save for zero.

**Prefixes** are nodes of a trie. There is one node per prefix as long as anything in the beam begins with it, so that a
prefix that falls out of the beam and comes back meets its own continuations again. ``table`` finds nodes: open
addressing, a power of two of slots, -1 where free.

**Beam.** ``beam`` has two slots for each prefix that it may hold, and ``places`` lists the slots of those in it, best
first, and behind them the free ones. A frame first works out all scores from the masses before it, then writes new
prefixes into free slots, then renews those that stay where they are. Nothing is copied.

**Language models.** A model's score of a prefix depends on the prefix alone: each node holds its ``bonus``, the
weighted sum of all models, and the ``factor`` by which its last token changed it. Masses have the factors of all their
tokens in them. ``rows`` holds for each prefix in the beam what each token would add in logarithms, and in the column of
the blank what the end of the utterance would; ``limits`` the factor of the best of them. Rows of a lexicon, its n-gram
and hot words are filled here (``Words``); for other models the search pauses until the caller has filled them.

**Times.** Beside its masses each prefix carries its single best path for either ending, whose finished tokens are a
chain of segments and whose last token is still open. Storing times in the trie would mix frames of different paths.
Continuations of the path that ends in blank share one segment, ``blank_segment``, made for the first of them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.decode.compilation import compile_apart, compile_inner, compile_kernel, compile_part, compile_search

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[Any]

BLANK_ID = 0
ROOT = 0
NONE = -1
UNJOINED = -2
NOWHERE = 2**32 - 1
signed: Any = np.int64
unsigned: Any = np.uint64
boolean: Any = np.bool_
ONE = unsigned(1)
"""Indices without sign spare the look for those below 0. With a signed number numba would make a float of them.

Kernels get ``signed(0)`` and ``boolean(False)``, not ``0`` and ``False``: numba compiles a kernel once more for an
argument that is a literal, and once more for each type of number."""
LATER = 1 << 32
"""Codes of candidates: below it a rank in the beam, for a prefix that stays; else ``(rank + 1) * LATER + token``."""

NODE = np.dtype(
    [
        # Without sign: numba then need not look for indices below 0.
        ("parent", "u4"),  # or NOWHERE
        ("token", "u4"),
        ("depth", "i4"),
        ("place", "u4"),  # its slot in the beam, or NOWHERE
        ("row", "i4"),  # of what its continuations get from language models, or -1
        # Where the prefix stands in the lexicon, in the n-gram and among the hot words (see `Words`).
        ("lexicon", "i4"),
        ("context", "i4"),
        ("hot", "i4"),
        ("bonus", "f8"),  # of all language models, weighted; a logarithm
        ("factor", "f8"),  # by which the last token changed the mass: exp of its part of the bonus
    ]
)
"""A prefix: the prefix it continues, by which token, its length, and what language models make of it."""

SEGMENT = np.dtype([("before", "i4"), ("start", "i4"), ("end", "i4"), ("peak", "f4")])
"""A finished token of a path: the segment before it, its frames, its largest log posterior in them."""

ENTRY = np.dtype(
    [
        ("node", "u4"),
        ("token", "u4"),  # the node's
        ("total", "f8"),
        ("blank", "f8"),
        ("label", "f8"),
        # The best single path that ends in blank: its logarithm, the segments before the last token, the last token.
        ("blank_path", "f8"),
        ("blank_before", "i4"),
        ("blank_start", "i4"),
        ("blank_end", "i4"),
        ("blank_peak", "f4"),
        ("blank_segment", "i4"),  # of the last token, or -1 while nothing has continued it
        # The best single path that ends in the last token, which lasts until now.
        ("label_path", "f8"),
        ("label_before", "i4"),
        ("label_start", "i4"),
        ("label_peak", "f4"),
    ]
)
"""A prefix in the beam."""

COUNTS = 5
ENTRIES, NODES, SEGMENTS, FRAME, PENDING = range(COUNTS)
"""Places in ``counts``: prefixes in the beam, nodes and segments in use, frames decoded, rows the caller must fill."""
STANDS = 3
UTTERANCE, DONE, WRITTEN = range(STANDS)
"""Places in ``progress``: the utterance being decoded, how many of its frames are, tokens written."""

SMALLEST = -690.0
"""Logarithm of the smallest probability, and of the largest and smallest factor: exp of it is a normal number."""
OFF = -1
"""Place in the lexicon of a prefix whose last word has left it."""
NEVER = -100 * math.log(10)
"""What an n-gram gives a word that it does not know and has no ``<unk>`` for (as KenLM)."""


TREE_NODE = np.dtype(
    [
        ("first", "i4"),  # of its children
        ("word", "i4"),  # one of the words that end here, or -1
        ("lookahead", "f8"),  # largest unigram log-probability of the words that go through it; 0 at the root
    ]
)
"""A node of a lexicon's prefix tree."""

CHILD = np.dtype([("token", "i4"), ("node", "i4")])
"""Where a token leads from a node of a lexicon."""

SPELLING = np.dtype([("entry", "i4"), ("twin", "i4")])
"""A word: its number in the n-gram, and another word that is spelt the same (in phones: sounds the same) or -1."""


class Tree(NamedTuple):
    """A lexicon as a prefix tree; all empty where there is none."""

    nodes: Records
    """``TREE_NODE``, the root first. The children of node ``n`` are ``nodes[n].first`` to ``nodes[n + 1].first - 1``.
    So one more node stands behind the last."""
    children: Records
    """``CHILD``."""
    spellings: Records
    """``SPELLING``, by word."""


class _Backoff(NamedTuple):
    """A back-off n-gram: the arrays of ``asr.decode.ngram_arrays``, all empty where there is none."""

    branch: Numbers
    """The first child of each context."""
    word_low: Numbers
    word_high: Numbers
    log_prob: Numbers
    backoff: Numbers
    log_prob_code: Numbers
    backoff_code: Numbers
    log_prob_level: Numbers
    backoff_level: Numbers
    suffix: Numbers
    sizes: Numbers
    """The number of words, the first context with a stored suffix."""


class Backoff(_Backoff):
    """``_Backoff``, which remembers where its arrays lie (``asr.decode.built_kernels``)."""


class _Words(NamedTuple):
    """Lexicon, n-gram and hot words as flat arrays; ``asr.decode.lexicon`` builds them. Natural logarithms."""

    tree: Tree
    """The lexicon."""
    added: Tree
    """Words that joined the lexicon. Its nodes are numbered behind those of ``tree``, and its words too. Its first node
    stands for the root of both."""
    ngram: Backoff
    hot_next: Numbers
    """``(states, V)``: where a token leads."""
    hot_gain: Numbers
    """``(states, V)``: what it adds; the blank's column is the end of the utterance."""
    options: Numbers
    """LM weight, word bonus, unknown-word penalty (-inf: closed vocabulary)."""
    ids: Numbers
    """Space token, unknown word, end of sentence, context at the start; -1 where there is none. Last the columns of
    the matrices that all this was made for, 0 where it is for any."""


class Words(_Words):
    """``_Words``, which remembers where its arrays lie."""


WEIGHT, WORD_BONUS, UNKNOWN_PENALTY = range(3)
SPACE, UNKNOWN, END, START, COLUMNS = range(5)
VOCABULARY, SUFFIXES = range(2)

_FLOATS, _BYTES, _PLACES = (np.empty(0, kind) for kind in (np.float64, np.uint8, np.uint32))
NO_TREE = Tree(np.empty(0, TREE_NODE), np.empty(0, CHILD), np.empty(0, SPELLING))
NO_NGRAM = Backoff(
    _PLACES, np.empty(0, np.uint16), _BYTES, _FLOATS, _FLOATS, _BYTES, _BYTES, _FLOATS, _FLOATS, _PLACES,
    np.zeros(2, np.int64),
)  # fmt: skip
NO_WORDS = Words(
    tree=NO_TREE,
    added=NO_TREE,
    ngram=NO_NGRAM,
    hot_next=np.empty((0, 0), np.int32),
    hot_gain=np.empty((0, 0), np.float64),
    options=np.zeros(3),
    ids=np.array([NONE, NONE, NONE, 0, 0]),
)
"""No lexicon, no n-gram, no hot words."""


class _State(NamedTuple):
    """All that a search remembers between two frames."""

    beam: Records
    """``ENTRY``, two slots for each prefix that the beam may hold."""
    places: Numbers
    """Slots of the prefixes in the beam, best first, and behind them the free ones."""
    nodes: Records
    """``NODE``: the pool of prefixes; the empty one is the first."""
    table: Numbers
    """Hash table of nodes by parent and token."""
    segments: Records
    """``SEGMENT``: the pool of finished tokens."""
    counts: Numbers
    """What is in use (``ENTRIES`` and the like)."""
    offset: Numbers
    """One number: the logarithm of the factor that all masses are over."""
    rows: Numbers
    """``(R, V)``: what language models add to each prefix; ``R`` is 0 where there are none."""
    limits: Numbers
    """The factor of the best token of each row."""
    owners: Numbers
    """The node that each row belongs to, or -1."""
    pending: Numbers
    """Nodes whose rows are new."""


class State(_State):
    """``_State``, which remembers where its arrays lie."""


class _Frames(NamedTuple):
    """Utterances to decode."""

    log_probs: Numbers
    """``(T, V)``: of all of them, one after another."""
    starts: Numbers
    """Utterance ``i`` has the frames ``starts[i]`` to ``starts[i + 1] - 1``."""
    progress: Numbers
    """Where the search stands (``UTTERANCE`` and the like)."""


class Frames(_Frames):
    """``_Frames``, which remembers where its arrays lie."""


class _Output(NamedTuple):
    """Hypotheses of several utterances."""

    tokens: Numbers
    """``(4, n)``: tokens, first frames, ends and largest log posteriors of all hypotheses, one after another."""
    bounds: Numbers
    """``(utterances, nbest)``: where each hypothesis ends."""
    scores: Numbers
    """``(utterances, nbest, 2)``: total and language model scores."""
    counts: Numbers
    """Hypotheses of each utterance."""


class Output(_Output):
    """``_Output``, which remembers where its arrays lie."""


class _Work(NamedTuple):
    """Working arrays of one frame; nothing in them outlives the frame."""

    probs: Numbers
    """By token, not as logarithms; below 0 where nothing has asked yet."""
    labels: Numbers
    totals: Numbers
    paths: Numbers
    joined: Numbers
    scores: Numbers
    """Of the candidates, best first."""
    codes: Numbers
    chosen: Numbers
    """Slots of the next beam and behind them of what falls out of it."""
    listed: Numbers
    """What a loop has sorted out for the next one, without a branch: an item is always written and the end of the list
    moves on where it belongs there. Which items do is as good as random, and a processor that guesses wrong loses as
    much time as the work itself takes."""
    others: Numbers
    """The other half, or more about the same."""
    order: Numbers
    taken: Numbers
    """By slot and token: whether the prefix's continuation by the token is in the beam."""


class Work(_Work):
    """``_Work``, which remembers where its arrays lie."""


def new_work(width: int, columns: int, fused: bool) -> Work:
    """Memory for the frames of searches that run one after another."""
    return Work(
        np.empty(columns),
        np.empty(width), np.empty(width), np.empty(width), np.empty(width, np.int64),
        np.empty(width), np.empty(width, np.int64), np.empty(2 * width + 1, np.uint32),
        np.empty(width, np.uint32), np.empty(width, np.uint32),
        # One token more than the beam is wide suffices: for any prefix each of them, save the prefix's last token,
        # makes a candidate as good as a later token could, be it a new one or one already in the beam that the mass is
        # merged into. Not so where language models have a say.
        np.empty(columns - 1 if fused else min(columns - 1, width + 1), np.uint32),
        np.zeros((2 * width, columns), np.uint8),
    )  # fmt: skip


@compile_part
def likelihood(log_value: float) -> float:
    """exp, within what masses can be multiplied by; 0 only for what is impossible."""
    if log_value == -math.inf:
        return 0.0
    log_value = log_value if log_value > SMALLEST else SMALLEST
    return math.exp(log_value if log_value < -SMALLEST else -SMALLEST)


@compile_inner
def slot(nodes: Records, table: Numbers, parent: int, token: int) -> int:
    """Place of a prefix in the table, or the free place where it belongs."""
    mask = table.size - 1
    at: int = ((parent * 0x9E3779B1 + token * 0x85EBCA6B) >> 15) & mask
    while table[at] != NONE and (nodes[table[at]]["parent"] != parent or nodes[table[at]]["token"] != token):
        at = (at + 1) & mask
    return at


@compile_part
def ngram_child(arrays: Backoff, context: int, word: int) -> int:
    """The node that a word leads to from an n-gram context, 0 where there is none."""
    if context == 0:
        return word + 1 if 0 <= word < arrays.sizes[VOCABULARY] else 0
    low, high = signed(arrays.branch[context]), signed(arrays.branch[context + 1])
    wide = arrays.word_high.size > 0
    while low < high:
        middle = (low + high) >> 1
        found = signed(arrays.word_low[middle])
        if wide:
            found |= signed(arrays.word_high[middle]) << 16
        if found == word:
            place: int = middle
            return place
        if found < word:
            low = middle + 1
        else:
            high = middle
    return 0


@compile_part
def ngram_suffix(arrays: Backoff, context: int) -> int:
    """The longest shorter n-gram context that ends as one does."""
    stored = context - arrays.sizes[SUFFIXES]
    found: int = signed(0)
    if stored >= 0:
        found = signed(arrays.suffix[stored])
    elif context > arrays.sizes[VOCABULARY]:
        found = signed(arrays.word_low[context])
        if arrays.word_high.size:
            found |= signed(arrays.word_high[context]) << 16
        found += 1
    return found


@compile_kernel
def ngram(arrays: Backoff, context: int, word: int) -> tuple[float, int]:
    """Log-probability of a word after a context, by back-off (Katz 1987), and the context it leads to."""
    total = 0.0
    contexts = arrays.branch.size - 1
    coded = arrays.log_prob.size == 0
    found = ngram_child(arrays, context, word)
    while found == 0:
        if context == 0:
            return total + NEVER, 0
        total += arrays.backoff_level[arrays.backoff_code[context]] if coded else arrays.backoff[context]
        context = ngram_suffix(arrays, context)
        found = ngram_child(arrays, context, word)
    total += arrays.log_prob_level[arrays.log_prob_code[found]] if coded else arrays.log_prob[found]
    while found >= contexts:  # of the highest order: nothing follows it, but its longest shorter context
        if context == 0:
            return total, 0
        context = ngram_suffix(arrays, context)
        found = ngram_child(arrays, context, word)
        if found == 0:
            found = contexts
    return total, found


@compile_part
def added_place(words: Words, node: int) -> int:
    """The place of a lexicon node among those of added words, ``NONE`` for the lexicon's own."""
    found: int = signed(NONE)
    if words.added.nodes.size:
        own = signed(words.tree.nodes.size - 1)
        if node == 0:
            found = signed(0)
        elif node >= own:
            found = node - own
    return found


@compile_part
def tree_child(tree: Tree, place: int, token: int) -> int:
    """The node that a token leads to, ``OFF`` if there is none."""
    for at in range(tree.nodes[place]["first"], tree.nodes[place + 1]["first"]):
        if tree.children[at]["token"] == token:
            found: int = tree.children[at]["node"]
            return found
    return OFF


@compile_part
def lexicon_child(words: Words, node: int, token: int) -> int:
    """The lexicon node that a token leads to, ``OFF`` if there is none."""
    if node == OFF:
        return OFF
    added = added_place(words, signed(node))
    return tree_child(words.tree, signed(node), token) if added == NONE else tree_child(words.added, added, token)


@compile_part
def lookahead_of(words: Words, node: int) -> float:
    """The best unigram among the words that go through a lexicon node."""
    added = added_place(words, node)
    found: float = words.tree.nodes[node]["lookahead"] if added == NONE else words.added.nodes[added]["lookahead"]
    return found


@compile_apart
def end_word(words: Words, place: int, context: int) -> tuple[float, int]:
    """What the end of the word at a lexicon place adds, and the context it leads to. Of words that are spelt the same
    the n-gram's favourite is taken."""
    if place == 0 or words.tree.nodes.size == 0:  # between words, or no lexicon
        return 0.0, context
    weight = words.options[WEIGHT]
    word, added = signed(NONE), 0.0
    if place != OFF:
        own = added_place(words, signed(place))
        word = signed(words.tree.nodes[place]["word"] if own == NONE else words.added.nodes[own]["word"])
        added = -weight * lookahead_of(words, signed(place))
    if word == NONE:
        if place != OFF:  # the start of a known word that is none itself
            added += words.options[UNKNOWN_PENALTY]
        if words.ids[UNKNOWN] == NONE:  # an n-gram without <unk> has no opinion of it
            return added, 0
        if words.ngram.branch.size:
            log_prob, context = ngram(words.ngram, signed(context), signed(words.ids[UNKNOWN]))
            added += weight * log_prob
        return added, context
    if words.ngram.branch.size:
        best, reached = -math.inf, context
        while word != NONE:
            late = word - signed(words.tree.spellings.size)  # of an added word
            spelling = words.tree.spellings[word] if late < 0 else words.added.spellings[late]
            log_prob, leads = ngram(words.ngram, signed(context), signed(spelling["entry"]))
            if log_prob > best:
                best, reached = log_prob, leads
            word = signed(spelling["twin"])
        return added + weight * best, reached
    return added, context


@compile_part
def enter(words: Words, source: Any, token: int, target: Any) -> None:
    """Set where a prefix stands that continues ``source`` by a token."""
    if words.tree.nodes.size:
        if token == words.ids[SPACE]:
            _, target["context"] = end_word(words, source["lexicon"], source["context"])
            target["lexicon"] = 0
        else:
            target["context"] = source["context"]
            target["lexicon"] = lexicon_child(words, source["lexicon"], token)
    if words.hot_next.size:
        target["hot"] = words.hot_next[source["hot"], token]


@compile_apart
def fill_row(words: Words, node: Any, row: Numbers) -> None:
    """What each token, and in the blank's column the end of the utterance, adds to a prefix."""
    row[:] = 0.0
    if words.tree.nodes.size:
        place, weight = node["lexicon"], words.options[WEIGHT]
        if place != OFF:
            before = lookahead_of(words, signed(place))
            row[:] = words.options[UNKNOWN_PENALTY] - weight * before
            own = added_place(words, signed(place))
            if own == NONE:
                tree = words.tree
                for at in range(tree.nodes[place]["first"], tree.nodes[place + 1]["first"]):
                    gained = tree.nodes[tree.children[at]["node"]]["lookahead"] - before
                    row[tree.children[at]["token"]] = weight * gained
            else:
                tree = words.added
                for at in range(tree.nodes[own]["first"], tree.nodes[own + 1]["first"]):
                    gained = lookahead_of(words, signed(tree.children[at]["node"])) - before
                    row[tree.children[at]["token"]] = weight * gained
            if place == 0:
                row += words.options[WORD_BONUS]
        ended, context = end_word(words, place, node["context"])
        row[BLANK_ID] = ended
        if words.ngram.branch.size and words.ids[END] != NONE:
            row[BLANK_ID] += weight * ngram(words.ngram, signed(context), signed(words.ids[END]))[0]
        if words.ids[SPACE] != NONE:
            row[words.ids[SPACE]] = ended
    elif node["token"] == BLANK_ID or node["token"] == words.ids[SPACE]:  # the next token begins a word
        row[BLANK_ID + 1 :] = words.options[WORD_BONUS]
        if words.ids[SPACE] != NONE:
            row[words.ids[SPACE]] = 0.0
    if words.hot_gain.size:
        row += words.hot_gain[node["hot"]]


@compile_apart
def give_rows(state: State, words: Words) -> None:
    """Give each prefix in the beam its place among the words and a row; ``pending`` lists the nodes of new rows.

    A row stays with its prefix, in the beam or not, until rows run out. There are four times as many as prefixes in
    the beam, so that those in the beam and the parents of new ones, whose rows other models build on, always fit.
    """
    beam, places, nodes, counts = state.beam, state.places, state.nodes, state.counts
    owners, pending, rows = state.owners, state.pending, state.rows
    needed = 0
    for at in range(counts[ENTRIES]):
        if nodes[beam[places[at]]["node"]]["row"] == NONE:
            pending[needed] = beam[places[at]]["node"]
            needed += 1
    counts[PENDING] = needed
    free = 0
    for row in range(owners.size if needed else 0):
        free += owners[row] == NONE
    if free < needed:
        for at in range(counts[ENTRIES]):
            node = nodes[beam[places[at]]["node"]]
            if node["row"] == NONE and node["parent"] != NOWHERE:
                node = nodes[node["parent"]]
            if node["row"] != NONE and owners[node["row"]] > NONE:
                owners[node["row"]] = -2 - owners[node["row"]]  # below -1: in use
        for row in range(owners.size):
            if owners[row] < NONE:
                owners[row] = -2 - owners[row]
            elif owners[row] != NONE:
                nodes[owners[row]]["row"] = NONE
                owners[row] = NONE
    row = 0
    for at in range(needed):
        while owners[row] != NONE:
            row += 1
        owners[row] = pending[at]
        nodes[pending[at]]["row"] = row
        if nodes[pending[at]]["parent"] != NOWHERE:
            enter(words, nodes[nodes[pending[at]]["parent"]], nodes[pending[at]]["token"], nodes[pending[at]])
        fill_row(words, nodes[pending[at]], rows[row])
        best = -math.inf
        for token in range(BLANK_ID + 1, rows.shape[1]):
            if rows[row, token] > best:
                best = rows[row, token]
        state.limits[row] = likelihood(best)


@compile_part
def child(state: State, parent: int, token: int) -> int:
    """The node of a prefix, made if there is none; what language models make of it is left to the caller."""
    nodes, table, counts = state.nodes, state.table, state.counts
    at = slot(nodes, table, parent, token)
    if table[at] == NONE:
        node = counts[NODES]
        counts[NODES] += 1
        nodes[node]["parent"] = parent
        nodes[node]["token"] = token
        nodes[node]["depth"] = nodes[parent]["depth"] + 1
        nodes[node]["place"] = NOWHERE
        nodes[node]["row"] = NONE
        nodes[node]["bonus"] = 0.0
        nodes[node]["factor"] = 1.0
        table[at] = node
    found: int = table[at]
    return found


@compile_part
def finish_token(state: State, entry: Any, from_blank: bool) -> int:
    """The segment of the last token of an entry's path, for what follows it; -1 for the empty prefix."""
    if entry["node"] == ROOT:
        return NONE
    if from_blank and entry["blank_segment"] != NONE:
        known: int = entry["blank_segment"]
        return known
    at: int = state.counts[SEGMENTS]
    state.counts[SEGMENTS] += 1
    segment = state.segments[at]
    if from_blank:
        segment["before"] = entry["blank_before"]
        segment["start"] = entry["blank_start"]
        segment["end"] = entry["blank_end"]
        segment["peak"] = entry["blank_peak"]
        entry["blank_segment"] = at
    else:
        segment["before"] = entry["label_before"]
        segment["start"] = entry["label_start"]
        segment["end"] = state.counts[FRAME]
        segment["peak"] = entry["label_peak"]
    return at


@compile_part
def end_in_blank(entry: Any, log_prob: float, frame: int) -> None:
    """Let the best path of a prefix take a blank."""
    if entry["label_path"] > entry["blank_path"]:
        entry["blank_path"] = entry["label_path"]
        entry["blank_before"] = entry["label_before"]
        entry["blank_start"] = entry["label_start"]
        entry["blank_end"] = frame
        entry["blank_peak"] = entry["label_peak"]
        entry["blank_segment"] = NONE
    entry["blank_path"] += log_prob


@compile_part
def rest(state: State) -> None:
    """Let all prefixes take a blank that is certain."""
    for at in range(state.counts[ENTRIES]):
        entry = state.beam[state.places[at]]
        entry["blank"] = entry["total"]
        entry["label"] = 0.0
        end_in_blank(entry, 0.0, state.counts[FRAME])
        entry["label_path"] = -math.inf


@compile_part
def likeliest_tokens(row: Numbers, threshold: float, order: Numbers) -> int:
    """Fill ``order`` with the likeliest tokens of a frame, best first, and return how many there are.

    Tokens below the threshold are left out, save the likeliest symbol of the frame: without it a frame in which all
    symbols are unlikely would end every prefix.
    """
    count, size = unsigned(0), unsigned(order.size)
    for token in range(ONE, unsigned(row.size)):
        log_prob = row[token]
        if log_prob < threshold or (count == size and log_prob <= row[order[count - ONE]]):
            continue
        at = count if count < size else count - ONE
        count = at + ONE
        while at > 0 and row[order[at - ONE]] < log_prob:
            order[at] = order[at - ONE]
            at -= ONE
        order[at] = token
    if count == 0:
        best, order[0] = row[BLANK_ID], BLANK_ID
        for token in range(ONE, unsigned(row.size)):
            if row[token] > best:
                best, order[0] = row[token], token
        count = unsigned(order[0] != BLANK_ID)
    found: int = signed(count)
    return found


@compile_part
def insert(scores: Numbers, codes: Numbers, count: int, score: float, code: int) -> int:
    """Insert a candidate into the sorted ones, the last falls out of a full list; equal scores keep their order."""
    at = unsigned(count if count < scores.size else count - 1)
    grown: int = signed(at + ONE)
    while at > 0 and scores[at - ONE] < score:
        scores[at] = scores[at - ONE]
        codes[at] = codes[at - ONE]
        at -= ONE
    scores[at] = score
    codes[at] = code
    return grown


@compile_part
def meet(state: State, work: Work, row: Numbers, fused: bool) -> int:
    """Work out what the frame makes of each prefix in the beam, with the mass that comes from its parent there.

    ``labels`` and ``totals`` get the masses, ``joined`` the segments of the parents whose paths are the better ones.
    Lists prefixes whose parents are in the beam, and notes them in ``taken``; returns how many there are."""
    beam, places, nodes = state.beam, state.places, state.nodes
    blank = work.probs[BLANK_ID] = likelihood(row[BLANK_ID])
    entries = unsigned(state.counts[ENTRIES])
    below = unsigned(0)
    for at in range(entries):
        entry = beam[places[at]]
        last = entry["token"]
        work.joined[at] = UNJOINED
        work.labels[at] = 0.0
        if last != BLANK_ID:  # else it is the empty prefix
            prob = work.probs[last]
            if prob < 0.0:
                prob = work.probs[last] = likelihood(row[last])
            work.labels[at] = entry["label"] * prob
            place = nodes[nodes[entry["node"]]["parent"]]["place"]
            work.listed[below] = at
            work.others[below] = place
            below += unsigned(place != NOWHERE)
        work.totals[at] = entry["total"] * blank + work.labels[at]
    for item in range(below):
        at, place = unsigned(work.listed[item]), unsigned(work.others[item])
        entry, parent = beam[places[at]], beam[place]
        last = entry["token"]
        work.taken[place, last] = 1
        repeated = parent["token"] == last
        mass = parent["blank"] if repeated else parent["total"]
        mass = mass * nodes[entry["node"]]["factor"] if fused else mass
        work.labels[at] = (entry["label"] + mass) * work.probs[last]
        work.totals[at] = entry["total"] * blank + work.labels[at]
        from_blank = repeated or parent["blank_path"] >= parent["label_path"]
        path = parent["blank_path"] if from_blank else parent["label_path"]
        if path > entry["label_path"]:
            work.joined[at] = finish_token(state, parent, from_blank)
            work.paths[at] = path
    count: int = signed(below)
    return count


@compile_part
def extend(state: State, work: Work, keep: float, tokens: int, kept: int, fused: bool) -> int:
    """Add the continuations of the prefixes in the beam by the frame's tokens to the sorted candidates."""
    places = state.places
    width = work.scores.size
    scores, codes, taken, order = work.scores, work.codes, work.taken, work.order
    for at in range(unsigned(state.counts[ENTRIES])):
        entry = state.beam[places[at]]
        own = state.nodes[entry["node"]]["row"] if fused else NONE
        most = entry["total"] * state.limits[own] if fused else entry["total"]
        floor = scores[width - 1] if kept == width else 0.0
        if kept and scores[0] * keep > floor:
            floor = scores[0] * keep
        if most * work.probs[order[0]] <= floor:
            if fused:
                continue
            break  # nor can those after it, which have less mass
        for rank in range(unsigned(tokens)):
            token = order[rank]
            prob = work.probs[token]
            if most * prob <= floor:
                break
            if taken[places[at], token]:  # it has got its mass in `meet`
                continue
            score = (entry["blank"] if token == entry["token"] else entry["total"]) * prob
            if fused:
                score *= likelihood(state.rows[own, token])
            if score > floor:
                kept = insert(scores, codes, kept, score, LATER * signed(at + ONE) + token)
                floor = scores[width - 1] if kept == width else 0.0
                if scores[0] * keep > floor:
                    floor = scores[0] * keep
    return kept


@compile_part
def renew(state: State, work: Work, row: Numbers, kept: int, fused: bool) -> None:
    """Make the chosen candidates the beam: new ones first, as they build on what the others are before the frame."""
    beam, places, nodes, counts = state.beam, state.places, state.nodes, state.counts
    frame, entries, blank = counts[FRAME], counts[ENTRIES], work.probs[BLANK_ID]
    free = unsigned(entries)
    new_ones, staying = unsigned(0), unsigned(0)
    for rank in range(unsigned(kept)):
        is_new = unsigned(work.codes[rank] >= LATER)
        work.listed[new_ones] = rank
        new_ones += is_new
        work.others[staying] = rank
        staying += ONE - is_new
    for item in range(new_ones):
        rank = unsigned(work.listed[item])
        code = work.codes[rank]
        at, token = unsigned((code >> 32) - 1), unsigned(code & (LATER - 1))
        source = beam[places[at]]
        found = child(state, source["node"], token)
        if fused:
            gain = state.rows[nodes[source["node"]]["row"], token]
            nodes[found]["bonus"] = nodes[source["node"]]["bonus"] + gain
            nodes[found]["factor"] = likelihood(gain)
        nodes[found]["place"] = places[free]
        new = beam[places[free]]
        new["node"] = found
        new["token"] = token
        new["blank"] = 0.0
        new["label"] = new["total"] = work.scores[rank]
        new["blank_path"] = -math.inf
        new["blank_before"] = new["blank_segment"] = NONE
        from_blank = source["token"] == token or source["blank_path"] >= source["label_path"]
        new["label_path"] = (source["blank_path"] if from_blank else source["label_path"]) + row[token]
        new["label_before"] = finish_token(state, source, from_blank)
        new["label_start"] = frame
        new["label_peak"] = row[token]
        work.chosen[rank] = places[free]
        free += ONE
    for item in range(staying):
        rank = unsigned(work.others[item])
        at = unsigned(work.codes[rank])
        place = places[at]
        places[at] = NOWHERE  # not to be found among those that fall out
        work.chosen[rank] = place
        entry = beam[place]
        entry["blank"] = entry["total"] * blank
        entry["label"] = work.labels[at]
        entry["total"] = work.scores[rank]
        end_in_blank(entry, row[BLANK_ID], frame)
        last = entry["token"]
        if last == BLANK_ID:
            entry["label_path"] = -math.inf
        elif work.joined[at] != UNJOINED:
            entry["label_path"] = work.paths[at] + row[last]
            entry["label_before"] = work.joined[at]
            entry["label_start"] = frame
            entry["label_peak"] = row[last]
        else:
            entry["label_path"] += row[last]
            entry["label_peak"] = row[last] if row[last] > entry["label_peak"] else entry["label_peak"]
    behind = unsigned(kept)
    for at in range(unsigned(entries if kept < signed(free) else 0)):
        work.chosen[behind] = places[at]
        behind += unsigned(places[at] != NOWHERE)
    for rank in range(unsigned(kept), behind):
        nodes[beam[work.chosen[rank]]["node"]]["place"] = NOWHERE  # its prefix fell out of the beam
    for rank in range(free):  # kept and fallen out: as many as there were and are new
        places[rank] = work.chosen[rank]
    counts[ENTRIES] = kept


@compile_part
def step(state: State, work: Work, row: Numbers, threshold: float, keep: float, fused: bool) -> None:
    """One frame: let prefixes stay, extend them, keep the best, those of at least ``keep`` times the best mass.

    Prefixes and tokens come best first, so that a prefix is left at the first token that cannot reach the beam
    whatever language models say of it. That prunes nothing that would have been kept.
    """
    work.probs[:] = -1.0  # not yet known
    below = meet(state, work, row, fused)
    tokens = likeliest_tokens(row, threshold, work.order)
    for rank in range(unsigned(tokens)):
        work.probs[work.order[rank]] = likelihood(row[work.order[rank]])
    # What is likelier goes first, so that little needs to move in the sorted list.
    kept = signed(0)
    early = tokens > 0 and row[work.order[0]] > row[BLANK_ID]
    for turn in range(2 if tokens else 1):  # a loop, so that `extend` is compiled into one place
        if early == (turn == 0):
            kept = extend(state, work, keep, tokens, kept, fused)
            continue
        for at in range(unsigned(state.counts[ENTRIES])):
            if work.totals[at] > (work.scores[kept - 1] if kept == work.scores.size else 0.0):
                kept = insert(work.scores, work.codes, kept, work.totals[at], signed(at))
    for item in range(unsigned(below)):
        work.taken[work.others[item], state.beam[state.places[work.listed[item]]]["token"]] = 0
    while kept and work.scores[kept - 1] < work.scores[0] * keep:
        kept -= 1
    renew(state, work, row, kept, fused)


@compile_part
def rescale(state: State) -> None:
    """Bring the best mass back to 1 where it has left 1e-100 to 1; ``offset`` remembers."""
    best = state.beam[state.places[0]]["total"]
    if state.counts[ENTRIES] and not 1e-100 <= best <= 1.0:
        state.offset[0] += math.log(best)
        for at in range(state.counts[ENTRIES]):
            entry = state.beam[state.places[at]]
            entry["blank"] /= best
            entry["label"] /= best
            entry["total"] /= best


@compile_part
def start_beam(state: State, context: int) -> None:
    """The state before the first frame: only the empty prefix, certain, as if a blank had been seen."""
    for at in range(state.places.size):
        state.places[at] = at
    state.table[:] = NONE
    state.owners[:] = NONE
    root = state.nodes[ROOT]
    root["parent"] = NOWHERE
    root["token"] = BLANK_ID  # which no token equals, so that nothing repeats the root
    root["depth"] = 0
    root["place"] = 0
    root["row"] = NONE
    root["lexicon"] = 0
    root["context"] = context
    root["hot"] = 0
    root["bonus"] = 0.0
    root["factor"] = 1.0
    empty = state.beam[0]
    empty["node"] = ROOT
    empty["token"] = BLANK_ID
    empty["total"] = empty["blank"] = 1.0
    empty["label"] = 0.0
    empty["blank_path"] = 0.0
    empty["label_path"] = -math.inf
    empty["blank_before"] = empty["blank_segment"] = empty["label_before"] = NONE
    state.offset[0] = 0.0
    state.counts[:] = 0
    state.counts[ENTRIES] = state.counts[NODES] = 1


@compile_part
def decode_frames(
    state: State, words: Words | None, work: Work, thresholds: Numbers, log_probs: Numbers, finish: bool, pause: bool
) -> int:  # fmt: skip
    """Decode frames ``(T, V)`` until none are left, the pools might overflow, or (``pause``) the caller must add to
    the rows of ``pending`` nodes. ``finish``: after the last frame give rows once more, which hold what the end of the
    utterance adds. Return how many frames were decoded."""
    counts = state.counts
    frames: int = log_probs.shape[0]
    width = state.beam.size // 2
    token_threshold, blank_threshold, keep = thresholds[0], thresholds[1], math.exp(-thresholds[2])
    fused = words is not None
    resting = False
    for frame in range(frames + 1 if finish and fused else frames):  # `give_rows` is compiled into one place
        # A frame makes at most `width` nodes and two segments per prefix: one in `meet`, one in `renew`.
        full = counts[NODES] + width > state.nodes.size or counts[SEGMENTS] + 2 * width > state.segments.size
        if full and frame < frames:  # rows need no room
            return frame
        if frame < frames and log_probs[frame, BLANK_ID] > blank_threshold:
            # A certain blank multiplies all masses alike: that goes into the offset, and after the first of a run of
            # such frames there is nothing else to do.
            state.offset[0] += log_probs[frame, BLANK_ID]
            if not resting:
                rest(state)
                resting = True
        else:
            resting = False
            if words is not None:
                give_rows(state, words)
                if pause and counts[PENDING]:
                    return frame
            if frame == frames:
                break
            step(state, work, log_probs[frame], token_threshold, keep, fused)
            rescale(state)
        counts[FRAME] += 1
    return frames


@compile_inner
def trace(state: State, place: int, out: Numbers, first: int) -> None:
    """Write tokens, first frames, ends and largest log posteriors of a prefix in the beam into ``out (4, ...)``, from
    column ``first`` on."""
    nodes = state.nodes
    entry = state.beam[state.places[place]]
    node = entry["node"]
    at = first + nodes[node]["depth"] - 1
    if at < first:
        return
    from_blank = entry["blank_path"] >= entry["label_path"]
    before = entry["blank_before"] if from_blank else entry["label_before"]
    out[0, at] = nodes[node]["token"]
    out[1, at] = entry["blank_start"] if from_blank else entry["label_start"]
    out[2, at] = entry["blank_end"] if from_blank else state.counts[FRAME]
    out[3, at] = entry["blank_peak"] if from_blank else entry["label_peak"]
    while at > first:
        at -= 1
        node = nodes[node]["parent"]
        segment = state.segments[before]
        out[0, at] = nodes[node]["token"]
        out[1, at] = segment["start"]
        out[2, at] = segment["end"]
        out[3, at] = segment["peak"]
        before = segment["before"]


@compile_apart
def write_hypotheses(
    state: State, work: Work, output: Output, utterance: int, first: int, space: int
) -> int:  # fmt: skip
    """Write the best hypotheses of an utterance into ``output``, from column ``first`` of its tokens on. Return how
    many there are.

    Where nothing ends at a word of a closed lexicon, that is the best prefix without its unfinished word."""
    beam, places, nodes, counts = state.beam, state.places, state.nodes, state.counts
    nbest = output.scores.shape[1]
    totals, order, ends = work.scores[:nbest], work.codes, work.paths
    fused = state.owners.size > 0
    found: int = signed(0)
    for at in range(counts[ENTRIES]):
        entry = beam[places[at]]
        ends[at] = state.rows[nodes[entry["node"]]["row"], BLANK_ID] if fused else 0.0
        score = math.log(entry["total"]) + state.offset[0] + ends[at]
        if score > (totals[nbest - 1] if found == nbest else -math.inf):
            found = insert(totals, order, found, score, at)
    unfinished = found == 0 and counts[ENTRIES] > 0
    if unfinished:
        totals[0] = math.log(beam[places[0]]["total"]) + state.offset[0]
        order[0] = 0
        ends[0] = 0.0
        found = 1
    for rank in range(found):
        node = nodes[beam[places[order[rank]]]["node"]]
        last = first + node["depth"]
        trace(state, order[rank], output.tokens, first)
        while unfinished and last > first:
            last -= 1
            unfinished = output.tokens[0, last] != space
        output.scores[utterance, rank, 0] = totals[rank]
        output.scores[utterance, rank, 1] = node["bonus"] + ends[order[rank]]
        output.bounds[utterance, rank] = first = last
    return found


@compile_search
def search(
    state: State, words: Words | None, work: Work, thresholds: Numbers, frames: Frames, output: Output,
    begin: bool, finish: bool, pause: bool,
) -> bool:  # fmt: skip
    """Decode utterances: each from the empty prefix (``begin``), to its hypotheses (``finish``).

    Return whether all is done. If not, ``frames.progress`` holds where to continue. The caller must first make room in
    the pools, or (``pause``) add to the rows of ``pending`` nodes where there are any.

    ``words`` is None where there are no language models at all: numba then compiles the search without them, in less
    than half of the time, and a call hands over half as many arrays. Another model alone comes with ``NO_WORDS``.
    """
    starts, progress = frames.starts, frames.progress
    context, space = signed(0), signed(NONE)
    if words is not None:
        context, space = signed(words.ids[START]), signed(words.ids[SPACE])
    for utterance in range(progress[UTTERANCE], starts.size - 1):
        progress[UTTERANCE] = utterance
        if begin and progress[DONE] == 0:
            start_beam(state, context)
        matrix = frames.log_probs[starts[utterance] + progress[DONE] : starts[utterance + 1]]
        done = decode_frames(state, words, work, thresholds, matrix, finish, pause)
        progress[DONE] += done
        if done < matrix.shape[0] or (pause and state.counts[PENDING]):
            return False
        if finish:
            found = write_hypotheses(state, work, output, signed(utterance), progress[WRITTEN], space)
            output.counts[utterance] = found
            if found:
                progress[WRITTEN] = output.bounds[utterance, found - 1]
        progress[DONE] = 0
    return True


@compile_kernel
def index(state: State) -> None:
    """Fill the table anew after nodes have moved or the table has grown."""
    nodes, table = state.nodes, state.table
    table[:] = NONE
    for node in range(ROOT + 1, state.counts[NODES]):
        table[slot(nodes, table, nodes[node]["parent"], unsigned(nodes[node]["token"]))] = node
