"""Memory pools of the search: dropping unused nodes, and finding what all prefixes in the beam share.

Numba kernels that no other kernel calls (see ``asr.decode.kernel``)."""

from __future__ import annotations

from asr.decode.compilation import compile_kernel
from asr.decode.kernel import ENTRIES, NODES, NONE, NOWHERE, ROOT, SEGMENTS, Numbers, State


@compile_kernel
def compact(state: State, moved: Numbers) -> None:
    """Drop nodes and segments that nothing in the beam builds on. ``index`` must follow.

    Both pools are filled in the order of time, so that what something builds on always has a smaller number.
    ``moved`` is memory to work in: integers, one more than there are nodes or segments.
    """
    beam, places, nodes, segments = state.beam, state.places, state.nodes, state.segments
    counts, owners = state.counts, state.owners
    moved[:] = NONE
    moved[ROOT] = ROOT
    for at in range(counts[ENTRIES]):
        node = beam[places[at]]["node"]
        while moved[node] == NONE:
            moved[node] = ROOT  # for now: it is in use
            node = nodes[node]["parent"]
    count = 0
    for node in range(counts[NODES]):
        if moved[node] != NONE:
            moved[node] = count
            nodes[count] = nodes[node]
            if count != ROOT:
                nodes[count]["parent"] = moved[nodes[node]["parent"]]
            count += 1
    for row in range(owners.size):
        if owners[row] != NONE:
            owners[row] = moved[owners[row]]
    counts[NODES] = count
    for at in range(counts[ENTRIES]):
        beam[places[at]]["node"] = moved[beam[places[at]]["node"]]

    moved[:] = NONE  # of a segment, behind a place for NONE itself
    for at in range(counts[ENTRIES]):
        entry = beam[places[at]]
        for before in (entry["blank_before"], entry["label_before"], entry["blank_segment"]):
            while before != NONE and moved[before + 1] == NONE:
                moved[before + 1] = 0
                before = segments[before]["before"]
    count = 0
    for at in range(counts[SEGMENTS]):
        if moved[at + 1] != NONE:
            moved[at + 1] = count
            segments[count] = segments[at]
            segments[count]["before"] = moved[segments[at]["before"] + 1]
            count += 1
    counts[SEGMENTS] = count
    for at in range(counts[ENTRIES]):
        entry = beam[places[at]]
        entry["blank_before"] = moved[entry["blank_before"] + 1]
        entry["label_before"] = moved[entry["label_before"] + 1]
        entry["blank_segment"] = moved[entry["blank_segment"] + 1]


@compile_kernel
def agreed_prefixes(state: State) -> int:
    """Tokens that all prefixes in the beam begin with: the depth of their lowest common ancestor."""
    nodes = state.nodes
    common = state.beam[state.places[0]]["node"]
    for at in range(1, state.counts[ENTRIES]):
        other = state.beam[state.places[at]]["node"]
        while common != other:
            # A node has a larger number than those that it continues.
            if common > other:
                common = nodes[common]["parent"]
            else:
                other = nodes[other]["parent"]
    depth: int = nodes[common]["depth"]
    return depth


@compile_kernel
def drop_others(state: State, depth: int) -> None:
    """Let those prefixes fall out of the beam that differ from the best one within its first ``depth`` tokens."""
    beam, places, nodes = state.beam, state.places, state.nodes
    best = beam[places[0]]["node"]
    while nodes[best]["depth"] > depth:
        best = nodes[best]["parent"]
    kept = 0
    for at in range(state.counts[ENTRIES]):
        place = places[at]
        node = beam[place]["node"]
        while nodes[node]["depth"] > depth:
            node = nodes[node]["parent"]
        if node == best:  # the order of those that stay is kept
            places[at] = places[kept]
            places[kept] = place
            kept += 1
        else:
            nodes[beam[place]["node"]]["place"] = NOWHERE
    state.counts[ENTRIES] = kept
