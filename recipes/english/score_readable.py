"""How well a tagger and the rules for numbers write a text: F1 of case and of each mark, accuracy of numbers.

    python recipes/english/score_readable.py TEXT READABLE [--words N]

TEXT is prose that was left out of the training (``test.txt.gz`` of ``prepare_readable.py``), READABLE a folder of
``asr train-readable``. The prose is turned into spoken words in small letters, in texts of one to eight sentences as in
training, and written again. Prints JSON:

- ``case``: precision, recall and F1 of words with capitals; a word counts only if all of its letters are right. The
  first words of texts, which are always right, are left out. ``names`` are those inside sentences.
- ``marks``: the same for each mark; ``all`` counts a mark only if it is the right one.
- ``numbers``: numbers that TEXT has in digits, and whose words are certain: written with the same digits (``right``),
  left in words, or ``wrong``. ``below_ten`` of those left in words are a single word for 0 to 9, as the rules have it.
- ``cpu_s_per_1000_words``: CPU time of the whole writing.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

from asr.errors import AsrError
from asr.lm.lm_texts import TextReading, stream_sentences
from asr.recognize.readable import WRITTEN_TITLES, ReadableWriter, WrittenPiece
from asr.recognize.readable_model import ReadableModel, load_readable
from asr.text.number_words import DIGITS
from asr.text.written_tags import END_MARKS, TAG_MARKS, TaggedWord, tag_words
from asr.train.readable_task import sentence_groups


class Tally:
    """Hits, false alarms and misses by name."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, expected: str, found: str) -> None:
        """``expected`` and ``found`` are "" for nothing."""
        if expected and expected == found:
            self.counts[name, "hit"] += 1
        else:
            self.counts[name, "miss"] += bool(expected)
            self.counts[name, "false"] += bool(found)

    def figures(self, name: str) -> dict[str, float]:
        """Precision, recall and F1, and how many there are."""
        hit, miss, false = (self.counts[name, kind] for kind in ("hit", "miss", "false"))
        return {
            "count": hit + miss,
            "precision": round(hit / max(1, hit + false), 4),
            "recall": round(hit / max(1, hit + miss), 4),
            "f1": round(2 * hit / max(1, 2 * hit + miss + false), 4),
        }


def split_piece(piece: WrittenPiece) -> tuple[str, str]:
    """The letters and the mark of a piece."""
    if piece.text in WRITTEN_TITLES.values():
        return piece.text, ""
    mark = piece.text[-1] if piece.text[-1] in TAG_MARKS[1:] else ""
    return piece.text.removesuffix(mark), mark


def score_words(words: list[TaggedWord], pieces: list[WrittenPiece], tally: Tally) -> None:
    """Count cases and marks of one text."""
    for piece in pieces:
        word, mark = split_piece(piece)
        last, expected_mark = words[piece.stop - 1], TAG_MARKS[words[piece.stop - 1].mark]
        for name in TAG_MARKS[1:]:
            tally.add(name, name * (expected_mark == name), name * (mark == name))
        tally.add("all", expected_mark, mark)
        tally.add("end", "." * (expected_mark in END_MARKS), "." * (mark in END_MARKS))
        single = piece.stop - piece.start == 1 and piece.start and not re.search(r"\d", word + last.written)
        if single and last.word not in WRITTEN_TITLES and last.written:
            capitals = [text if text != text.lower() else "" for text in (last.written, word)]
            tally.add("case", *capitals)
            if TAG_MARKS[words[piece.start - 1].mark] not in END_MARKS and last.word != "i":
                tally.add("names", *capitals)


def score_numbers(words: list[TaggedWord], pieces: list[WrittenPiece], counts: Counter[str]) -> None:
    """Count the numbers that the text has in digits."""
    at = 0
    while at < len(words):
        stop = at + 1
        if re.search(r"\d", words[at].written):
            while stop < len(words) and not words[stop].written:
                stop += 1
            over = [piece for piece in pieces if piece.start < stop and piece.stop > at]
            expected = "".join(word.written for word in words[over[0].start : over[-1].stop])
            found = "".join(piece.text for piece in over)
            digits, own = (
                re.sub(r"\D", "", text.replace(" ", "").replace("million", "000000")) for text in (expected, found)
            )
            kind = "right" if digits == own else "wrong" if own else "in_words"
            counts[kind] += 1
            counts["below_ten"] += kind == "in_words" and stop == at + 1 and words[at].word in DIGITS
            if kind == "wrong":
                print(f"wrong: {expected} was written {found}", file=sys.stderr)
        at = stop


def score_text(path: Path, model: ReadableModel, most: int) -> dict[str, object]:
    """All figures of a text, or of its first ``most`` words."""
    tally, numbers, done, cpu_s = Tally(), Counter[str](), 0, 0.0
    sentences = (s for text in stream_sentences([path], TextReading(prose=True), None) for s in tag_words(text))
    for words in sentence_groups(sentences, seed=1):
        writer, started = ReadableWriter(model), time.process_time()
        writer.accept([word.word for word in words])
        pieces = writer.finish()
        cpu_s += time.process_time() - started
        score_words(words, pieces, tally)
        score_numbers(words, pieces, numbers)
        done += len(words)
        if done >= most:
            break
    return {
        "words": done,
        "case": tally.figures("case"),
        "names": tally.figures("names"),
        "marks": {name: tally.figures(name) for name in ("all", "end", *TAG_MARKS[1:])},
        "numbers": dict(numbers),
        "cpu_s_per_1000_words": round(1000 * cpu_s / done, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("readable", type=Path)
    parser.add_argument("--words", type=int, default=10**9, help="score only the first N words")
    args = parser.parse_args()
    print(json.dumps(score_text(args.text, load_readable(args.readable), args.words), indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        sys.exit(f"error: {error}")
