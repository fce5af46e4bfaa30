"""From a public archive to manifests: the code that all recipes share.

A recipe is a folder ``recipes/<name>/`` with ``corpus.yaml``, which says what the corpus is and where to get it (see
``Corpus``), and ``prepare.py``, which reads its layout and ends in ``sys.exit(run_recipe(__file__, read))``. This
module does the rest: download with checksum and resumption, safe unpacking, finding a local copy, durations, held-out
speakers, manifests and figures. ``docs/new_recipe.md`` shows how to write a recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr import files, terminal
from asr.cloud.addresses import is_url
from asr.cloud.inputs import copy_input
from asr.config import loader
from asr.config.arguments import whole
from asr.corpora import download, unpack
from asr.corpora.layouts import Clip, find_audio, measure_durations, probe_length, same_keys, write_left_out
from asr.corpora.text_files import read_lines, read_table, read_text
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, ConfigError, ManifestError
from asr.files import write_json

__all__ = ["Archive", "Clip", "Corpus", "find_audio", "read_lines", "read_table", "run_recipe", "same_keys"]

_SHOWN = 5
"""Utterances left out that are named on the terminal; ``OUT/left_out.txt`` has all."""
STATUSES = {
    "complete": "run on the whole corpus",
    "part": "run on a part of the corpus",
    "fixture": "tested on made-up files in the corpus's layout",
}


@dataclass(frozen=True)
class Archive:
    """One file to download. ``subset`` is its name for ``--subset``; ``into`` the folder that it is unpacked to."""

    url: str
    subset: str = ""
    sha256: str = ""
    megabytes: float = 100.0
    """Size of the download; one that is a tenth larger is refused."""
    unpacked_megabytes: float = 0.0
    """Size of its contents, if it is more than twice ``megabytes``; one that is a tenth larger is refused."""
    members: int = 1_000_000
    into: str = ""

    @property
    def name(self) -> str:
        """Of the file, without its address or folder."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def max_bytes(self) -> int:
        return int(1.1e6 * self.megabytes)

    @property
    def max_unpacked_bytes(self) -> int:
        return int(1.1e6 * (self.unpacked_megabytes or 2 * self.megabytes))


