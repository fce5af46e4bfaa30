"""The prefix beam search itself: numba kernels over flat arrays, compiled at first use and cached on disk.

All kernels stay in this one file: numba renews its cache when the file of a kernel changes, but does not notice a
change in a kernel of another file that it calls.

**Search** (Graves 2012, chapter 7; Hannun et al. 2014). For each prefix two masses, in logarithms: of its paths that
end in ``blank`` and of those that end in its last ``label``. A frame ``p`` makes of a prefix ``l`` of total mass ``m``

- ``l`` itself, by blank with ``m * p[blank]`` and by repeating its last token with ``label * p[last]``;
- each ``l + c`` with ``m * p[c]``, or ``blank * p[c]`` where ``c`` is the last token of ``l`` (else it is a repeat).
  Where ``l + c`` is in the beam already the two meet, and their masses are added: that is the merging of prefixes.

**Prefixes** are nodes of a trie. There is one node per prefix as long as anything in the beam begins with it, so that a
prefix that falls out of the beam and comes back meets its own continuations again. ``table`` finds nodes: open
addressing, a power of two of slots, -1 where free.

**Times.** Beside its masses each prefix carries its single best path for either ending, whose finished tokens are a
chain of segments and whose last token is still open. Storing times in the trie would mix frames of different paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

BLANK = 0
ROOT = 0
NONE = -1

NODE = np.dtype([("parent", "i4"), ("token", "i4"), ("depth", "i4"), ("place", "i4")])
"""A prefix: the prefix it continues, by which token, its length, and its place in the beam or -1."""

SEGMENT = np.dtype([("before", "i4"), ("start", "i4"), ("end", "i4"), ("peak", "f4")])
"""A finished token of a path: the segment before it, its frames, its largest log posterior in them."""

ENTRY = np.dtype(
    [
        ("node", "i8"),
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

COUNTS = 4
ENTRIES, NODES, SEGMENTS, FRAME = range(COUNTS)
"""Places in ``counts``: prefixes in the beam, nodes and segments in use, frames decoded."""


def kernel(function: Function) -> Function:
    """Compile with numba, cached on disk where there is a writable place for it."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # Neither the package's folder nor the user's cache can be written: compile in each process.
        return cast(Function, numba.njit(nogil=True)(function))


@kernel
def log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    if b == -math.inf:
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
def child(nodes: Records, table: Numbers, counts: Numbers, parent: int, token: int) -> int:
    """The node of a prefix, made if there is none."""
    at = slot(nodes, table, parent, token)
    if table[at] == NONE:
        node = counts[NODES]
        counts[NODES] += 1
        nodes[node]["parent"] = parent
        nodes[node]["token"] = token
        nodes[node]["depth"] = nodes[parent]["depth"] + 1
        nodes[node]["place"] = NONE
        table[at] = node
    found: int = table[at]
    return found


@kernel
def clear(entry: Any, node: int) -> None:
    """Make an entry of the beam stand for a prefix that no path has reached."""
    entry["node"] = node
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
    row: Numbers, threshold: float, beam: Records, stayed: Records, nodes: Records, table: Numbers, segments: Records,
    counts: Numbers, order: Numbers, scores: Numbers, codes: Numbers, first_child: Numbers, next_child: Numbers,
    taken: Numbers,
) -> None:  # fmt: skip
    """One frame: let prefixes stay, extend them, keep the best.

    Candidates are coded by number: a place in the beam for a prefix that stays, else
    ``width + place * V + token``. Prefixes and tokens come best first, so that a prefix is left at the first token that
    cannot reach the beam. That prunes nothing that would have been kept.
    """
    width, columns = beam.size, row.size
    entries = counts[ENTRIES]
    stay(row, beam, stayed, first_child, next_child, nodes, segments, counts)
    kept = 0
    for at in range(entries):
        score = stayed[at]["total"]
        if score > -math.inf:
            kept = insert(scores, codes, kept, score, at)

    tokens = likeliest_tokens(row, threshold, order)
    for at in range(entries):
        entry = beam[at]
        last = nodes[entry["node"]]["token"]
        inner = first_child[at]
        while inner != NONE:  # these have got their mass in `stay`
            taken[nodes[beam[inner]["node"]]["token"]] = at
            inner = next_child[inner]
        for rank in range(tokens):
            token = order[rank]
            floor = scores[width - 1] if kept == width else -math.inf
            score = entry["total"] + row[token]
            if score <= floor:
                break
            if token == last:
                score = entry["blank"] + row[token]
            if score > floor and taken[token] != at:
                kept = insert(scores, codes, kept, score, width + at * columns + token)
    taken[:] = NONE
    _next_beam(row, beam, stayed, nodes, table, segments, counts, scores, codes, kept)


