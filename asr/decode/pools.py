"""Memory pools of the search: dropping unused nodes, and finding what all prefixes in the beam share.

Numba kernels that no other kernel calls (see ``asr.decode.kernel``)."""

from __future__ import annotations

import numpy as np

from asr.decode.kernel import ENTRIES, NODES, NONE, ROOT, SEGMENTS, Numbers, Records, compile_kernel


@compile_kernel
def compact(
    beam: Records, places: Numbers, nodes: Records, segments: Records, counts: Numbers, owners: Numbers
) -> None:
    """Drop nodes and segments that nothing in the beam builds on. The caller rebuilds the table.

    Both pools are filled in the order of time, so that what something builds on always has a smaller number.
    """
    used = np.zeros(counts[NODES], np.bool_)
    used[ROOT] = True
    for at in range(counts[ENTRIES]):
        node = beam[places[at]]["node"]
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
        entry = beam[places[at]]
        entry["node"] = moved[entry["node"]]
        for before in (entry["blank_before"], entry["label_before"], entry["blank_segment"]):
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
        entry = beam[places[at]]
        entry["blank_before"] = moved[entry["blank_before"]]
        entry["label_before"] = moved[entry["label_before"]]
        entry["blank_segment"] = moved[entry["blank_segment"]]


@compile_kernel
def agreed_prefixes(beam: Records, places: Numbers, nodes: Records, counts: Numbers) -> int:
    """Tokens that all prefixes in the beam begin with: the depth of their lowest common ancestor."""
    common = beam[places[0]]["node"]
    for at in range(1, counts[ENTRIES]):
        other = beam[places[at]]["node"]
        while common != other:
            if nodes[common]["depth"] > nodes[other]["depth"]:
                common = nodes[common]["parent"]
            elif nodes[other]["depth"] > nodes[common]["depth"]:
                other = nodes[other]["parent"]
            else:
                common, other = nodes[common]["parent"], nodes[other]["parent"]
    depth: int = nodes[common]["depth"]
    return depth