@dataclass(frozen=True)
class Corpus:
    """``corpus.yaml``: what a corpus is, for ``asr recipes`` and for ``run_recipe``."""

    title: str
    language: str
    hours: float
    licence: str
    homepage: str
    status: str
    contains: str
    """A path, ``*`` allowed, that only this corpus's folder has, such as ``etc/an4_train.fileids``."""
    archives: tuple[Archive, ...] = ()
    """What can be downloaded; nothing for a corpus that must be licensed, or asked for."""
    how_to_get: str = ""
    """What to do where there is nothing to download."""
    utterances: dict[str, int] = field(default_factory=dict)
    """Utterances of each set of the whole corpus."""
    content_sha256: str = ""
    """``asr.corpora.download.digest`` of the files that the recipe names as its contents."""
    valid_speakers: int = 0
    """Training speakers to hold out: the set ``train`` becomes ``full``, ``train`` and ``valid``. 0: none."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ConfigError(f"status: expected one of {', '.join(STATUSES)}, got {self.status!r}")
        if not self.archives and not self.how_to_get:
            raise ConfigError("expected archives or how_to_get, got neither; add one of them")

    @property
    def megabytes(self) -> float:
        return sum(a.megabytes for a in self.archives)


Read = Callable[[Path, argparse.Namespace], Mapping[str, Iterable[Clip]]]
"""``read(folder, args)`` gives the sets of the corpus in ``folder`` by name, such as ``train`` and ``test``."""


def load_corpus(folder: Path) -> Corpus:
    """The description of the recipe in ``folder``. Raises ``ConfigError``."""
    return loader.read_yaml(Corpus, folder / "corpus.yaml")


def recipes(folder: Path) -> dict[str, Corpus]:
    """The recipes in ``folder`` by name, sorted. Raises ``ConfigError``, also where there are none."""
    paths = sorted(folder.glob("*/corpus.yaml")) if os.path.isdir(folder) else []
    found = {path.parent.name: load_corpus(path.parent) for path in paths}
    if not found:
        raise ConfigError(
            f"{folder}: expected recipes (folders with a corpus.yaml), found none; pass the recipes' folder"
        )
    return found


def commands(folder: Path) -> list[str]:
    """How the recipe in ``folder`` is run from any place: the first shell commands of its README.

    Commands of ``tools/`` are left out, which are in checkouts only.
    """
    readme = read_text(folder / "README.md") if os.path.isfile(folder / "README.md") else ""
    block = re.search("^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    lines = block[1].splitlines() if block else [f"python recipes/{folder.name}/prepare.py data/{folder.name}"]
    return [
        re.sub(r"\brecipes/(\S+)", lambda match: shlex.quote(str(folder.parent / match[1])), line)
        for line in lines
        if "tools/" not in line
    ]


def obtain(corpus: Corpus, sources: Sequence[str], subsets: Sequence[str], out: Path) -> Path:
    """The folder that holds the corpus: a local one, or ``out/raw`` with its archives fetched and unpacked.

    ``sources`` are folders, archives or addresses; none means the addresses of ``corpus``, of ``subsets`` only if any
    are named. What is unpacked already is taken. Raises ``AsrError``.
    """
    raw = out / "raw"
    wanted = [Archive(source, megabytes=1e6) for source in sources if not os.path.isdir(source)]
    folders = [Path(source) for source in sources if os.path.isdir(source)]
    if len(folders) > 1 or (folders and wanted):
        raise ManifestError("--source: expected one folder or several archives, got several folders; pass one folder")
    if folders:
        return locate_recipe(folders[0], corpus.contains)
    if sources:
        # Files of the names that corpus.yaml knows come with its limits, checksums and folders.
        known = {a.name: a for a in corpus.archives}
        wanted = [dataclasses.replace(known.get(a.name, a), url=a.url) for a in wanted]
    else:
        names = {a.subset for a in corpus.archives}
        for name in subsets:
            if name not in names:
                raise ManifestError(
                    f"--subset: expected any of {', '.join(sorted(names - {''})) or 'none'}, got {name!r}"
                )
        wanted = [a for a in corpus.archives if not subsets or a.subset in subsets]
        if not wanted:
            raise ManifestError(f"nothing to download: {corpus.how_to_get}; then pass its folder with --source")
    if len(wanted) == 1 and len(corpus.archives) <= 1 and os.path.isdir(raw):
        # Into an empty place one archive comes whole or not at all: what is there is complete.
        with contextlib.suppress(ManifestError):
            return locate_recipe(raw, corpus.contains)
    for item in wanted:
        # The mark is written behind the contents: a run that was killed begins this archive again.
        mark = raw / f".{hashlib.sha256(item.name.encode()).hexdigest()[:16]}.unpacked"
        if os.path.exists(mark):
            continue
        file = Path(item.url)
        if download.is_web_address(item.url):
            file = download.fetch(item.url, out / item.name, max_bytes=item.max_bytes, sha256=item.sha256 or None)
        elif is_url(item.url):
            file = copy_input(item.url, out / item.name, item.max_bytes)
        compared = download.is_web_address(item.url) or not item.sha256 or not os.path.isfile(file)
        if not compared and (found := files.file_sha256(file)) != item.sha256:
            raise ManifestError(
                f"{file}: SHA-256 is {found}, expected {item.sha256}; download it again; if the archive was "
                "packed again, unpack it by hand and pass its folder with --source"
            )
        unpack.unpack_into(file, raw / item.into, max_bytes=item.max_unpacked_bytes, max_members=item.members)
        mark.touch()
        if is_url(item.url):
            file.unlink()
    # One of several that do not belong together (languages, say) has a folder to itself.
    return locate_recipe(raw / wanted[0].into if len(wanted) == 1 else raw, corpus.contains)


def locate_recipe(folder: Path, contains: str) -> Path:
    """``folder`` or the first folder up to two below it that holds the path ``contains``. Raises ``ManifestError``."""
    for pattern in ("", "*/", "*/*/"):
        for path in sorted(folder.glob(pattern)) if pattern else [folder]:
            if os.path.isdir(path) and next(path.glob(contains), None) is not None:
                return path
    raise ManifestError(
        f"{folder}: expected a folder that holds {contains}, itself or up to two levels down; "
        "pass the corpus's folder with --source"
    )


@terminal.shown()
def run_recipe(
    file: str,
    read: Read,
    *,
    contents: Callable[[Path], Iterable[str]] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run the recipe whose ``prepare.py`` is ``file``; returns the exit status (0 done, 1 some failed, 2 not done).

    ``contents(folder)`` names the files that ``content_sha256`` is over. ``OUT/<set>.jsonl`` is written for every set,
    and ``OUT/statistics.json``. One utterance that cannot be used is named and does not keep the others back.
    """
    folder = Path(file).parent
    name = folder.name
    try:
        corpus = load_corpus(folder)
        parser = argparse.ArgumentParser(
            prog=f"recipes/{name}/prepare.py", description=f"{corpus.title}: from its archives to manifests in OUT"
        )
        parser.add_argument("out", type=Path, metavar="OUT", help="folder for the manifests (and what is unpacked)")
        parser.add_argument(
            "--source", action="append", default=[], metavar="PATH", help="folder or archive that you have already"
        )
        parser.add_argument(
            "--subset", action="append", default=[], metavar="NAME", help="archive to download (default: all)"
        )
        parser.add_argument("--limit", type=whole(1), metavar="N", help="at most N utterances a set, to try the recipe")
        if corpus.valid_speakers:
            parser.add_argument(
                "--valid-speakers", type=whole(0), default=corpus.valid_speakers, help="training speakers held out"
            )
        if add_arguments:
            add_arguments(parser)
        args = parser.parse_args(argv)
        return _prepare(corpus, read, contents, args)
    except (AsrError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _prepare(
    corpus: Corpus, read: Read, contents: Callable[[Path], Iterable[str]] | None, args: argparse.Namespace
) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    unpacked_before = os.path.exists(args.out / "raw")
    folder = obtain(corpus, args.source, args.subset, args.out)
    if corpus.content_sha256 and contents:
        try:
            found = download.digest(folder, contents(folder))
            if found != corpus.content_sha256:
                raise ManifestError(f"{folder}: its contents have SHA-256 {found}, expected {corpus.content_sha256}")
        except AsrError:
            # The next run must not find what this one unpacked and refused.
            if not unpacked_before:
                shutil.rmtree(args.out / "raw", ignore_errors=True)
            raise
    listed = {name: list(items) for name, items in read(folder, args).items()}
    if args.limit:
        listed = {name: items[:: max(1, len(items) // args.limit)][: args.limit] for name, items in listed.items()}
    lengths = probe_length([item for items in listed.values() for item in items])
    sets: dict[str, list[Utterance]] = {}
    failures: dict[str, str] = {}
    faults = {item.id: item.fault for items in listed.values() for item in items if item.fault}
    for name, items in listed.items():
        sets[name], failed = measure_durations([item for item in items if not item.fault], lengths)
        failures |= failed
    sets = {name: utterances for name, utterances in sets.items() if utterances}
    if not sets:
        reason = f"; the first, {next(iter((failures | faults).items()))}" if failures or faults else ""
        raise ManifestError(f"{folder}: no utterance can be used{reason}")
    whole = {name: len(utterances) for name, utterances in sets.items()}
    if corpus.valid_speakers and "train" in sets:
        full = sets.pop("train")
        train, valid = manifest.split_by_speaker(full, args.valid_speakers, seed=1)
        sets = {"full": full, "train": train, "valid": valid, **sets}
    figures = {}
    for name, utterances in sets.items():
        path = args.out / f"{name}.jsonl"
        manifest.write_manifest(path, utterances)
        statistics = manifest.statistics(utterances)
        figures[name] = dataclasses.asdict(statistics)
        print(f"{path}: {statistics}")
    for name, count in whole.items():
        expected = corpus.utterances.get(name, count)
        if count != expected:
            print(f"{name}: {count} of the corpus's {expected} utterances", file=sys.stderr)
    write_json(args.out / "statistics.json", figures)
    return _report(failures, faults, args.out / "left_out.txt")


def _report(failures: Mapping[str, str], faults: Mapping[str, str], path: Path) -> int:
    """Name the utterances that are left out: the first ones on the terminal, all in ``path``.

    ``faults``, what the recipe itself cannot use, are part of every corpus that was written to be read, and no failure.
    """
    write_left_out(path, {**failures, **faults})
    for name, fault in list(faults.items())[:_SHOWN]:
        print(f"warning: {name}: left out: {fault}", file=sys.stderr)
    for name, reason in list(failures.items())[:_SHOWN]:
        print(f"error: left out: {name}: {reason}", file=sys.stderr)
    for kind, found in (("warning", faults), ("error", failures)):
        if len(found) > _SHOWN:
            print(f"{kind}: {len(found) - _SHOWN} more utterances left out; {path} names all", file=sys.stderr)
    return 1 if failures else 0
