"""The pools that the search works in: how they start, how what nothing builds on any more is dropped, how a prefix is
read out. Numba kernels that no other kernel calls (see ``asr.decode.kernel``)."""

from __future__ import annotations

import numpy as np

from asr.decode.kernel import (
    BLANK,
    ENTRIES,
    FRAME,
    NODES,
    NONE,
    PENDING,
    ROOT,
    SEGMENTS,
    START,
    Numbers,
    Records,
    Words,
    clear,
    kernel,
    slot,
)


@kernel
def start(
    beam: Records, nodes: Records, table: Numbers, counts: Numbers, owners: Numbers, words: Words
) -> None:  # fmt: skip
    """The state before the first frame: only the empty prefix, certain, as if a blank had been seen."""
    table[:] = NONE
    root = nodes[ROOT]
    root["parent"] = NONE
    root["token"] = BLANK  # which no token equals, so that nothing repeats the root
    root["depth"] = 0
    root["place"] = 0
    root["row"] = NONE
    root["lexicon"] = 0
    root["context"] = words.ids[START]
    root["hot"] = 0
    root["bonus"] = 0.0
    owners[:] = NONE
    clear(beam[0], ROOT)
    beam[0]["total"] = 0.0
    beam[0]["blank"] = 0.0
    beam[0]["blank_path"] = 0.0
    counts[ENTRIES] = 1
    counts[NODES] = 1
    counts[SEGMENTS] = 0
    counts[FRAME] = 0
    counts[PENDING] = 0 if owners.size else NONE


@kernel
def compact(beam: Records, nodes: Records, segments: Records, counts: Numbers, owners: Numbers) -> None:
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
    for row in range(owners.size):
        if owners[row] != NONE:
            owners[row] = moved[owners[row]] if used[owners[row]] else NONE
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


@kernel
def agreed(beam: Records, nodes: Records, counts: Numbers) -> int:
    """Tokens that all prefixes in the beam begin with: the depth of their lowest common ancestor."""
    common = beam[0]["node"]
    for at in range(1, counts[ENTRIES]):
        other = beam[at]["node"]
        while common != other:
            if nodes[common]["depth"] > nodes[other]["depth"]:
                common = nodes[common]["parent"]
            elif nodes[other]["depth"] > nodes[common]["depth"]:
                other = nodes[other]["parent"]
            else:
                common, other = nodes[common]["parent"], nodes[other]["parent"]
    depth: int = nodes[common]["depth"]
    return depth
