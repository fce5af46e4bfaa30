"""Free Spoken Digit Dataset: 3,000 recordings of single digits, six speakers, 8 kHz.

    python recipes/fsdd/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout: ``recordings/{digit}_{speaker}_{index}.wav``. The official test set is the indices 0 to 4.

Writes ``full`` and ``test`` (official, the same six speakers); ``train`` and ``valid`` (``full`` without and with the
indices 5 to 9); for each of the six ``leave/SPEAKER/train`` and ``leave/SPEAKER/test``, the latter also in two halves,
``even`` and ``odd``, by index; and connected digits: strings of three to seven recordings of one speaker with pauses of
50 to 400 ms between and around them, joined by chance (a seed) from the recordings of ``full`` (``connected/full``) or
of ``test`` (``connected/test``), as audio files in ``OUT/connected/``. ``all`` is ``full`` and ``connected/full``. With
``--an4 data/an4/segments.jsonl`` (see that recipe) ``leave/SPEAKER/mixed`` is the five speakers' recordings and AN4's
digits, said by 74 others.
"""

import random
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import soundfile

from asr.audio.read import load_audio
from asr.corpora import recipe
from asr.corpora.recipe import Clip
from asr.data import manifest

DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
RATE_HZ = 8000
SHORTEST, LONGEST = 3, 7
PAUSE_S = 0.05, 0.4
STRINGS = {"full": 150, "test": 40}
"""Connected strings a speaker."""
SEED = 1


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--an4", metavar="MANIFEST", help="AN4's utterances, whose digits go into leave/SPEAKER/mixed")


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The sets of single digits, and the strings, whose audio is written."""
    everything = []
    for path in sorted((folder / "recordings").glob("*_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        everything.append(Clip(path.stem, path, DIGITS[int(digit)], speaker))

    def pick(low: int, high: int) -> list[Clip]:
        return [item for item in everything if low <= int(item.id.rsplit("_", 1)[1]) < high]

    sets = {"full": pick(5, 1000), "train": pick(10, 1000), "valid": pick(5, 10), "test": pick(0, 5)}
    others = [
        Clip(u.id, Path(u.audio), u.text, u.speaker, u.start_s, u.end_s)
        for u in (manifest.read_manifest(args.an4) if args.an4 else ())
        if u.text and set(u.text.split()) <= set(DIGITS)
    ]
    for speaker in sorted({item.speaker for item in everything}):
        sets[f"leave/{speaker}/train"] = [item for item in everything if item.speaker != speaker]
        own = [item for item in everything if item.speaker == speaker]
        sets[f"leave/{speaker}/test"] = own
        for rest, name in enumerate(("even", "odd")):
            sets[f"leave/{speaker}/{name}"] = [item for item in own if int(item.id.rsplit("_", 1)[1]) % 2 == rest]
        if others:
            sets[f"leave/{speaker}/mixed"] = sets[f"leave/{speaker}/train"] + others
    for name in STRINGS:
        sets[f"connected/{name}"] = list(connect(sets[name], name, args.out / "connected" / name))
    sets["all"] = sets["full"] + sets["connected/full"]
    return sets


def connect(items: list[Clip], name: str, out: Path) -> list[Clip]:
    """Strings of digits of one speaker, each from different recordings, written to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{SEED} {name}")
    strings = []
    for speaker in sorted({item.speaker for item in items}):
        own = [item for item in items if item.speaker == speaker]
        for number in range(STRINGS[name]):
            parts = rng.sample(own, rng.randint(SHORTEST, LONGEST))
            pieces = [silence(rng)]
            for part in parts:
                pieces += [load_audio(part.audio, RATE_HZ), silence(rng)]
            path = out / f"{speaker}_{number}.wav"
            soundfile.write(path, np.concatenate(pieces), RATE_HZ, subtype="PCM_16")
            text = " ".join(part.text for part in parts)
            strings.append(Clip(f"{name}_{speaker}_{number}", path, text, speaker))
    return strings


def silence(rng: random.Random) -> np.ndarray:
    """A pause, not quite digital silence."""
    length = round(rng.uniform(*PAUSE_S) * RATE_HZ)
    return np.random.default_rng(rng.getrandbits(32)).normal(0, 1e-4, length).astype(np.float32)


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read, add_arguments=add_arguments))
