"""The frame that recipes share: finding, fetching, unpacking, measuring, splitting, reporting."""

from __future__ import annotations

import argparse
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import soundfile
from corpus import tones

from asr.cloud.inputs import write_whole
from asr.corpora import layouts
from asr.corpora.recipe import Clip, load_corpus, read_lines, read_table, run_recipe, same_keys
from asr.data import manifest
from asr.errors import AsrError, AudioError, ConfigError, ManifestError
from asr.files import file_sha256

DESCRIPTION = """title: Tones
language: none
hours: 0.01
licence: free
homepage: https://example.org
status: complete
contains: list.txt
utterances: {train: 6, test: 2}
"""


def make(folder: Path, speakers: int = 3) -> Path:
    """A corpus of two recordings a speaker, and two of the test speaker."""
    lines = []
    for speaker in [*(f"s{i}" for i in range(speakers)), "t"]:
        for number in range(2):
            name = f"{speaker}-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{name}.wav", tones("AB"), 8000)
            lines.append(f"{name} AB")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


def read(folder: Path, args: argparse.Namespace) -> Mapping[str, list[Clip]]:
    items = [
        Clip(key, folder / key, text, key[:2].rstrip("-")) for key, text in read_table(folder / "list.txt").items()
    ]
    return {"train": [i for i in items if i.speaker != "t"], "test": [i for i in items if i.speaker == "t"]}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., int]:
    """``recipe(*args, **description)`` runs a recipe of that description."""

    def run(*args: str | Path, extra: str = "how_to_get: ask\n", **options: object) -> int:
        folder = tmp_path / "recipes" / "tones"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "corpus.yaml").write_text(DESCRIPTION + extra)
        return run_recipe(str(folder / "prepare.py"), read, argv=[*map(str, args)], **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Files of ``tmp_path/www`` by HTTP."""
    (tmp_path / "www").mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def pack(path: Path, **folders: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, folder in folders.items():
            tar.add(folder, name)
    return path


@pytest.mark.parametrize("depth", ["", "a", "a/b"])
def test_a_folder_at_any_depth(recipe: Callable[..., int], tmp_path: Path, depth: str) -> None:
    make(tmp_path / "source" / depth)
    assert recipe("--source", tmp_path / "source", tmp_path / "out") == 0
    assert len(manifest.read_manifest(tmp_path / "out" / "train.jsonl")) == 6
    figures = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert figures["test"]["utterances"] == 2
    assert not (tmp_path / "out" / "raw").exists()


def test_one_bad_file_does_not_keep_the_others_back(
    recipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path / "source")
    (source / "s1-0.wav").write_bytes(b"RIFF")
    (source / "s2-0.wav").unlink()
    assert recipe("--source", source, tmp_path / "out") == 1
    assert len(manifest.read_manifest(tmp_path / "out" / "train.jsonl")) == 4
    printed = capsys.readouterr()
    assert "error: left out: s1-0: " in printed.err
    assert "error: left out: s2-0: " in printed.err
    assert "train: 4 of the corpus's 6 utterances" in printed.err
    assert len((tmp_path / "out" / "left_out.txt").read_text().splitlines()) == 2
    make(source)
    assert recipe("--source", source, tmp_path / "out") == 0
    assert not (tmp_path / "out" / "left_out.txt").exists()


def test_speakers_are_held_out(recipe: Callable[..., int], tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    extra = "how_to_get: ask\nvalid_speakers: 1\n"
    assert recipe("--source", source, tmp_path / "out", extra=extra) == 0
    sets = {p.stem: {u.speaker for u in manifest.read_manifest(p)} for p in (tmp_path / "out").glob("*.jsonl")}
    assert len(sets["valid"]) == 1
    assert sets["train"] | sets["valid"] == sets["full"] == {"s0", "s1", "s2"}
    assert not sets["train"] & sets["valid"]
    assert recipe("--source", source, tmp_path / "out", "--valid-speakers", "2", extra=extra) == 0
    assert len({u.speaker for u in manifest.read_manifest(tmp_path / "out" / "valid.jsonl")}) == 2


def test_a_few_utterances_to_try(recipe: Callable[..., int], tmp_path: Path) -> None:
    assert recipe("--source", make(tmp_path / "source"), "--limit", "2", tmp_path / "out") == 0
    assert [u.id for u in manifest.read_manifest(tmp_path / "out" / "train.jsonl")] == ["s0-0", "s1-1"]


def test_downloads_are_checked_unpacked_and_joined(recipe: Callable[..., int], tmp_path: Path, server: str) -> None:
    whole = make(tmp_path / "whole")
    parts = {
        "one": ["s0-0.wav", "s0-1.wav", "s1-0.wav", "list.txt"],
        "two": ["s1-1.wav", "s2-0.wav", "s2-1.wav", "t-0.wav"],
    }
    lines = ["archives:"]
    for name, files in {**parts, "three": ["t-1.wav"]}.items():
        for file in files:
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(whole / file, tmp_path / name / file)
        path = pack(tmp_path / "www" / f"{name}.tar.gz", tones=tmp_path / name)
        lines.append(
            f"  - {{url: '{server}/{name}.tar.gz', subset: {name}, sha256: {file_sha256(path)}, megabytes: 1}}"
        )
    extra = "\n".join(lines) + "\n"
    assert recipe(tmp_path / "out", extra=extra) == 0
    assert len(manifest.read_manifest(tmp_path / "out" / "train.jsonl")) == 6
    assert not list((tmp_path / "out").glob("*.tar.gz"))
    shutil.rmtree(tmp_path / "www")  # again, from what is unpacked
    assert recipe(tmp_path / "out", extra=extra) == 0


def test_an_archive_in_a_bucket_is_a_source(recipe: Callable[..., int], tmp_path: Path) -> None:
    path = pack(tmp_path / "tones.tar.gz", tones=make(tmp_path / "tones"))
    write_whole("memory://recipe/tones.tar.gz", path.read_bytes())
    assert recipe("--source", "memory://recipe/tones.tar.gz", tmp_path / "out") == 0
    assert len(manifest.read_manifest(tmp_path / "out" / "train.jsonl")) == 6
    assert not list((tmp_path / "out").glob("*.tar.gz"))
    assert recipe("--source", "memory://recipe/none.tar.gz", tmp_path / "other") == 2


def test_one_of_several_archives_at_a_time(recipe: Callable[..., int], tmp_path: Path, server: str) -> None:
    """Languages, say: each has its own folder, and the first does not stand for the second."""
    lines = ["archives:"]
    for name, speakers in (("polish", 2), ("german", 3)):
        pack(tmp_path / "www" / f"{name}.tar.gz", tones=make(tmp_path / name, speakers))
        lines.append(f"  - {{url: '{server}/{name}.tar.gz', subset: {name}, into: {name}}}")
    for name, count in (("polish", 4), ("german", 6), ("polish", 4)):
        assert recipe("--subset", name, tmp_path / "out", extra="\n".join(lines) + "\n") == 0
        assert len(manifest.read_manifest(tmp_path / "out" / "train.jsonl")) == count


def test_a_wrong_checksum(
    recipe: Callable[..., int], tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(tmp_path / "www" / "a.tar.gz", tones=make(tmp_path / "source"))
    assert recipe(tmp_path / "out", extra=f"archives: [{{url: '{server}/a.tar.gz', sha256: '{'0' * 64}'}}]\n") == 2
    assert "expected SHA-256 0000" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_local_archive_that_is_not_the_published_one(
    recipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(tmp_path / "a.tar.gz", tones=make(tmp_path / "source"))
    extra = f"archives: [{{url: 'https://example.org/a.tar.gz', sha256: '{'0' * 64}'}}]\n"
    assert recipe("--source", path, tmp_path / "out", extra=extra) == 2
    assert "expected 0000" in capsys.readouterr().err
    path.rename(tmp_path / "mine.tar.gz")  # under another name nothing is known of it
    assert recipe("--source", tmp_path / "mine.tar.gz", tmp_path / "out", extra=extra) == 0


@pytest.mark.parametrize("limit", ["megabytes: 0.0001", "members: 3"])
def test_an_archive_larger_than_it_should_be(
    recipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    """The limits of corpus.yaml hold for a local file of the same name as well."""
    path = pack(tmp_path / "a.tar.gz", tones=make(tmp_path / "source"))
    extra = f"archives: [{{url: 'https://example.org/a.tar.gz', {limit}}}]\n"
    assert recipe("--source", path, tmp_path / "out", extra=extra) == 2
    assert "more than" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_that_was_killed_while_unpacking_begins_again(recipe: Callable[..., int], tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    one = pack(tmp_path / "one.tar.gz", tones=source)
    (source / "extra").write_text("x")
    two = pack(tmp_path / "two.tar.gz", tones=source)
    staging = tmp_path / "out" / ".raw.fresh"
    staging.mkdir(parents=True)
    (staging / "half").write_text("half")
    assert recipe("--source", one, "--source", two, tmp_path / "out") == 0
    assert not staging.exists()
    assert (tmp_path / "out" / "raw" / "tones" / "extra").exists()


def test_nothing_to_download(recipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe(tmp_path / "out") == 2
    assert "nothing to download: ask; then pass its folder with --source" in capsys.readouterr().err
    assert recipe(tmp_path / "out", "--subset", "x", extra="archives: [{url: 'http://x/y', subset: a}]\n") == 2
    assert "--subset: expected any of a, got 'x'" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert recipe("--source", tmp_path / "empty", tmp_path / "out") == 2
    assert "expected a folder that holds list.txt" in capsys.readouterr().err


def test_descriptions_that_are_wrong(tmp_path: Path) -> None:
    for text, match in (
        (DESCRIPTION, "expected archives or how_to_get"),
        (DESCRIPTION.replace("complete", "perfect") + "how_to_get: x\n", "status: expected one of complete"),
        (DESCRIPTION + "how_to_get: x\nurl: y\n", "unknown key url"),
    ):
        (tmp_path / "corpus.yaml").write_text(text)
        with pytest.raises(ConfigError, match=match):
            load_corpus(tmp_path)


def test_segments_and_their_ends(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones("ABCABCAB"), 8000)  # 0.9 s
    items = [
        Clip("whole", tmp_path / "a", "A"),
        Clip("inside", tmp_path / "a.wav", "A", "", 0.1, 0.4),
        Clip("over", tmp_path / "a", "A", "", 0.5, 1.2),
        Clip("far", tmp_path / "a", "A", "", 0.5, 9.0),
        Clip("behind", tmp_path / "a", "A", "", 2.0, 2.5),
        Clip("", tmp_path / "a", "A"),
    ]
    utterances, failures = layouts.measure_durations(items)
    assert {u.id: (u.start_s, u.end_s, u.duration_s) for u in utterances} == {
        "whole": (0.0, None, 0.9),
        "inside": (0.1, 0.4, pytest.approx(0.3)),
        "over": (0.5, 0.9, pytest.approx(0.4)),
    }
    assert failures.keys() == {"far", "behind", ""}
    assert "it lasts 0.90 s" in failures["far"]


def test_audio_is_found_by_stem(tmp_path: Path) -> None:
    for name in ("a.flac", "b.v2.wav"):
        soundfile.write(tmp_path / name, tones("A"), 8000)
    assert layouts.find_audio(tmp_path / "a") == layouts.find_audio(tmp_path / "a.wav") == tmp_path / "a.flac"
    assert layouts.find_audio(tmp_path / "b.v2") == tmp_path / "b.v2.wav"
    with pytest.raises(AudioError, match="c: no audio file of this name"):
        layouts.find_audio(tmp_path / "c")


def test_tables_and_their_faults(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a x  y\nb\tz\nc\n")
    assert read_table(tmp_path / "t") == {"a": "x  y", "b": "z", "c": ""}
    (tmp_path / "t").write_text("a x\na y\n")
    with pytest.raises(ManifestError, match="t: 'a' is there twice"):
        read_table(tmp_path / "t")
    with pytest.raises(ManifestError, match=r"two: nothing for 'b' \(and 1 more\)"):
        same_keys(tmp_path, one={"a": 1, "b": 2, "c": 3}, two={"a": 1})
    with pytest.raises(AsrError, match="cannot read"):
        read_lines(tmp_path / "gone")


def test_sets_by_checksum_are_stable_and_keep_speakers_together() -> None:
    items = [Clip(f"u{i}", Path("x"), "A", f"s{i % 50}") for i in range(500)]
    sets = layouts.by_name(items, {"train": 0.8, "test": 0.2})
    fewer = layouts.by_name(items[:100], {"train": 0.8, "test": 0.2})
    assert {i.speaker for i in fewer["test"]} <= {i.speaker for i in sets["test"]}
    assert not {i.speaker for i in sets["train"]} & {i.speaker for i in sets["test"]}
    assert 0.05 < len(sets["test"]) / 500 < 0.4
