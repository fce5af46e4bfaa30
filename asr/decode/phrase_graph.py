"""Phrases from templates, or long lists of them, as a graph: a pruned search finds candidates in it.

Each list (the lines of the file, each slot) is a tree of tokens in which equal beginnings are shared. A slot stands in
the tree of a list as one arc that calls the slot's own tree; where to go on behind it is kept in a frame. There is a
frame for each way to reach a call, so neither the trees nor their products are ever copied.

The candidates are then scored as in ``asr.decode.phrase_search``: exactly, over all paths and all spellings.
"""

from __future__ import annotations

import functools
import graphlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.phrase_search import Phrase
from asr.decode.posteriors import Matrix, as_batch, check_normalised
from asr.errors import DecodeError, TextError
from asr.text.templates import Slot, Template, Templates
from asr.text.tokenizer import Tokenizer
from asr.text.user_words import Said, whole_reading

CANDIDATES = 50
"""Phrases that are scored exactly."""
BEAM = 8000
"""Prefixes that the search keeps in graphs of up to ``SMALL`` nodes: nearly all of a list of 1,000 phrases."""
BEAM_OF_LARGE = 4000
SMALL = 100_000
LEAST_SHARE = 1e-60
"""Share of the largest probability below which a prefix is dropped. A phrase of which a word was spoken otherwise falls
far behind prefixes that have the word still before them."""
WIDER = 8
"""How many times as many prefixes are kept in a second search, when no whole phrase was left in the first."""
MOST_FRAMES = 1_000_000
"""Ways to reach a slot."""
MOST_NODES = 30_000_000
DEEPEST_SLOTS = 50
MOST_SPELLINGS = 64
"""Ways to spell one line."""
SAME = 8
"""Phrases of equal tokens that are candidates together."""

Key = tuple[int, ...]
"""A phrase of the graph: the entry of its line, then those of its slots in order, each followed by those of its own."""
_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Tree:
    """The tree of one list, node 0 first: ``parents``, ``symbols`` (from the vocabulary's size on: lists), ``depths``,
    and by node the entries that end in it, each with the numbers of its calls."""

    parents: _Ints
    symbols: _Ints
    depths: _Ints
    calls: _Ints
    """The number of the call that leads to a node; -1 where a token does."""
    ends: dict[int, list[tuple[int, tuple[int, ...]]]]


