"""Live recognition in ten lines: takes samples as they arrive, prints text while it is spoken.

    python egs/stream.py recording.wav

Any source of mono samples can replace the file: a socket, a microphone, a telephone line. The default model answers
in chunks, at most 1.3 s late; ``asr.load("stream")`` is faster and knows letters, digits, names and commands only.
"""

import sys

import soundfile

import asr

if len(sys.argv) != 2:
    sys.exit(f"usage: python {sys.argv[0]} FILE")
with soundfile.SoundFile(sys.argv[1]) as file:
    live = asr.load().stream(sample_rate_hz=file.samplerate, endpoint=asr.Endpoint(silence_s=0.6))
    for block in file.blocks(file.samplerate // 10, always_2d=True):
        update = live.accept(block)  # a tenth of a second
        for utterance in update.final:
            print(f"{utterance.words[0].start_s:7.2f} s  {utterance.text}")
        if update.text and sys.stdout.isatty():
            print(f"{update.time_s:7.2f} s  {update.text}", end="\r")
    last = live.finish()
    if last.words:
        print(f"{last.words[0].start_s:7.2f} s  {last.text}")
