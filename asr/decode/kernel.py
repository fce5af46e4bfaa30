"""The prefix beam search itself: numba kernels over flat arrays, compiled at first use and cached on disk.

All kernels that call one another stay in this one file: numba renews its cache when the file of a kernel changes, but
does not notice a change in a kernel of another file that it calls.

**Search** (Graves 2012, chapter 7; Hannun et al. 2014). For each prefix two masses, in logarithms: of its paths that
end in ``blank`` and of those that end in its last ``label``. A frame ``p`` makes of a prefix ``l`` of total mass ``m``

- ``l`` itself, by blank with ``m * p[blank]`` and by repeating its last token with ``label * p[last]``;
- each ``l + c`` with ``m * p[c]``, or ``blank * p[c]`` where ``c`` is the last token of ``l`` (else it is a repeat).
  Where ``l + c`` is in the beam already the two meet, and their masses are added: that is the merging of prefixes.

**Prefixes** are nodes of a trie. There is one node per prefix as long as anything in the beam begins with it, so that a
prefix that falls out of the beam and comes back meets its own continuations again. ``table`` finds nodes: open
addressing, a power of two of slots, -1 where free.

**Language models.** What a model makes of a prefix depends on the prefix alone: each node holds its ``bonus``, the
weighted sum of all models, and candidates compete by CTC mass plus bonus. ``rows`` holds for each prefix in the beam
what each token would add, and in the column of the blank what the end of the utterance would. Rows of a lexicon, its
n-gram and hot words are filled here (``Words``); for other models the search pauses until the caller has filled them.

**Times.** Beside its masses each prefix carries its single best path for either ending, whose finished tokens are a
chain of segments and whose last token is still open. Storing times in the trie would mix frames of different paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

BLANK = 0
ROOT = 0
NONE = -1

NODE = np.dtype(
    [
        ("parent", "i4"),
        ("token", "i4"),
        ("depth", "i4"),
        ("place", "i4"),  # in the beam, or -1
        ("row", "i4"),  # of what its continuations get from language models, or -1
        # Where the prefix stands in the lexicon, in the n-gram and among the hot words (see `Words`).
        ("lexicon", "i4"),
        ("context", "i4"),
        ("hot", "i4"),
        ("bonus", "f8"),  # of all language models, weighted
    ]
)
"""A prefix: the prefix it continues, by which token, its length, and what language models make of it."""

SEGMENT = np.dtype([("before", "i4"), ("start", "i4"), ("end", "i4"), ("peak", "f4")])
"""A finished token of a path: the segment before it, its frames, its largest log posterior in them."""

ENTRY = np.dtype(
    [
        ("node", "i8"),
        ("bonus", "f8"),
        ("total", "f8"),
        ("blank", "f8"),
        ("label", "f8"),
        # The best single path that ends in blank: its score, the segments before the last token, the last token.
        ("blank_path", "f8"),
        ("blank_before", "i8"),
        ("blank_start", "i8"),
        ("blank_end", "i8"),
        ("blank_peak", "f8"),
        # The best single path that ends in the last token, which lasts until now.
        ("label_path", "f8"),
        ("label_before", "i8"),
        ("label_start", "i8"),
        ("label_peak", "f8"),
    ]
)
"""A prefix in the beam."""

COUNTS = 5
ENTRIES, NODES, SEGMENTS, FRAME, PENDING = range(COUNTS)
"""Places in ``counts``: prefixes in the beam, nodes and segments in use, frames decoded, rows the caller must fill."""

OFF = -1
"""Place in the lexicon of a prefix whose last word has left it."""
NEVER = -100 * math.log(10)
"""What an n-gram gives a word that it does not know and has no ``<unk>`` for (as KenLM)."""


class Words(NamedTuple):
    """Lexicon, n-gram and hot words as flat arrays; ``asr.decode.words`` builds them. Natural logarithms.

    The lexicon is a prefix tree with the root 0; the children of node ``n`` are ``first[n]`` to ``first[n + 1] - 1``.
    The n-gram is a tree of contexts with the empty one as 0; ``suffix`` leads to the longest shorter context.
    Hot words are an automaton over tokens. Arrays without items stand for a part that is not there.
    """

    first: Numbers
    child_token: Numbers
    child_node: Numbers
    word: Numbers
    """The word that ends at a lexicon node, or -1."""
    lookahead: Numbers
    """Largest unigram log-probability of the words that go through a lexicon node; 0 at the root."""
    parent: Numbers
    last: Numbers
    log_prob: Numbers
    backoff: Numbers
    suffix: Numbers
    slots: Numbers
    """Hash table of n-gram nodes by parent and last word."""
    hot_next: Numbers
    """``(states, V)``: where a token leads."""
    hot_gain: Numbers
    """``(states, V)``: what it adds; the blank's column is the end of the utterance."""
    options: Numbers
    """LM weight, word bonus, unknown-word penalty (-inf: closed vocabulary)."""
    ids: Numbers
    """Space token, unknown word, end of sentence, context at the start; -1 where there is none."""