class PhraseGraph:
    """Phrases as a graph over the tokens of one model; ``language`` as for ``asr.text.user_words.reading``.

    Raises ``DecodeError`` naming file and line of a word that cannot be spelt, and for slots that are nested too deeply
    or reached in too many ways.
    """

    def __init__(self, templates: Templates, tokenizer: Tokenizer, language: str = "en") -> None:
        self.tokenizer = tokenizer
        self.language = language
        self._numbers = {name: number for number, name in enumerate(templates.slots, 1)}
        self._lists: list[Sequence[Template]] = [templates.lines, *templates.slots.values()]
        trees = [self._tree(entries) for entries in self._lists]
        self._ends = [tree.ends for tree in trees]
        self._graph, self._frame_lists, self._offsets = self._arrays(trees)
        self.phrase = functools.lru_cache(maxsize=20_000)(self._phrase)
        """The phrase of a key."""

    def words(self) -> set[str]:
        """All words of the phrases, as the model spells them."""
        texts = {(item, entry.where) for entries in self._lists for entry in entries for item in entry.items
                 if isinstance(item, str)}  # fmt: skip
        return {word for text, where in texts for said in self._read(text, where) for word in said.words}

    def candidates(self, log_probs: Matrix, count: int = CANDIDATES) -> list[Key]:
        """The ``count`` phrases of different texts that are likeliest for an utterance, as far as the search finds.

        Args:
            log_probs: natural log-probabilities ``(T, V)``, blank in column 0.

        Raises:
            DecodeError: as ``asr.decode.score_phrases``, and for another vocabulary than the tokenizer's.
        """
        batch, frames = as_batch(log_probs)
        check_normalised(batch, frames)
        if batch.shape[2] != self.tokenizer.vocab_size:
            raise DecodeError(f"expected {self.tokenizer.vocab_size} columns, got shape {batch.shape}")
        rows = np.exp(batch[0].astype(np.float64))
        found: dict[str, Key] = {}
        beam = BEAM if len(self._graph.ends) <= SMALL else BEAM_OF_LARGE
        for key in self._keys(rows, beam) or self._keys(rows, beam * WIDER):
            found.setdefault(self.phrase(key).text, key)
            if len(found) == count:
                break
        return list(found.values())

    def _keys(self, rows: npt.NDArray[np.float64], beam: int) -> list[Key]:
        """The whole phrases that are left at the end, best first; several times as many as are wanted, as some may have
        equal texts."""
        search = GraphSearch(self._graph, beam)
        keys: list[Key] = []
        for prefix in search.run(rows)[: 4 * CANDIDATES]:
            keys += itertools.islice(self._derivations(search, prefix), SAME)
        return keys

    def _tree(self, templates: Sequence[Template]) -> _Tree:
        paths = sorted((way, number) for number, template in enumerate(templates) for way in self._ways(template))
        parents, symbols, depths, calls = [-1], [0], [0], [-1]
        ends: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        nodes, called = [0], 0
        before: tuple[int, ...] = ()
        for way, number in paths:
            shared = 0
            for one, other in zip(before, way, strict=False):
                if one != other:
                    break
                shared += 1
            del nodes[shared + 1 :]
            for symbol in way[shared:]:
                is_call = symbol >= self.tokenizer.vocab_size
                parents.append(nodes[-1])
                symbols.append(symbol)
                depths.append(len(nodes))
                calls.append(called if is_call else -1)
                called += is_call
                nodes.append(len(parents) - 1)
            ended = ends.setdefault(nodes[-1], [])
            if number not in [other for other, _ in ended]:
                ended.append((number, tuple(calls[node] for node in nodes if calls[node] >= 0)))
            before = way
        if len(parents) > MOST_NODES:
            raise DecodeError(f"{templates[0].where}: expected at most {MOST_NODES:,} tokens in a list, got more")
        as_array = functools.partial(np.array, dtype=np.int32)
        return _Tree(as_array(parents), as_array(symbols), as_array(depths), as_array(calls), ends)

    def _ways(self, template: Template) -> Iterator[tuple[int, ...]]:
        """Each way to spell a template, slots as symbols."""
        space = () if self.tokenizer.space_id is None else (self.tokenizer.space_id,)
        parts: list[list[tuple[int, ...]]] = []
        for item in template.items:
            if isinstance(item, Slot):
                parts.append([(self.tokenizer.vocab_size + self._numbers[item.name],)])
            else:
                text = " ".join(word for said in self._read(item, template.where) for word in said.words)
                parts.append([tuple(way) for way in self.tokenizer.spellings(text)])
        for way in itertools.islice(itertools.product(*parts), MOST_SPELLINGS):
            yield tuple(symbol for at, part in enumerate(way) for symbol in ((*space, *part) if at else part))

    def _read(self, text: str, where: str) -> tuple[Said, ...]:
        try:
            return whole_reading(text, self.tokenizer, self.language, f"{where}: {text[:60]!r}").words
        except TextError as error:
            raise DecodeError(str(error)) from error

    def _arrays(self, trees: Sequence[_Tree]) -> tuple[Any, list[int], list[int]]:
        """The graph for the kernel, the list of each frame, and the first node of each list."""
        from asr.decode.phrase_kernel import GraphArrays

        vocabulary = self.tokenizer.vocab_size
        offsets = np.cumsum([0] + [len(tree.parents) for tree in trees])
        rest = self._rest(trees)
        starts, symbols, targets, calls = [np.zeros(1, np.int64)], [], [], []
        for tree, offset in zip(trees, offsets.tolist(), strict=False):
            order = 1 + np.argsort(tree.parents[1:], kind="stable")
            symbols.append(tree.symbols[order])
            targets.append(order + offset)
            calls.append(tree.calls[order])
            starts.append(np.bincount(tree.parents[1:], minlength=len(tree.parents)))
        ends = np.zeros(offsets[-1], bool)
        for found, offset in zip(self._ends, offsets.tolist(), strict=False):
            ends[[node + offset for node in found]] = True
        frames, frame_lists = self._frames(trees, offsets.tolist(), rest)
        joined = [np.concatenate(parts).astype(np.int32) for parts in (symbols, targets, calls)]
        graph = GraphArrays(
            arc_start=np.cumsum(np.concatenate(starts)).astype(np.int32),
            arc_symbol=joined[0],
            arc_target=joined[1],
            arc_call=joined[2],
            ends=ends,
            rest=np.concatenate(rest).astype(np.int32),
            roots=offsets[:-1].astype(np.int32),
            parent=frames[0],
            back=frames[1],
            calls=frames[2],
            frame_rest=frames[3],
            vocabulary=vocabulary,
        )
        return graph, frame_lists, offsets.tolist()

    def _rest(self, trees: Sequence[_Tree]) -> list[npt.NDArray[np.int64]]:
        """Fewest tokens from each node of each list to an end of the list; lists that others call come first."""
        vocabulary = self.tokenizer.vocab_size
        uses = {number: set((tree.symbols[tree.symbols >= vocabulary] - vocabulary).tolist())
                for number, tree in enumerate(trees)}  # fmt: skip
        depth = dict.fromkeys(uses, 0)
        shortest = np.zeros(len(trees), np.int64)
        rest: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(trees)
        for number in graphlib.TopologicalSorter(uses).static_order():
            depth[number] = 1 + max((depth[used] for used in uses[number]), default=0)
            if depth[number] > DEEPEST_SLOTS:
                where = self._lists[number][0].where
                raise DecodeError(f"{where}: expected at most {DEEPEST_SLOTS} slots inside each other, got more")
            tree = trees[number]
            called = np.maximum(tree.symbols - vocabulary, 0)
            costs = np.where(tree.symbols >= vocabulary, shortest[called], 1)
            found = np.full(len(tree.parents), np.iinfo(np.int32).max // 4, np.int64)
            found[list(tree.ends)] = 0
            for level in range(int(tree.depths.max()), 0, -1):
                nodes = np.flatnonzero(tree.depths == level)
                np.minimum.at(found, tree.parents[nodes], found[nodes] + costs[nodes])
            rest[number] = found
            shortest[number] = found[0]
        return rest

    def _frames(
        self, trees: Sequence[_Tree], offsets: Sequence[int], rest: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[list[_Ints], list[int]]:
        """Columns ``parent``, ``back``, ``calls`` and ``frame_rest`` of the frames, and the list of each."""
        vocabulary = self.tokenizer.vocab_size
        called = [np.flatnonzero(tree.calls >= 0) for tree in trees]  # in the order of the numbers
        parent, back, calls, behind, lists = [0], [0], [0], [0], [0]
        frame = 0
        while frame < len(lists):
            number = lists[frame]
            calls[frame] = len(lists)
            for node in called[number].tolist():
                parent.append(frame)
                back.append(node + offsets[number])
                calls.append(0)
                behind.append(int(rest[number][node]) + behind[frame])
                lists.append(int(trees[number].symbols[node]) - vocabulary)
            if len(lists) > MOST_FRAMES:
                where = self._lists[0][0].where
                raise DecodeError(
                    f"{where}: expected slots that can be reached in at most {MOST_FRAMES:,} ways, got more; templates "
                    "that use slots of slots multiply"
                )
            frame += 1
        most = np.iinfo(np.int32).max // 4
        return [np.minimum(column, most).astype(np.int32) for column in (parent, back, calls, behind)], lists

    def _derivations(self, search: GraphSearch, prefix: int) -> Iterator[Key]:
        """The phrases of a whole prefix: usually one, several where texts have equal tokens."""
        graph = self._graph
        places: dict[int, int] = {}
        last = 0
        for frame, node in search.places(prefix):
            while not self._inside(frame, last):  # the slot has ended
                places[graph.parent[last]] = int(graph.back[last])
                last = int(graph.parent[last])
            places[frame] = node
            last = frame
        while last:
            places[graph.parent[last]] = int(graph.back[last])
            last = int(graph.parent[last])
        yield from self._entries(0, places)

    def _inside(self, frame: int, outer: int) -> bool:
        """Whether a frame is ``outer`` or was called from there."""
        while frame > outer:  # frames have larger numbers than those that call them
            frame = int(self._graph.parent[frame])
        return frame == outer

    def _entries(self, frame: int, places: dict[int, int]) -> Iterator[Key]:
        number = self._frame_lists[frame]
        for entry, calls in self._ends[number][places[frame] - self._offsets[number]]:
            inner = [list(itertools.islice(self._entries(int(self._graph.calls[frame]) + call, places), SAME))
                     for call in calls]  # fmt: skip
            for way in itertools.product(*inner):
                yield (entry, *itertools.chain.from_iterable(way))

    def _phrase(self, key: Key) -> Phrase:
        said = tuple(self._said(0, iter(key)))
        text = " ".join(word for one in said for word in one.words)
        ways = tuple(dict.fromkeys(tuple(way) for way in self.tokenizer.spellings(text)))
        return Phrase(self.tokenizer.reference(text), ways, " ".join(one.written for one in said), said)

    def _said(self, number: int, entries: Iterator[int]) -> Iterator[Said]:
        template = self._lists[number][next(entries)]
        found: list[Said] = []
        for item in template.items:
            if isinstance(item, Slot):
                found += self._said(self._numbers[item.name], entries)
            else:
                found += self._read(item, template.where)
        if template.written:
            found = [Said(template.written, tuple(word for one in found for word in one.words))]
        yield from found


class GraphSearch:
    """One search of the kernel, and the memory that it works in."""

    def __init__(self, graph: Any, beam: int) -> None:
        self.graph = graph
        self.beam = beam

    def run(self, rows: npt.NDArray[np.float64]) -> list[int]:
        """The prefixes that are whole phrases behind the probabilities ``(T, V)``, the likeliest first."""
        from asr.decode import phrase_kernel

        kernel: Any = phrase_kernel
        self._prefixes = kernel.Prefixes(
            *(np.zeros(size, np.int32) for size in [4 * self.beam] * 6 + [16 * self.beam] * 4)
        )
        self._prefixes.extensions[0] = -1
        active = kernel.Active(np.zeros(self.beam, np.int32), *(np.zeros(self.beam) for _ in range(2)))
        active.blank[0] = 1.0
        counts = np.array([1, 1, 0])
        stack = np.zeros((len(self.graph.parent) + 2, 2), np.int32)
        slot = np.full(len(self._prefixes.before), -1, np.int32)
        room = 8 * self.beam
        row = 0
        while True:
            candidates = (*np.zeros((2, room), np.int32), *np.zeros((3, room)))
            row = kernel.follow(
                self.graph, rows, row, self._prefixes, active, counts, candidates, slot, stack, self.beam, LEAST_SHARE
            )
            if row >= len(rows):
                break
            room *= 2
            self._prefixes = kernel.Prefixes(*(_doubled(column) for column in self._prefixes))
            slot = np.full(len(self._prefixes.before), -1, np.int32)
        found = np.zeros(self.beam, np.int32)
        found = found[: kernel.whole_phrases(self.graph, self._prefixes, active, counts, found)]
        order = np.argsort(-(active.blank[found] + active.token[found]), kind="stable")
        prefixes: list[int] = active.prefix[found[order]].tolist()
        return prefixes

    def places(self, prefix: int) -> list[tuple[int, int]]:
        """Frame and node behind each token of a prefix."""
        found = []
        while prefix:
            found.append((int(self._prefixes.frame[prefix]), int(self._prefixes.node[prefix])))
            prefix = int(self._prefixes.before[prefix])
        return found[::-1]


def _doubled(column: _Ints) -> _Ints:
    return np.concatenate([column, np.zeros_like(column)])
