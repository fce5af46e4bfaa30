"""The numba kernel of the search for phrases in a graph (``asr.decode.phrase_graph``).

A prefix beam search (Graves & Jaitly 2014) over the token sequences that the graph allows. A place in the graph is a
node of a list and a frame, which says where the list was called from and where to go on behind it. Each prefix has one
place, so that two ways to say the same stay apart. Probabilities are linear and share one factor, renewed after each
frame of audio.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.decode.compilation import compile_apart, compile_kernel, compile_search

_Ints: TypeAlias = npt.NDArray[np.int32]
_Floats: TypeAlias = npt.NDArray[np.float64]


class GraphArrays(NamedTuple):
    """A graph of phrases.

    Node ``n`` has the arcs ``arc_start[n]`` to ``arc_start[n + 1] - 1``. Arc ``a`` leads to ``arc_target[a]`` by the
    token ``arc_symbol[a]``, or, from ``vocabulary`` on, by the list ``arc_symbol[a] - vocabulary``, as call
    ``arc_call[a]`` of its own list. ``ends``: whether an entry of the list ends in a node; ``rest``: fewest tokens from
    a node to the end of its list; ``roots``: first node of each list. Frame ``f`` was called from ``parent[f]``, goes
    on there at node ``back[f]``, and its own calls have the frames from ``calls[f]`` on; ``frame_rest``: fewest tokens
    behind it. Frame 0 is that of the whole phrases.
    """

    arc_start: _Ints
    arc_symbol: _Ints
    arc_target: _Ints
    arc_call: _Ints
    ends: npt.NDArray[np.bool_]
    rest: _Ints
    roots: _Ints
    parent: _Ints
    back: _Ints
    calls: _Ints
    frame_rest: _Ints
    vocabulary: int


class Prefixes(NamedTuple):
    """The prefixes of a search so far: ``before``, the prefix without the last token; place (``frame``, ``node``);
    ``token``; where its ``extensions`` begin in the next four arrays (-1: not made yet), and their number."""

    before: _Ints
    frame: _Ints
    node: _Ints
    token: _Ints
    extensions: _Ints
    number: _Ints
    next_frame: _Ints
    next_node: _Ints
    next_token: _Ints
    next_prefix: _Ints


class Active(NamedTuple):
    """Prefixes that are followed, with the probabilities of their paths that end in a blank and in the last token."""

    prefix: _Ints
    blank: _Floats
    token: _Floats


@compile_apart
def _expand(graph, prefixes, prefix, used, stack):  # type: ignore[no-untyped-def]
    """Put the extensions of a prefix behind ``used``; returns where they end, or -1 where there is no room."""
    start = used
    top = 0
    stack[0, 0] = prefixes.frame[prefix]
    stack[0, 1] = prefixes.node[prefix]
    while top >= 0:
        frame, node = stack[top, 0], stack[top, 1]
        top -= 1
        for arc in range(graph.arc_start[node], graph.arc_start[node + 1]):
            symbol = graph.arc_symbol[arc]
            if symbol < graph.vocabulary:
                if used >= len(prefixes.next_frame):
                    return -1
                prefixes.next_frame[used] = frame
                prefixes.next_node[used] = graph.arc_target[arc]
                prefixes.next_token[used] = symbol
                prefixes.next_prefix[used] = -1
                used += 1
            else:
                top += 1
                stack[top, 0] = graph.calls[frame] + graph.arc_call[arc]
                stack[top, 1] = graph.roots[symbol - graph.vocabulary]
        if graph.ends[node] and frame > 0:
            top += 1
            stack[top, 0] = graph.parent[frame]
            stack[top, 1] = graph.back[frame]
    prefixes.extensions[prefix] = start
    prefixes.number[prefix] = used - start
    return used


@compile_apart
def _complete(graph, frame, node):  # type: ignore[no-untyped-def]
    """Whether a whole phrase ends in a place."""
    while graph.ends[node]:
        if frame == 0:
            return True
        node = graph.back[frame]
        frame = graph.parent[frame]
    return False


@compile_search
def follow(graph, rows, first, prefixes, active, counts, candidates, slot, stack, beam, least):  # type: ignore[no-untyped-def]
    """Follow the prefixes through the rows ``(T, V)`` of probabilities from ``first`` on.

    ``counts``: active prefixes, prefixes, extensions; it is kept up to date. ``candidates``: prefix (-1 - the prefix
    before a new one), extension, two probabilities, and memory for their sums, as columns. ``slot``: the place of each
    prefix among the candidates, -1 for all when this begins and ends. ``beam``: most prefixes to keep, of at least
    ``least`` times the largest probability. Returns the row before which there was no more room, or ``T``.
    """
    frames = len(rows)
    origin, extension, blanks, tokens, _ = candidates
    for row in range(first, frames):
        left = frames - row
        used = counts[2]
        for place in range(counts[0]):
            prefix = active.prefix[place]
            if prefixes.extensions[prefix] < 0:
                made = _expand(graph, prefixes, prefix, used, stack)
                if made < 0:
                    counts[2] = used
                    return row
                used = made
        counts[2] = used
        total = 0
        for place in range(counts[0]):
            total += 1 + prefixes.number[active.prefix[place]]
        if total > len(origin) or counts[1] + total > len(prefixes.before):
            return row
        found = counts[0]
        for place in range(counts[0]):
            prefix = active.prefix[place]
            slot[prefix] = place
            origin[place] = prefix
            extension[place] = -1
            in_time = graph.rest[prefixes.node[prefix]] + graph.frame_rest[prefixes.frame[prefix]] < left
            blanks[place] = (active.blank[place] + active.token[place]) * rows[row, 0] if in_time else 0.0
            tokens[place] = active.token[place] * rows[row, prefixes.token[prefix]] if in_time else 0.0
        for place in range(counts[0]):
            prefix = active.prefix[place]
            both = active.blank[place] + active.token[place]
            start = prefixes.extensions[prefix]
            for at in range(start, start + prefixes.number[prefix]):
                node, frame = prefixes.next_node[at], prefixes.next_frame[at]
                if graph.rest[node] + graph.frame_rest[frame] >= left:
                    continue  # not enough frames for the shortest end
                token = prefixes.next_token[at]
                mass = (active.blank[place] if token == prefixes.token[prefix] else both) * rows[row, token]
                if mass <= 0:
                    continue
                following = prefixes.next_prefix[at]
                if following >= 0 and slot[following] >= 0:
                    tokens[slot[following]] += mass
                else:
                    origin[found] = following if following >= 0 else -1 - prefix
                    extension[found] = at
                    blanks[found] = 0.0
                    tokens[found] = mass
                    found += 1
        for place in range(counts[0]):
            slot[active.prefix[place]] = -1
        if not _select(prefixes, active, counts, candidates, found, beam, least):
            return frames
    return frames


@compile_apart
def _nth_smallest(values, count, rank):  # type: ignore[no-untyped-def]
    """The ``rank``-th smallest, from 0, of the first ``count`` values, which change places (Hoare 1961, FIND)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return values[rank]


