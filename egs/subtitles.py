"""Subtitles for films and recordings, next to each file; SubRip, or WebVTT with --vtt.

    python egs/subtitles.py film.mp4 talk.wav [--vtt] [--model DIR]

Films need PyAV: pip install av. Recordings may last for hours.
"""

import argparse
import sys
from pathlib import Path

import asr
from asr.formats import to_srt, to_vtt

parser = argparse.ArgumentParser(description="Write subtitles next to films and recordings.")
parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
parser.add_argument("--vtt", action="store_true", help="WebVTT in place of SubRip")
parser.add_argument("--model", help="model directory or bundled name (default: the bundled model)")
args = parser.parse_args()

recognizer = asr.load(args.model)
status = 0
for path in args.files:
    try:
        transcript = recognizer.transcribe(path)
    except asr.AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
        continue
    target = path.with_suffix(".vtt" if args.vtt else ".srt")
    target.write_text(to_vtt(transcript) if args.vtt else to_srt(transcript), encoding="utf-8")
    print(f"{target}: {len(transcript.words)} words")
sys.exit(status)
