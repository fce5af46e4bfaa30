"""Transcribe recordings: each word with its times and how sure the model is.

    python egs/transcribe.py recording.wav other.flac [--model DIR]

A file that fails is reported and the rest are transcribed; the exit status is then 1.
"""

import argparse
import sys

import asr

parser = argparse.ArgumentParser(description="Transcribe recordings, word by word.")
parser.add_argument("files", nargs="+", metavar="FILE", help="audio in any format")
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
    print(f"{path}: {transcript.text}")
    for word in transcript.words:
        print(f"{word.start_s:8.2f} to {word.end_s:.2f} s  {word.confidence:4.0%}  {word.text}")
sys.exit(status)