WEIGHT, WORD_BONUS, UNKNOWN_PENALTY = range(3)
SPACE, UNKNOWN, END, START = range(4)

_INTS, _FLOATS = np.empty(0, np.int32), np.empty(0, np.float64)
NO_WORDS = Words(
    *(_INTS, _INTS, _INTS, _INTS, _FLOATS),
    *(_INTS, _INTS, _FLOATS, _FLOATS, _INTS, _INTS),
    *(np.empty((0, 0), np.int32), np.empty((0, 0), np.float64)),
    *(np.zeros(3), np.array([NONE, NONE, NONE, 0])),
)
"""No lexicon, no n-gram, no hot words."""


def kernel(function: Function) -> Function:
    """Compile with numba, cached on disk where there is a writable place for it."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # Neither the package's folder nor the user's cache can be written: compile in each process.
        return cast(Function, numba.njit(nogil=True)(function))


@kernel
def log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b)); what is below 1e-17 of the larger one is left out."""
    if a < b:
        a, b = b, a
    if b == -math.inf or b < a - 40.0:
        return a
    return a + math.log1p(math.exp(b - a))


@kernel
def slot(nodes: Records, table: Numbers, parent: int, token: int) -> int:
    """Place of a prefix in the table, or the free place where it belongs."""
    mask = table.size - 1
    at: int = ((parent * 0x9E3779B1 + token * 0x85EBCA6B) >> 15) & mask
    while table[at] != NONE and (nodes[table[at]]["parent"] != parent or nodes[table[at]]["token"] != token):
        at = (at + 1) & mask
    return at


@kernel
def ngram(words: Words, context: int, word: int) -> tuple[float, int]:
    """Log-probability of a word after a context, by back-off (Katz 1987), and the context it leads to."""
    total = 0.0
    mask = words.slots.size - 1
    while True:
        at = ((context * 0x9E3779B1 + word * 0x85EBCA6B) >> 15) & mask
        while words.slots[at] != NONE:
            found = words.slots[at]
            if words.parent[found] == context and words.last[found] == word:
                return total + words.log_prob[found], found
            at = (at + 1) & mask
        if context == 0:
            return total + NEVER, 0
        total += words.backoff[context]
        context = words.suffix[context]


@kernel
def lexicon_child(words: Words, node: int, token: int) -> int:
    """The lexicon node that a token leads to, ``OFF`` if there is none."""
    if node != OFF:
        for at in range(words.first[node], words.first[node + 1]):
            if words.child_token[at] == token:
                found: int = words.child_node[at]
                return found
    return OFF


