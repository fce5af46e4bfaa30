"""Puts references and hypotheses together: by id, by line, or by the times of segments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.errors import ManifestError
from asr.scoring.transcript_files import PLAIN_HINT, Segment, TranscriptFile, first_few
from asr.transcript import Word


@dataclass(frozen=True)
class Pair:
    """References and hypotheses with the same ids, unless scoring must report that they differ.

    ``segmented``: by the segments of an STM file. ``note``: a possible fault of the ids; ``hint``: a possible fault
    where few ids match.
    """

    references: dict[str, str]
    hypotheses: dict[str, str]
    speakers: dict[str, str]
    segmented: bool = False
    note: str = ""
    hint: str = ""


def pair(reference: TranscriptFile, hypothesis: TranscriptFile) -> Pair:
    """Put together what belongs together.

    Segments take the words of their recording whose middle lies before their end and not in an earlier segment; words
    after the last go to the last (as sclite has it); words of ignored segments go with them. Where one of the files
    holds a single recording that the file's name names, the names need not agree. Where nothing was recognised a CTM
    has no line: such recordings have an empty text, unless no recording meets.

    Raises ``ManifestError`` for plain texts of different length, and segments that meet no words with times.
    """
    timed = hypothesis.recordings and all(r.words or not r.text for r in hypothesis.recordings)
    if reference.segments and timed:
        return _by_segment(reference, hypothesis)
    if any(segment.ignored for segment in reference.segments):
        raise ManifestError(
            f"{hypothesis.path}: expected words with times (CTM, JSON, TextGrid), since {reference.path} has segments "
            "that are not scored"
        )
    references, hypotheses = reference.texts, hypothesis.texts
    if reference.plain:
        references, hypotheses = _same_length(reference, hypothesis)
    elif len(references) == len(hypotheses) == 1 and (reference.single or hypothesis.single):
        hypotheses = dict(zip(references, hypotheses.values(), strict=True))
    elif hypothesis.sparse and references.keys() & hypotheses.keys():
        hypotheses = dict.fromkeys(references, "") | hypotheses
    note = "the first word of each line is taken for its id; for texts without ids give --plain"
    kaldi = reference.kaldi and hypothesis.kaldi
    wordy = kaldi and _wordy(references) and _wordy(hypotheses)
    return Pair(
        references, hypotheses, reference.speakers, note=note if wordy else "", hint=PLAIN_HINT if kaldi else ""
    )


def _same_length(reference: TranscriptFile, hypothesis: TranscriptFile) -> tuple[dict[str, str], dict[str, str]]:
    """Plain texts; empty lines at the end of the longer one are no utterances."""
    texts = [list(file.texts.values()) for file in (reference, hypothesis)]
    shorter = min(map(len, texts))
    for lines in texts:
        while len(lines) > shorter and not lines[-1]:
            lines.pop()
    if len(texts[0]) != len(texts[1]):
        raise ManifestError(
            f"expected as many lines in both, got {len(texts[0])} in {reference.path} and {len(texts[1])} in "
            f"{hypothesis.path} (where nothing was recognised, keep an empty line)"
        )
    first, second = ({str(i): text for i, text in enumerate(lines, start=1)} for lines in texts)
    return first, second


def _by_segment(reference: TranscriptFile, hypothesis: TranscriptFile) -> Pair:
    groups: dict[tuple[str, int], list[Segment]] = {}
    for segment in reference.segments:
        groups.setdefault((segment.recording, segment.channel), []).append(segment)
    found = {(recording.source, recording.channel): recording for recording in hypothesis.recordings}
    # A recording with one channel in both is the same recording, also if the channel's name differs.
    ours, theirs = (Counter(name for name, _ in keys) for keys in (groups, found))
    alone = {key[0]: key for key in found if ours[key[0]] == theirs[key[0]] == 1}
    met = {key: alone.get(key[0], key) for key in groups}
    extra = [name for name, number in found.keys() - set(met.values())]
    if extra or not set(met.values()) & found.keys():
        raise ManifestError(
            f"{hypothesis.path}: expected recordings and channels of {reference.path} "
            f"({first_few(sorted({name for name, _ in groups}))}), got others: {first_few(sorted(extra))}"
        )
    references: dict[str, str] = {}
    hypotheses: dict[str, str] = {}
    speakers: dict[str, str] = {}
    for key, segments in groups.items():
        segments = sorted(segments, key=lambda segment: segment.start_s)
        words = found[met[key]].words if met[key] in found else ()
        for segment, inside in zip(segments, _shared_out(segments, words), strict=True):
            if segment.ignored:
                continue
            id = segment.id
            while id in references:
                id += "+"
            references[id], hypotheses[id] = segment.text, " ".join(word.text for word in inside)
            speakers[id] = segment.speaker
    return Pair(references, hypotheses, speakers, segmented=True)


def _shared_out(segments: Sequence[Segment], words: Iterable[Word]) -> list[list[Word]]:
    inside: list[list[Word]] = [[] for _ in segments]
    for word in words:
        middle_s = round((word.start_s + word.end_s) / 2, 6)  # as in the files, without float noise
        place = next((i for i, segment in enumerate(segments) if middle_s < segment.end_s), len(segments) - 1)
        inside[place].append(word)
    return inside


def _wordy(ids: Iterable[str]) -> bool:
    """Whether they look like words: most are of letters, or none holds a digit, ``_`` or ``-``."""
    ids = list(ids)
    letters = sum(re.sub("['\u2019]", "", id).isalpha() for id in ids)
    most = letters > len(ids) / 2 or not any(re.search(r"[\d_-]", id) for id in ids)
    return most and any(len(id) > 1 for id in ids)
