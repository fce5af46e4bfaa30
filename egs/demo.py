"""Transcribe the bundled sample with the bundled model: text, times, confidences and WER (``make demo``)."""

from __future__ import annotations

import time
from pathlib import Path

import asr

HERE = Path(__file__).parent


def main() -> None:
    started = time.perf_counter()
    recognizer = asr.load()
    loaded = time.perf_counter()
    transcript = recognizer.transcribe(HERE / "sample.wav")
    done = time.perf_counter()
    reference = (HERE / "sample.txt").read_text().strip()

    print(f"reference   {reference}")
    print(f"transcript  {transcript}\n")
    print("   start     end  confidence  word")
    for word in transcript.words:
        print(f"{word.start_s:6.2f} s {word.end_s:5.2f} s {word.confidence:11.2f}  {word.text}")
    print(f"\n{asr.score({'sample': reference}, {'sample': transcript.text}).summary()}")
    print(
        f"{transcript.duration_s:.1f} s of audio in {done - loaded:.2f} s "
        f"(and {loaded - started:.2f} s to load the model)"
    )


if __name__ == "__main__":
    main()