@kernel
def end_word(words: Words, place: int, context: int) -> tuple[float, int]:
    """What the end of the word at a lexicon place adds, and the context it leads to."""
    if place == 0 or words.first.size == 0:  # between words, or no lexicon
        return 0.0, context
    weight = words.options[WEIGHT]
    word = NONE if place == OFF else words.word[place]
    added = 0.0 if place == OFF else -weight * words.lookahead[place]
    if word == NONE:
        word = words.ids[UNKNOWN]
        if place != OFF:  # the start of a known word that is none itself
            added += words.options[UNKNOWN_PENALTY]
    if word == NONE:  # an n-gram without <unk> has no opinion of it
        return added, 0
    if words.slots.size:
        log_prob, context = ngram(words, context, word)
        added += weight * log_prob
    return added, context


@kernel
def enter(words: Words, source: Any, token: int, target: Any) -> None:
    """Set where a prefix stands that continues ``source`` by a token."""
    if words.first.size:
        if token == words.ids[SPACE]:
            _, target["context"] = end_word(words, source["lexicon"], source["context"])
            target["lexicon"] = 0
        else:
            target["context"] = source["context"]
            target["lexicon"] = lexicon_child(words, source["lexicon"], token)
    if words.hot_next.size:
        target["hot"] = words.hot_next[source["hot"], token]


@kernel
def fill_row(words: Words, node: Any, row: Numbers) -> None:
    """What each token, and in the blank's column the end of the utterance, adds to a prefix."""
    row[:] = 0.0
    if words.first.size:
        place, weight = node["lexicon"], words.options[WEIGHT]
        if place != OFF:
            row[:] = words.options[UNKNOWN_PENALTY] - weight * words.lookahead[place]
            for at in range(words.first[place], words.first[place + 1]):
                gained = words.lookahead[words.child_node[at]] - words.lookahead[place]
                row[words.child_token[at]] = weight * gained
            if place == 0:
                row += words.options[WORD_BONUS]
        ended, context = end_word(words, place, node["context"])
        row[BLANK] = ended
        if words.slots.size and words.ids[END] != NONE:
            row[BLANK] += weight * ngram(words, context, words.ids[END])[0]
        if words.ids[SPACE] != NONE:
            row[words.ids[SPACE]] = ended
    elif node["token"] == BLANK or node["token"] == words.ids[SPACE]:  # the next token begins a word
        row[BLANK + 1 :] = words.options[WORD_BONUS]
        if words.ids[SPACE] != NONE:
            row[words.ids[SPACE]] = 0.0
    if words.hot_gain.size:
        row += words.hot_gain[node["hot"]]


@kernel
def give_rows(
    beam: Records, nodes: Records, counts: Numbers, rows: Numbers, limits: Numbers, owners: Numbers, pending: Numbers,
    words: Words,
) -> None:  # fmt: skip
    """Give each prefix in the beam its place among the words and a row; ``pending`` lists the nodes of new rows.

    A row stays with its prefix, in the beam or not, until rows run out. There are four times as many as prefixes in
    the beam, so that those in the beam and the parents of new ones, whose rows other models build on, always fit.
    """
    needed = 0
    for at in range(counts[ENTRIES]):
        if nodes[beam[at]["node"]]["row"] == NONE:
            pending[needed] = beam[at]["node"]
            needed += 1
    counts[PENDING] = needed
    free = 0
    for row in range(owners.size if needed else 0):
        free += owners[row] == NONE
    if free < needed:
        used = np.zeros(owners.size + 1, np.bool_)  # one more than there are, so that -1 is a place too
        for at in range(counts[ENTRIES]):
            node = nodes[beam[at]["node"]]
            if node["row"] == NONE and node["parent"] != NONE:
                node = nodes[node["parent"]]
            used[node["row"]] = True
        for row in range(owners.size):
            if owners[row] != NONE and not used[row]:
                nodes[owners[row]]["row"] = NONE
                owners[row] = NONE
    row = 0
    for at in range(needed):
        while owners[row] != NONE:
            row += 1
        owners[row] = pending[at]
        nodes[pending[at]]["row"] = row
        if nodes[pending[at]]["parent"] != NONE:
            enter(words, nodes[nodes[pending[at]]["parent"]], nodes[pending[at]]["token"], nodes[pending[at]])
        fill_row(words, nodes[pending[at]], rows[row])
        limits[row] = rows[row, BLANK + 1 :].max()


