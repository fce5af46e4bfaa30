"""CMU AN4 (Census): archive to manifests.

    python recipes/an4/prepare.py [--source ARCHIVE|DIR|URL] OUT

Raw layout (an4_sphere.tar.gz):

    an4/etc/an4_train.fileids          an4_clstk/fash/an251-fash-b
    an4/etc/an4_train.transcription    <s> YES </s> (an251-fash-b)
    an4/etc/an4_test.fileids           an4test_clstk/fcaw/an406-fcaw-b
    an4/etc/an4_test.transcription     RUBOUT G M E F THREE NINE (an406-fcaw-b)
    an4/wav/an4_clstk/fash/an251-fash-b.sph        NIST SPHERE, 16 kHz, 16 bit, mono

Writes OUT/{full,train,valid,test}.jsonl. The official training set (948 utterances, 74 speakers) is full; for tuning
it is split by speaker into train and valid. The official test set (130 utterances, 10 other speakers, 773 words) is
for reporting only. An archive is unpacked into OUT/raw.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from asr import archive, audio, manifest
from asr.errors import AsrError, ManifestError

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
# SHA-256 over the contents of every file the recipe uses (asr.archive.digest): packing again does not change it.
CONTENT_SHA256 = "025811d1040cd3e3c3bd0b3c57959dcaf8c7920112acd8833e3ae225862807df"
MAX_DOWNLOAD_BYTES = 100 << 20
MAX_UNPACKED_BYTES = 300 << 20
MAX_MEMBERS = 5000
EXPECTED = {"train": 948, "test": 130}
VALID_SPEAKERS = 7
SEED = 1

LINE = re.compile(r"^(?:<s>\s*)?(?P<text>.*?)\s*(?:</s>\s*)?\((?P<id>[^()\s]+)\)$")


def read_subset(corpus: Path, subset: str) -> list[manifest.Utterance]:
    """The utterances of ``train`` or ``test``, in the official order. Raises ``AsrError`` naming file and line."""
    transcripts = {}
    path = corpus / "etc" / f"an4_{subset}.transcription"
    for number, line in enumerate(read_lines(path), start=1):
        match = LINE.match(line)
        if not match:
            raise ManifestError(f"{path}:{number}: expected 'WORDS (id)', got {line!r}")
        transcripts[match["id"]] = match["text"]
    utterances = []
    for relative in read_lines(corpus / "etc" / f"an4_{subset}.fileids"):
        name, speaker = Path(relative).name, Path(relative).parent.name
        if name not in transcripts:
            raise ManifestError(f"{path}: no transcript of {relative}")
        sound = corpus / "wav" / f"{relative}.sph"
        duration_s = audio.probe(sound).duration_s
        utterances.append(manifest.Utterance(name, str(sound), transcripts[name], duration_s, speaker))
    return utterances


def read_lines(path: Path) -> list[str]:
    """Stripped lines of a text file of the corpus."""
    try:
        return [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read: {error}") from error


def find_corpus(source: str, out: Path) -> Path:
    """The folder holding ``etc`` and ``wav``: fetched and unpacked into ``out`` where it is not one already."""
    if Path(source).is_dir():
        for folder in (Path(source), Path(source) / "an4"):
            if (folder / "etc").is_dir():
                return folder
        raise ManifestError(f"{source}: expected a folder with etc/ and wav/ (or an4/ holding them)")
    raw = out / "raw"
    if not raw.is_dir():
        file = Path(source)
        if archive.is_url(source):
            file = archive.fetch(source, out / Path(source).name, max_bytes=MAX_DOWNLOAD_BYTES)
        archive.unpack(file, raw, max_bytes=MAX_UNPACKED_BYTES, max_members=MAX_MEMBERS)
    return raw / "an4"


def verify(corpus: Path) -> None:
    """Raise ``ManifestError`` unless the corpus is complete and unchanged."""
    files = []
    for subset, expected in EXPECTED.items():
        fileids = read_lines(corpus / "etc" / f"an4_{subset}.fileids")
        if len(fileids) != expected:
            raise ManifestError(f"{corpus}: expected {expected} {subset} utterances, got {len(fileids)}")
        files += [f"wav/{relative}.sph" for relative in fileids]
        files += [f"etc/an4_{subset}.fileids", f"etc/an4_{subset}.transcription"]
    found = archive.digest(corpus, files)
    if found != CONTENT_SHA256:
        raise ManifestError(f"{corpus}: its contents have SHA-256 {found}, expected {CONTENT_SHA256}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Prepare CMU AN4: OUT/{full,train,valid,test}.jsonl")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the manifests (and the unpacked corpus)")
    parser.add_argument("--source", default=URL, help=f"archive, unpacked folder or address (default: {URL})")
    parser.add_argument("--valid-speakers", type=int, default=VALID_SPEAKERS, help="training speakers held out")
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        unpacked_before = (args.out / "raw").exists()
        corpus = find_corpus(args.source, args.out)
        try:
            verify(corpus)
        except AsrError:
            # The next run must not find what this one unpacked and refused.
            if not unpacked_before:
                shutil.rmtree(args.out / "raw", ignore_errors=True)
            raise
        full = read_subset(corpus, "train")
        train, valid = manifest.split_by_speaker(full, args.valid_speakers, SEED)
        test = read_subset(corpus, "test")
        for name, utterances in (("full", full), ("train", train), ("valid", valid), ("test", test)):
            manifest.write(args.out / f"{name}.jsonl", utterances)
            print(f"{args.out / name}.jsonl: {manifest.statistics(utterances)}")
    except (AsrError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