@kernel
def _next_beam(
    row: Numbers, beam: Records, stayed: Records, nodes: Records, table: Numbers, segments: Records, counts: Numbers,
    scores: Numbers, codes: Numbers, kept: int,
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
        new["total"] = scores[rank]
        new["label"] = scores[rank]
        repeated = nodes[source["node"]]["token"] == token
        begin_token(segments, counts, source, repeated, row[token], new)
        codes[rank] = width + rank
    for rank in range(kept):
        beam[rank] = stayed[codes[rank]]
        nodes[beam[rank]["node"]]["place"] = rank
    counts[ENTRIES] = kept


@kernel
def advance(
    log_probs: Numbers, token_threshold: float, blank_threshold: float, beam: Records, nodes: Records, table: Numbers,
    segments: Records, counts: Numbers,
) -> int:  # fmt: skip
    """Decode frames ``(T, V)`` until none are left or the pools might overflow; return how many were decoded."""
    frames: int = log_probs.shape[0]
    width, columns = beam.size, log_probs.shape[1]
    stayed = np.empty(2 * width, beam.dtype)
    # One token more than the beam is wide suffices: for any prefix each of them, save the prefix's last token, makes a
    # candidate as good as a later token could, be it a new one or one already in the beam that the mass is merged into.
    order = np.empty(min(columns - 1, width + 1), np.int64)
    scores = np.empty(width, np.float64)
    codes = np.empty(width, np.int64)
    first_child = np.empty(width, np.int64)
    next_child = np.empty(width, np.int64)
    taken = np.full(columns, NONE, np.int64)
    for frame in range(frames):
        # A frame makes at most `width` nodes and two segments per prefix: one merged in `stay`, one extended.
        if counts[NODES] + width > nodes.size or counts[SEGMENTS] + 2 * width > segments.size:
            return frame
        row = log_probs[frame]
        if row[BLANK] > blank_threshold:
            for at in range(counts[ENTRIES]):
                end_in_blank(beam[at], row[BLANK], counts[FRAME])
        else:
            step(
                row, token_threshold, beam, stayed, nodes, table, segments, counts, order, scores, codes, first_child,
                next_child, taken,
            )  # fmt: skip
        counts[FRAME] += 1
    return frames


@kernel
def start(beam: Records, nodes: Records, table: Numbers, counts: Numbers) -> None:
    """The state before the first frame: only the empty prefix, certain, as if a blank had been seen."""
    table[:] = NONE
    root = nodes[ROOT]
    root["parent"] = NONE
    root["token"] = BLANK  # which no token equals, so that nothing repeats the root
    root["depth"] = 0
    root["place"] = 0
    clear(beam[0], ROOT)
    beam[0]["total"] = 0.0
    beam[0]["blank"] = 0.0
    beam[0]["blank_path"] = 0.0
    counts[ENTRIES] = 1
    counts[NODES] = 1
    counts[SEGMENTS] = 0
    counts[FRAME] = 0


@kernel
def compact(beam: Records, nodes: Records, segments: Records, counts: Numbers) -> None:
    """Drop nodes and segments that nothing in the beam builds on. The caller rebuilds the table.

    Both pools are filled in the order of time, so that what something builds on always has a smaller number.
    """
    used = np.zeros(counts[NODES], np.bool_)
    used[ROOT] = True
    for at in range(counts[ENTRIES]):
        node = beam[at]["node"]
        while not used[node]:
            used[node] = True
            node = nodes[node]["parent"]
    moved = np.empty(counts[NODES], np.int64)
    count = 0
    for node in range(counts[NODES]):
        if used[node]:
            moved[node] = count
            nodes[count] = nodes[node]
            if count != ROOT:
                nodes[count]["parent"] = moved[nodes[node]["parent"]]
            count += 1
    counts[NODES] = count

    used = np.zeros(counts[SEGMENTS] + 1, np.bool_)  # one more than there are, so that -1 is a place too
    used[NONE] = True
    for at in range(counts[ENTRIES]):
        entry = beam[at]
        entry["node"] = moved[entry["node"]]
        for before in (entry["blank_before"], entry["label_before"]):
            while not used[before]:
                used[before] = True
                before = segments[before]["before"]
    moved = np.full(used.size, NONE, np.int64)
    count = 0
    for at in range(counts[SEGMENTS]):
        if used[at]:
            moved[at] = count
            segments[count] = segments[at]
            segments[count]["before"] = moved[segments[at]["before"]]
            count += 1
    counts[SEGMENTS] = count
    for at in range(counts[ENTRIES]):
        beam[at]["blank_before"] = moved[beam[at]["blank_before"]]
        beam[at]["label_before"] = moved[beam[at]["label_before"]]


@kernel
def index(nodes: Records, table: Numbers, counts: Numbers) -> None:
    """Fill the table anew after nodes have moved or the table has grown."""
    table[:] = NONE
    for node in range(ROOT + 1, counts[NODES]):
        table[slot(nodes, table, nodes[node]["parent"], nodes[node]["token"])] = node


@kernel
def trace(place: int, beam: Records, nodes: Records, segments: Records, counts: Numbers, out: Numbers) -> None:
    """Write tokens, first frames, ends and largest log posteriors of one prefix into ``out (4, length)``."""
    entry = beam[place]
    node = entry["node"]
    at = nodes[node]["depth"] - 1
    if at < 0:
        return
    from_blank = entry["blank_path"] >= entry["label_path"]
    before = entry["blank_before"] if from_blank else entry["label_before"]
    out[0, at] = nodes[node]["token"]
    out[1, at] = entry["blank_start"] if from_blank else entry["label_start"]
    out[2, at] = entry["blank_end"] if from_blank else counts[FRAME]
    out[3, at] = entry["blank_peak"] if from_blank else entry["label_peak"]
    while at > 0:
        at -= 1
        node = nodes[node]["parent"]
        segment = segments[before]
        out[0, at] = nodes[node]["token"]
        out[1, at] = segment["start"]
        out[2, at] = segment["end"]
        out[3, at] = segment["peak"]
        before = segment["before"]