@kernel
def child(nodes: Records, table: Numbers, counts: Numbers, parent: int, token: int) -> int:
    """The node of a prefix, made if there is none; its bonus is left to the caller."""
    at = slot(nodes, table, parent, token)
    if table[at] == NONE:
        node = counts[NODES]
        counts[NODES] += 1
        nodes[node]["parent"] = parent
        nodes[node]["token"] = token
        nodes[node]["depth"] = nodes[parent]["depth"] + 1
        nodes[node]["place"] = NONE
        nodes[node]["row"] = NONE
        table[at] = node
    found: int = table[at]
    return found


@kernel
def clear(entry: Any, node: int) -> None:
    """Make an entry of the beam stand for a prefix that no path has reached."""
    entry["node"] = node
    entry["bonus"] = 0.0
    entry["total"] = -math.inf
    entry["blank"] = -math.inf
    entry["label"] = -math.inf
    entry["blank_path"] = -math.inf
    entry["blank_before"] = NONE
    entry["blank_start"] = 0
    entry["blank_end"] = 0
    entry["blank_peak"] = -math.inf
    entry["label_path"] = -math.inf
    entry["label_before"] = NONE
    entry["label_start"] = 0
    entry["label_peak"] = -math.inf


@kernel
def finish_token(segments: Records, counts: Numbers, entry: Any, from_blank: bool) -> int:
    """Store the last token of an entry's path for what follows it; -1 for the empty prefix, which has none."""
    if entry["node"] == ROOT:
        return NONE
    at: int = counts[SEGMENTS]
    counts[SEGMENTS] += 1
    segment = segments[at]
    if from_blank:
        segment["before"] = entry["blank_before"]
        segment["start"] = entry["blank_start"]
        segment["end"] = entry["blank_end"]
        segment["peak"] = entry["blank_peak"]
    else:
        segment["before"] = entry["label_before"]
        segment["start"] = entry["label_start"]
        segment["end"] = counts[FRAME]
        segment["peak"] = entry["label_peak"]
    return at


@kernel
def begin_token(segments: Records, counts: Numbers, source: Any, repeated: bool, log_prob: float, target: Any) -> None:
    """Let the best path of ``source`` go on with a new token in ``target``, if that beats the path there."""
    from_blank = repeated or source["blank_path"] >= source["label_path"]
    path = (source["blank_path"] if from_blank else source["label_path"]) + log_prob
    if path > target["label_path"]:
        target["label_path"] = path
        target["label_before"] = finish_token(segments, counts, source, from_blank)
        target["label_start"] = counts[FRAME]
        target["label_peak"] = log_prob


@kernel
def end_in_blank(entry: Any, log_prob: float, frame: int) -> None:
    """Let a prefix take a blank: all its mass moves to the paths that end in blank."""
    entry["blank"] = entry["total"] + log_prob
    entry["label"] = -math.inf
    entry["total"] = entry["blank"]
    if entry["label_path"] > entry["blank_path"]:
        entry["blank_path"] = entry["label_path"]
        entry["blank_before"] = entry["label_before"]
        entry["blank_start"] = entry["label_start"]
        entry["blank_end"] = frame
        entry["blank_peak"] = entry["label_peak"]
    entry["blank_path"] += log_prob
    entry["label_path"] = -math.inf


@kernel
def likeliest_tokens(row: Numbers, threshold: float, order: Numbers) -> int:
    """Fill ``order`` with the likeliest tokens of a frame, best first, and return how many there are.

    Tokens below the threshold are left out, save the likeliest symbol of the frame: without it a frame in which all
    symbols are unlikely would end every prefix.
    """
    count = 0
    best = row.max()
    for token in range(BLANK + 1, row.size):
        log_prob = row[token]
        if log_prob < threshold and log_prob < best:
            continue
        if count == order.size and log_prob <= row[order[count - 1]]:
            continue
        at = count if count < order.size else count - 1
        count = at + 1
        while at > 0 and row[order[at - 1]] < log_prob:
            order[at] = order[at - 1]
            at -= 1
        order[at] = token
    return count


