"""Large ARPA files are converted once; what is kept is never out of date, and files of others stay."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from asr.decode import ngram_cache
from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.ngram import Ngram
from asr.decode.ngram_cache import cache_places, cached_tree, keep_tree, load_ngram
from asr.decode.ngram_file import load_origin, open_ngram, write_ngram
from asr.errors import DecodeError

ONE = Ngram(2, {("A",): (-1.0, -0.5), ("B",): (-2.0, 0.0), ("A", "B"): (-0.5, 0.0)})
TWO = Ngram(2, {("A",): (-1.5, -0.5), ("B",): (-2.0, 0.0), ("A", "B"): (-0.5, 0.0)})


@pytest.fixture
def arpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ngram_cache, "LARGE", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "lm").mkdir()
    write_arpa(ONE, tmp_path / "lm" / "a.arpa")
    return tmp_path / "lm" / "a.arpa"


@pytest.mark.usefixtures("compiled_search")
def test_a_large_file_is_converted_once_and_says_so(arpa: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_ngram(arpa)
    assert "converting the n-gram, once" in (said := capsys.readouterr().err)
    assert str(arpa) + ".safetensors" in said
    second = load_ngram(arpa)
    assert capsys.readouterr().err == ""
    assert first == second == read_arpa(arpa)
    assert second.kept is not None
    assert second.kept[0] == cache_places(arpa)[0]


def test_a_small_file_leaves_nothing_behind(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_cache, "LARGE", 10_000)
    assert load_ngram(arpa) == read_arpa(arpa)
    assert os.listdir(arpa.parent) == ["a.arpa"]


def test_a_changed_file_is_converted_anew_even_with_its_old_times(arpa: Path) -> None:
    load_ngram(arpa)
    times = arpa.stat()
    write_arpa(TWO, arpa.with_name("b"))
    assert arpa.with_name("b").stat().st_size == times.st_size
    arpa.with_name("b").replace(arpa)
    os.utime(arpa, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_ngram(arpa) == read_arpa(arpa)
    assert load_ngram(arpa).unigrams[0] == pytest.approx(-1.5)


@pytest.mark.usefixtures("compiled_search")
def test_a_copy_with_its_converted_file_is_known_by_its_checksum(
    arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_ngram(arpa)
    other = tmp_path / "other"
    other.mkdir()
    for file in (arpa, cache_places(arpa)[0]):
        (other / file.name).write_bytes(file.read_bytes())
    capsys.readouterr()
    assert load_ngram(other / arpa.name) == read_arpa(arpa)
    assert capsys.readouterr().err == ""


def test_a_damaged_converted_file_is_made_anew(arpa: Path) -> None:
    load_ngram(arpa)
    kept = cache_places(arpa)[0]
    kept.write_bytes(kept.read_bytes()[:-3])
    assert load_ngram(arpa) == read_arpa(arpa) == open_ngram(kept)


def test_files_of_others_stay(arpa: Path) -> None:
    beside, user = cache_places(arpa)
    write_ngram(beside, TWO)
    assert load_ngram(arpa) == read_arpa(arpa)
    assert open_ngram(beside) == TWO
    assert open_ngram(user) == read_arpa(arpa)


def test_foreign_tensors_stay(arpa: Path) -> None:
    beside, user = cache_places(arpa)
    safetensors.numpy.save_file({"x": np.zeros(3)}, beside)
    before = beside.read_bytes()
    load_ngram(arpa)
    assert beside.read_bytes() == before
    assert user.exists()


def test_where_nothing_can_be_written_a_note_says_so(
    arpa: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(place: Path, *_: object, **__: object) -> None:
        raise DecodeError(f"{place}: cannot write")

    monkeypatch.setattr(ngram_cache, "write_ngram", refuse)
    assert load_ngram(arpa) == read_arpa(arpa)
    assert "cannot be kept, and every start converts it anew; asr lm-convert" in capsys.readouterr().err


def test_the_users_folder_serves_where_the_file_lies_in_a_folder_that_cannot_be_written(
    arpa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ngram_cache.write_ngram

    def refuse(place: Path, ngram: Ngram, **options: object) -> None:
        if place.parent == arpa.parent:
            raise DecodeError(f"{place}: cannot write")
        write(place, ngram, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ngram_cache, "write_ngram", refuse)
    load_ngram(arpa)
    kept = load_ngram(arpa).kept
    assert kept is not None
    assert kept[0] == cache_places(arpa)[1]
    assert "arpa" in load_origin(cache_places(arpa)[1])


def _load(path: Path, start: object, results: object) -> None:
    ngram_cache.LARGE = 1
    start.wait()  # type: ignore[attr-defined]
    results.put(load_ngram(path).score(["A", "B"]))  # type: ignore[attr-defined]


def test_two_processes_that_convert_at_once_both_get_it(arpa: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of many threads may wait for ever
    start, results = context.Barrier(2), context.Queue()
    children = [context.Process(target=_load, args=(arpa, start, results)) for _ in range(2)]
    for child in children:
        child.start()
    scores = [results.get(timeout=300) for _ in children]
    for child in children:
        child.join(300)
    assert scores == [read_arpa(arpa).score(["A", "B"])] * 2
    assert sorted(os.listdir(arpa.parent)) == ["a.arpa", "a.arpa.safetensors"]


def test_a_tree_never_makes_an_old_ngram_look_new(arpa: Path) -> None:
    opened = load_ngram(arpa)
    write_arpa(TWO, arpa)
    load_ngram(arpa)  # another process converts the new file
    keep_tree(opened, "tokens", {"token": np.zeros(1, np.uint16)})
    assert load_ngram(arpa) == read_arpa(arpa) != opened


def test_a_user_without_a_home_has_the_place_beside_the_file(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id that has no entry
    assert cache_places(arpa) == [arpa.with_name("a.arpa.safetensors")]


# Trees of large lexicons


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ngram_cache, "MANY_WORDS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "asr" / "trees"


class Maker:
    """Makes a tree, and counts how often."""

    def __init__(self, value: int = 7) -> None:
        self.count, self.value = 0, value

    def __call__(self) -> dict[str, np.ndarray]:
        self.count += 1
        return {"token": np.array([self.value], np.uint16)}


def test_the_tree_of_a_large_lexicon_is_made_once(trees: Path) -> None:
    make = Maker()
    found = [cached_tree("letters", ONE, (), make) for _ in range(3)]
    assert make.count == 1
    assert [tree["token"].tolist() for tree in found if tree is not None] == [[7]] * 3


@pytest.mark.parametrize(
    ("fingerprint", "ngram", "lexicon"),
    [
        ("phones", ONE, ()),
        ("letters", Ngram(1, {("A",): (-1.0, 0.0), ("C",): (-2.0, 0.0)}), ()),
        ("letters", ONE, ("A",)),
        ("letters", None, ("A", "B")),
    ],
    ids=["tokens", "words", "lexicon", "no n-gram"],
)
def test_a_tree_of_other_words_or_tokens_is_another_one(
    trees: Path, fingerprint: str, ngram: Ngram | None, lexicon: tuple[str, ...]
) -> None:
    cached_tree("letters", ONE, (), Maker(7))
    found = cached_tree(fingerprint, ngram, lexicon, Maker(8))
    assert found is not None
    assert found["token"].tolist() == [8]


def test_small_lexicons_leave_nothing_behind(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_cache, "MANY_WORDS", 3)
    cached_tree("letters", ONE, (), Maker())
    assert not trees.exists()


def test_a_damaged_tree_is_made_anew(trees: Path) -> None:
    cached_tree("letters", ONE, (), Maker(7))
    (kept,) = trees.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    found = cached_tree("letters", ONE, (), Maker(8))
    assert found is not None
    assert found["token"].tolist() == [8]
    assert cached_tree("letters", ONE, (), Maker(9)) is not None
    assert sorted(trees.iterdir()) == [kept]


def test_where_a_tree_cannot_be_kept_it_is_made_each_time(trees: Path) -> None:
    trees.parent.parent.write_bytes(b"a file where the folder should be")
    make = Maker()
    for _ in range(2):
        assert cached_tree("letters", ONE, (), make) is not None
    assert make.count == 2
