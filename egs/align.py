"""Find the times of known words and letters in a recording; write them as a Praat TextGrid too.

python egs/align.py recording.wav "THE WORDS SAID" [out.TextGrid]
"""

import argparse
import sys
from pathlib import Path

import asr
from asr.formats import to_textgrid

parser = argparse.ArgumentParser(description="Align known words to a recording.")
parser.add_argument("file", metavar="FILE")
parser.add_argument("words", metavar="WORDS")
parser.add_argument("textgrid", nargs="?", type=Path, metavar="OUT.TextGrid")
args = parser.parse_args()

try:
    aligned = asr.load().align(args.file, args.words)
except asr.AsrError as error:
    sys.exit(f"error: {error}")
for word in aligned.words:
    letters = " ".join(f"{t.text}{t.start_s:.2f}" for t in aligned.tokens if word.start_s <= t.start_s < word.end_s)
    print(f"{word.start_s:6.2f} to {word.end_s:5.2f} s  {word.confidence:4.0%}  {word.text:12} {letters}")
if args.textgrid:
    args.textgrid.write_text(to_textgrid(aligned), encoding="utf-8")