@kernel
def insert(scores: Numbers, codes: Numbers, count: int, score: float, code: int) -> int:
    """Insert a candidate into the sorted ones, the last falls out of a full list; equal scores keep their order."""
    at = count if count < scores.size else count - 1
    count = at + 1
    while at > 0 and scores[at - 1] < score:
        scores[at] = scores[at - 1]
        codes[at] = codes[at - 1]
        at -= 1
    scores[at] = score
    codes[at] = code
    return count


@kernel
def stay(
    row: Numbers, beam: Records, stayed: Records, first_child: Numbers, next_child: Numbers,
    nodes: Records, segments: Records, counts: Numbers,
) -> None:  # fmt: skip
    """What the frame makes of each prefix in the beam, its parent's mass merged in; lists children within the beam."""
    frame = counts[FRAME]
    for at in range(counts[ENTRIES]):
        first_child[at] = NONE
    for at in range(counts[ENTRIES]):
        old = beam[at]
        stayed[at] = old
        new = stayed[at]
        end_in_blank(new, row[BLANK], frame)
        node = nodes[old["node"]]
        if old["node"] == ROOT:
            continue
        last = node["token"]
        new["label"] = old["label"] + row[last]
        new["label_path"] = old["label_path"] + row[last]
        new["label_peak"] = max(old["label_peak"], row[last])
        place = nodes[node["parent"]]["place"]
        if place != NONE:
            next_child[at] = first_child[place]
            first_child[place] = at
            parent = beam[place]
            repeated = nodes[parent["node"]]["token"] == last
            mass = parent["blank"] if repeated else parent["total"]
            new["label"] = log_add(new["label"], mass + row[last])
            begin_token(segments, counts, parent, repeated, row[last], new)
        new["total"] = log_add(new["blank"], new["label"])


@kernel
def step(
    row: Numbers, threshold: float, beam_threshold: float, rows: Numbers, limits: Numbers,
    beam: Records, stayed: Records, nodes: Records, table: Numbers, segments: Records, counts: Numbers,
    order: Numbers, scores: Numbers, codes: Numbers, first_child: Numbers, next_child: Numbers, taken: Numbers,
) -> None:  # fmt: skip
    """One frame: let prefixes stay, extend them, keep the best.

    Candidates are coded by number: a place in the beam for a prefix that stays, else
    ``width + place * V + token``. Prefixes and tokens come best first, so that a prefix is left at the first token that
    cannot reach the beam whatever language models say of it. That prunes nothing that would have been kept.
    """
    width, columns = beam.size, row.size
    entries = counts[ENTRIES]
    stay(row, beam, stayed, first_child, next_child, nodes, segments, counts)
    kept = 0
    for at in range(entries):
        score = stayed[at]["total"] + stayed[at]["bonus"]
        if score > -math.inf:
            kept = insert(scores, codes, kept, score, at)

    tokens = likeliest_tokens(row, threshold, order)
    for at in range(entries):
        entry = beam[at]
        last = nodes[entry["node"]]["token"]
        own = nodes[entry["node"]]["row"] if counts[PENDING] != NONE else NONE
        inner = first_child[at]
        while inner != NONE:  # these have got their mass in `stay`
            taken[nodes[beam[inner]["node"]]["token"]] = at
            inner = next_child[inner]
        most = entry["bonus"] if own == NONE else entry["bonus"] + limits[own]
        for rank in range(tokens):
            token = order[rank]
            floor = scores[width - 1] if kept == width else -math.inf
            if kept:
                floor = max(floor, scores[0] - beam_threshold)
            if entry["total"] + row[token] + most <= floor:
                break
            score = (entry["blank"] if token == last else entry["total"]) + row[token] + entry["bonus"]
            if own != NONE:
                score += rows[own, token]
            if score > floor and taken[token] != at:
                kept = insert(scores, codes, kept, score, width + at * columns + token)
    taken[:] = NONE
    while kept and scores[kept - 1] < scores[0] - beam_threshold:
        kept -= 1
    _next_beam(row, rows, beam, stayed, nodes, table, segments, counts, codes, kept)


