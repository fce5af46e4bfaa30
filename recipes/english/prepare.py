"""English: a pool of many sources for a general model, without the test set of any recipe.

    python recipes/english/prepare.py [--source DIR] [--librispeech SUBSET …] [--synthetic MANIFEST …] OUT

Raw layout (every part but AN4 may be missing):

    an4_sphere.tar.gz or an4/, speechocean762/, LibriSpeech/train-*/    as in their own recipes
    english/queen.jsonl, bass, drascula, barista, ls251, kokoro         {"id", "audio", "text", "speaker", "duration_s"}

``--librispeech train-clean-100`` downloads that part. Writes a manifest for each source, ``train`` (all recorded ones),
``synthetic`` and ``valid`` with ``valid_SOURCE``: speakers who are never trained on. Left out: what fails the quality
gate (``asr/corpora/speech_gate.py``), texts of a recogniser that another one disputes, and each recipe's test set.
"""

import json
import runpy
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip
from asr.corpora.speech_gate import SpeechGate
from asr.data import manifest

RECIPES = Path(__file__).parent.parent
AGREE = 0.9
"""Least agreement of two recognisers on a text that neither a reader nor an author wrote down."""
RECORDED = ("queen", "bass", "drascula", "barista", "ls251")
TEST = {"librispeech-27"}  # whom the recipe librispeech tests on
QUEEN = "cutC21A cutC21G cutC22C cutC31B cutC41C cutC50H cutC6B_ cutC9D_ key14 key27"
READERS = (
    "1040 125 1841 1970 1992 248 2764 2817 2911 2989 3112 322 3259 4051 4441 4481 460 4680 481 5390 5456 5778 6078 625 "
    "6272 6367 6529 7113 7278 7367 7505 7511 8063 8465 8629"
)
VALID = {
    *(f"queen-{name}" for name in QUEEN.split()),
    *("bass-section6", "drascula-B", "drascula-P"),
    *(f"librispeech-{name}" for name in READERS.split()),
}
"""Speakers held out of every training, also of LibriSpeech's other parts: no figure on them may be spoilt later."""


def add_arguments(parser: ArgumentParser) -> None:
    for name, place, text in (("librispeech", "SUBSET", "download it"), ("synthetic", "MANIFEST", "of asr synth")):
        parser.add_argument(f"--{name}", metavar=place, action="append", default=[], help=text)


def of_recipe(name: str, folder: Path, **options: object) -> list[Clip]:
    """The training set of another recipe, with ids and speakers that no other source has."""
    read = runpy.run_path(str(RECIPES / name / "prepare.py"))["read"]
    clips = read(folder, Namespace(**options))["train"]
    return [replace(c, id=f"{name}-{c.id}", speaker=f"{name}-{c.speaker}") for c in clips]


def listed(folder: Path, name: str) -> list[Clip]:
    """The utterances of one file of ``english/``; those whose text is in doubt have a fault."""
    clips = []
    for row in map(json.loads, recipe.read_lines(folder / f"{name}.jsonl")):
        key, speaker, agree = row["id"], row.get("speaker", name), row.get("agree", 1.0)
        fault = f"two recognisers agree on {agree:.2f} of its text, expected {AGREE}" if agree < AGREE else ""
        if name == "ls251":  # its ids are ls251-SPEAKER-CHAPTER-NUMBER
            speaker = f"librispeech-{key.split('-')[1]}"
        own = key if key.startswith(f"{name}-") else f"{name}-{key}"
        clips.append(Clip(own, folder / row["audio"], row["text"], speaker, fault=fault))
    return clips


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The sources, and the speakers held out."""
    english, archive = folder / "english", folder / "an4_sphere.tar.gz"
    pool = {name: listed(english, name) for name in RECORDED if (english / f"{name}.jsonl").exists()}
    an4 = [str(archive if archive.exists() else folder)]
    pool["an4"] = of_recipe("an4", recipe.obtain(recipe.load_corpus(RECIPES / "an4"), an4, (), args.out / "an4"))
    if (folder / "speechocean762").is_dir():
        pool["speechocean762"] = of_recipe("speechocean762", folder / "speechocean762")
    books = [folder / "LibriSpeech"] if (folder / "LibriSpeech").is_dir() else []
    if args.librispeech:
        described = recipe.load_corpus(RECIPES / "librispeech")
        books.append(recipe.obtain(described, [], args.librispeech, args.out / "librispeech"))
    found = {c.id: c for place in books for c in of_recipe("librispeech", place, lm=[], held_out=[])}
    # A sentence with its own text is better than with a recogniser's; the held-out readers stay as they are.
    pool["ls251"] = [
        c for c in pool.get("ls251", []) if c.speaker in VALID or c.id.replace("ls251", "librispeech", 1) not in found
    ]
    pool["librispeech"] = [c for c in found.values() if c.speaker not in VALID]
    pool = {name: SpeechGate().mark([c for c in clips if c.speaker not in TEST]) for name, clips in pool.items()}
    sets = {name: [c for c in clips if c.speaker not in VALID] for name, clips in pool.items()}
    sets["train"] = [c for clips in sets.values() for c in clips]
    held = {f"valid_{name}": [c for c in clips if c.speaker in VALID] for name, clips in pool.items()}
    sets |= held | {"valid": [c for clips in held.values() for c in clips]}
    spoken = listed(english, "kokoro") if (english / "kokoro.jsonl").exists() else []
    spoken += [Clip(u.id, Path(u.audio), u.text, u.speaker) for u in manifest.read_manifests(args.synthetic)]
    return sets | {"synthetic": SpeechGate().mark(spoken)}


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read, add_arguments=add_arguments))