@compile_apart
def _select(prefixes, active, counts, candidates, found, beam, least):  # type: ignore[no-untyped-def]
    """Keep the ``beam`` likeliest candidates; False where none is left."""
    origin, extension, blanks, tokens, sums = candidates
    best = 0.0
    for place in range(found):
        best = max(best, blanks[place] + tokens[place])
    if best <= 0:
        counts[0] = 0
        return False
    bound = best * least
    kept = 0
    for place in range(found):
        if blanks[place] + tokens[place] >= bound:
            kept += 1
    if kept > beam:
        for place in range(found):
            sums[place] = blanks[place] + tokens[place]
        bound = max(bound, _nth_smallest(sums, found, found - beam))
    kept = 0
    for place in range(found):
        if blanks[place] + tokens[place] < bound or kept == beam:
            continue
        prefix = origin[place]
        if prefix < 0:
            before, at = -1 - prefix, extension[place]
            prefix = counts[1]
            counts[1] += 1
            prefixes.before[prefix] = before
            prefixes.frame[prefix] = prefixes.next_frame[at]
            prefixes.node[prefix] = prefixes.next_node[at]
            prefixes.token[prefix] = prefixes.next_token[at]
            prefixes.extensions[prefix] = -1
            prefixes.next_prefix[at] = prefix
        active.prefix[kept] = prefix
        active.blank[kept] = blanks[place] / best
        active.token[kept] = tokens[place] / best
        kept += 1
    counts[0] = kept
    return True


@compile_kernel
def whole_phrases(graph, prefixes, active, counts, found):  # type: ignore[no-untyped-def]
    """Places of the active prefixes that are whole phrases, in ``found``; returns their number."""
    number = 0
    for place in range(counts[0]):
        prefix = active.prefix[place]
        if _complete(graph, prefixes.frame[prefix], prefixes.node[prefix]):
            found[number] = place
            number += 1
    return number