@kernel
def _next_beam(
    row: Numbers, rows: Numbers, beam: Records, stayed: Records, nodes: Records, table: Numbers,
    segments: Records, counts: Numbers, codes: Numbers, kept: int,
) -> None:  # fmt: skip
    """Make the chosen candidates the beam; ``stayed`` has room for them behind the prefixes that stay."""
    width, columns = beam.size, row.size
    for at in range(counts[ENTRIES]):
        nodes[beam[at]["node"]]["place"] = NONE
    for rank in range(kept):
        if codes[rank] < width:
            continue
        place, token = divmod(codes[rank] - width, columns)
        source = beam[place]
        new = stayed[width + rank]
        clear(new, child(nodes, table, counts, source["node"], token))
        new["bonus"] = source["bonus"]
        if counts[PENDING] != NONE:
            new["bonus"] += rows[nodes[source["node"]]["row"], token]
            nodes[new["node"]]["bonus"] = new["bonus"]
        repeated = nodes[source["node"]]["token"] == token
        new["label"] = (source["blank"] if repeated else source["total"]) + row[token]
        new["total"] = new["label"]
        begin_token(segments, counts, source, repeated, row[token], new)
        codes[rank] = width + rank
    for rank in range(kept):
        beam[rank] = stayed[codes[rank]]
        nodes[beam[rank]["node"]]["place"] = rank
    counts[ENTRIES] = kept


@kernel
def advance(
    log_probs: Numbers, thresholds: Numbers, beam: Records, nodes: Records, table: Numbers, segments: Records,
    counts: Numbers, rows: Numbers, limits: Numbers, owners: Numbers, pending: Numbers, words: Words, pause: bool,
    offset: Numbers,
) -> int:  # fmt: skip
    """Decode frames ``(T, V)`` until none are left, the pools might overflow, or (``pause``) the caller must add to
    the rows of ``pending`` nodes; return how many were decoded. Without rows there are no language models."""
    frames: int = log_probs.shape[0]
    width, columns = beam.size, log_probs.shape[1]
    token_threshold, blank_threshold, beam_threshold = thresholds[0], thresholds[1], thresholds[2]
    fused = owners.size > 0
    stayed = np.empty(2 * width, beam.dtype)
    # One token more than the beam is wide suffices: for any prefix each of them, save the prefix's last token, makes a
    # candidate as good as a later token could, be it a new one or one already in the beam that the mass is merged into.
    # Not so where language models have a say.
    order = np.empty(columns - 1 if fused else min(columns - 1, width + 1), np.int64)
    scores = np.empty(width, np.float64)
    codes = np.empty(width, np.int64)
    first_child = np.empty(width, np.int64)
    next_child = np.empty(width, np.int64)
    taken = np.full(columns, NONE, np.int64)
    resting = False
    for frame in range(frames):
        # A frame makes at most `width` nodes and two segments per prefix: one merged in `stay`, one extended.
        if counts[NODES] + width > nodes.size or counts[SEGMENTS] + 2 * width > segments.size:
            return frame
        row = log_probs[frame]
        if row[BLANK] > blank_threshold:
            # A certain blank multiplies all masses alike: that goes into the offset, and after the first of a run of
            # such frames there is nothing else to do.
            offset[0] += row[BLANK]
            if not resting:
                for at in range(counts[ENTRIES]):
                    end_in_blank(beam[at], 0.0, counts[FRAME])
                resting = True
        else:
            resting = False
            if fused:
                give_rows(beam, nodes, counts, rows, limits, owners, pending, words)
                if pause and counts[PENDING]:
                    return frame
            step(
                row, token_threshold, beam_threshold, rows, limits, beam, stayed, nodes, table, segments, counts,
                order, scores, codes, first_child, next_child, taken,
            )  # fmt: skip
        counts[FRAME] += 1
    return frames
