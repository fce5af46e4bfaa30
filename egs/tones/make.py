"""Make the tones corpus: random words whose letters are short chords. No download, seconds to make, known times.

A letter is a chord of two tones, one of ``LOW_HZ`` and one of ``HIGH_HZ``: 3 x 4 letters, A to L in reading order.

              1400   1820   2370   3080 Hz
     500 Hz      A      B      C      D
     650 Hz      E      F      G      H
     845 Hz      I      J      K      L

Letters of a word follow each other after a short gap, a space is a longer one. A speaker has a pitch (both tones times
the same factor), a timbre (strength of the overtones), a tempo, a level and a noise. No speaker is in two of the three
sets. Letters are drawn evenly and independently, so only the sound identifies them: a language model cannot help.

    OUT/audio/SPEAKER/ID.flac
    OUT/{train,valid,test}.jsonl    manifests
    OUT/{train,valid,test}.ctm      true word times: id, channel, start, duration, word (seconds)
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from asr.data import manifest
from asr.errors import AsrError

RATE_HZ = 16000
LETTERS = "ABCDEFGHIJKL"
LOW_HZ = (500.0, 650.0, 845.0)
HIGH_HZ = (1400.0, 1820.0, 2370.0, 3080.0)
LETTER_S = 0.11
GAP_S = 0.04
PAUSE_S = 0.28
EDGE_S = 0.15
"""Length of a letter, between letters, between words and at both ends, before tempo and chance."""
RISE_S = 0.010
UTTERANCES_PER_SPEAKER = 5
SPLITS = {"train": 1, "valid": 2, "test": 3}


@dataclass(frozen=True)
class Speaker:
    """The properties of a speaker's sound."""

    name: str
    pitch: float
    overtone: float
    """Amplitude of each harmonic over that of the one below it."""
    tempo: float
    level: float
    """RMS of a letter; full scale is 1."""
    noise_db: float
    """Noise below the level of a letter."""


def draw_speaker(name: str, rng: np.random.Generator) -> Speaker:
    """A speaker drawn at random."""
    return Speaker(
        name=name,
        pitch=rng.uniform(0.93, 1.07),
        overtone=rng.uniform(0.0, 0.35),
        tempo=rng.uniform(0.85, 1.2),
        level=10 ** rng.uniform(-1.8, -0.9),
        noise_db=rng.uniform(15, 30),
    )


def draw_words(rng: np.random.Generator) -> list[str]:
    """2 to 5 words of 2 to 5 letters."""
    return ["".join(rng.choice(list(LETTERS), rng.integers(2, 6))) for _ in range(rng.integers(2, 6))]


def chord(letter: str, seconds: float, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """The sound of a letter, float64 ``(S,)`` with an RMS of about ``speaker.level``."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    row, column = divmod(LETTERS.index(letter), len(HIGH_HZ))
    sound = np.zeros_like(time_s)
    for tone_hz in (LOW_HZ[row], HIGH_HZ[column]):
        for harmonic in range(1, 4):
            angle = 2 * np.pi * (speaker.pitch * harmonic * tone_hz * time_s + rng.random())
            sound += speaker.overtone ** (harmonic - 1) * np.sin(angle)
    edge = np.minimum(1, np.minimum(time_s, time_s[::-1]) / RISE_S)
    return speaker.level * edge * sound


def speak(
    words: list[str], speaker: Speaker, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """Samples ``(S,)`` in [-1, 1] and the (start, end, word) of each word in seconds."""

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * speaker.tempo * rng.uniform(0.9, 1.2) * RATE_HZ))

    pieces: list[np.ndarray] = []
    times = []
    for word in words:
        pieces.append(silence(PAUSE_S if pieces else EDGE_S))
        start = sum(map(len, pieces))
        for letter in word:
            pieces += [chord(letter, LETTER_S * speaker.tempo * rng.uniform(0.9, 1.1), speaker, rng), silence(GAP_S)]
        del pieces[-1]  # the gap after the last letter
        times.append((start / RATE_HZ, sum(map(len, pieces)) / RATE_HZ, word))
    samples = np.concatenate([*pieces, silence(EDGE_S)])
    noise = speaker.level * 10 ** (-speaker.noise_db / 20)
    return samples + rng.normal(0, noise, len(samples)), times


def make_split(out: Path, split: str, count: int, seed: int) -> None:
    """Write ``count`` utterances with their manifest and word times."""
    utterances: list[manifest.Utterance] = []
    ctm = ""
    for number in range(count):
        index, turn = divmod(number, UTTERANCES_PER_SPEAKER)
        # Seeded one by one: a larger corpus begins with the utterances of a smaller one.
        speaker = draw_speaker(f"{split}{index:03}", np.random.default_rng((seed, SPLITS[split], index)))
        rng = np.random.default_rng((seed, SPLITS[split], index, turn + 1))
        samples, times = speak(draw_words(rng), speaker, rng)
        name = f"{speaker.name}-{turn:02}"
        path = out / "audio" / speaker.name / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
        text = " ".join(word for _, _, word in times)
        utterances.append(manifest.Utterance(name, str(path), text, len(samples) / RATE_HZ, speaker.name))
        ctm += "".join(f"{name} 1 {start:.3f} {end - start:.3f} {word}\n" for start, end, word in times)
    manifest.write_manifest(out / f"{split}.jsonl", utterances)
    (out / f"{split}.ctm").write_text(ctm, encoding="utf-8")
    print(f"{split}: {manifest.statistics(utterances)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the tones corpus (see the top of this file).")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, such as data/tones")
    parser.add_argument("--train", type=int, default=600, help="utterances to train on (default: %(default)s)")
    parser.add_argument("--valid", type=int, default=50, help="utterances to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="utterances to test on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another corpus (default: %(default)s)")
    args = parser.parse_args()
    try:
        for split in SPLITS:
            make_split(args.out, split, getattr(args, split), args.seed)
    except (AsrError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
