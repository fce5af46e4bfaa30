"""Decode one recording greedily, by beam search, with a language model, a lexicon and hot words.

    python egs/decode_with_lm.py recording.wav [--text sentences.txt] [--hotword GORDON:5]

``--text`` (one sentence a line) makes a word 3-gram whose words are the lexicon; without it only the bundled model's
own language model is used.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import asr
from asr.decode.lexicon import parse_hotwords
from asr.lm.ngram_training import train_ngram

parser = argparse.ArgumentParser(description="Decode a recording in several ways.")
parser.add_argument("file", metavar="FILE")
parser.add_argument("--text", metavar="TEXT", help="sentences for a word 3-gram, one a line")
parser.add_argument("--hotword", action="append", default=[], metavar="WORD:BOOST")
parser.add_argument("--model", help="model directory or bundled name (default: the bundled model)")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    ways = {"greedy": {"beam": 1}, "beam 16, as the model says": {"beam": 16}, "beam 16, no LM": {"beam": 16, "lm": ""}}
    try:
        if args.text:
            arpa = Path(folder) / "words.arpa"
            train_ngram(args.text, arpa, order=3)
            ways["word 3-gram and lexicon"] = {"beam": 16, "lm": str(arpa), "lm_weight": 0.5}
            ways["... other words at -6"] = ways["word 3-gram and lexicon"] | {"unknown_penalty": -6.0}
        if args.hotword:
            ways["hot words"] = {"beam": 16, "hotwords": parse_hotwords(args.hotword)}
        for name, options in ways.items():
            transcript = asr.load(args.model, **options).transcribe(args.file)
            sure = "" if transcript.confidence is None else f"{transcript.confidence:.0%}"
            print(f"{name:28}{sure:>5}  {transcript.text}")
    except asr.AsrError as error:
        sys.exit(f"error: {error}")
