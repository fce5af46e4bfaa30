"""The AN4 recipe, on a corpus made up in the raw layout and, where ASR_DATA holds it, on the real one."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from recipe import load_recipe

from asr.audio import read
from asr.corpora import download
from asr.corpora import recipe as recipe_module
from asr.corpora.recipe import load_corpus, run_recipe
from asr.data import manifest
from asr.errors import ManifestError

RECIPE = Path(__file__).parents[2] / "recipes" / "an4" / "prepare.py"
ARCHIVE = "an4_sphere.tar.gz"
SPEAKERS = {"train": ("fash", "fbbh", "mblb", "mjgm"), "test": ("fcaw", "mmxg")}
FOLDER = {"train": "an4_clstk", "test": "an4test_clstk"}
# As in the corpus: the training transcripts carry sentence marks, those of the test set do not.
FORM = {"train": "<s> {} </s> ({})", "test": "{} ({})"}
TEXTS = ("YES", "RUBOUT G M E F THREE NINE", "O'CLOCK ONE")

Prepare = Callable[..., int]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``an4`` of a small corpus in the raw layout: 12 training and 6 test utterances."""
    corpus = tmp_path_factory.mktemp("original") / "an4"
    (corpus / "etc").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for subset, speakers in SPEAKERS.items():
        fileids: list[str] = []
        transcription: list[str] = []
        for speaker in speakers:
            for number, text in enumerate(TEXTS):
                name = f"an{len(fileids)}-{speaker}-b"
                relative = f"{FOLDER[subset]}/{speaker}/{name}"
                path = corpus / "wav" / f"{relative}.sph"
                path.parent.mkdir(parents=True, exist_ok=True)
                samples = rng.normal(scale=0.1, size=4000 + 400 * number)
                soundfile.write(path, samples, 16000, format="NIST", subtype="PCM_16")
                fileids.append(relative)
                transcription.append(FORM[subset].format(text, name))
        (corpus / "etc" / f"an4_{subset}.fileids").write_text("\n".join(fileids) + "\n")
        (corpus / "etc" / f"an4_{subset}.transcription").write_text("\n".join(reversed(transcription)) + "\n")
    return corpus


@pytest.fixture
def recipe() -> ModuleType:
    return load_recipe("an4")


@pytest.fixture
def prepare(recipe: ModuleType, original: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """``prepare(OUT, …)`` runs the recipe with these arguments, expecting the small corpus."""
    names = [p.relative_to(original).as_posix() for p in original.rglob("*") if p.is_file()]
    known = load_corpus(RECIPE.parent)
    small = dataclasses.replace(
        known, utterances={"train": 12, "test": 6}, content_sha256=download.digest(original, names)
    )
    monkeypatch.setattr(recipe_module, "load_corpus", lambda folder: small)

    def run(*args: str | Path) -> int:
        argv = ["--valid-speakers", "1", *map(str, args)]
        return run_recipe(str(RECIPE), recipe.read, contents=recipe.contents, argv=argv)

    return run


@pytest.fixture
def corpus(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "corpus" / "an4"))


def pack(corpus: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(corpus, "an4")
    return path


def check(out: Path, total: int) -> dict[str, list[manifest.Utterance]]:
    """The three manifests: whole, disjoint, and of audio that is there and as long as they say."""
    sets = {name: manifest.read_manifest(out / f"{name}.jsonl") for name in ("train", "valid", "test")}
    full = manifest.read_manifest(out / "full.jsonl")
    assert sorted(full, key=lambda u: u.id) == sorted(sets["train"] + sets["valid"], key=lambda u: u.id)
    assert len(sets["train"]) + len(sets["valid"]) == total
    speakers = {name: {u.speaker for u in utterances} for name, utterances in sets.items()}
    assert all(speakers.values())
    assert not speakers["train"] & speakers["valid"]
    assert not (speakers["train"] | speakers["valid"]) & speakers["test"]
    everything = [u for utterances in sets.values() for u in utterances]
    assert len({u.id for u in everything}) == len({u.audio for u in everything}) == len(everything)
    for u in everything[:: max(1, len(everything) // 40)]:
        assert u.duration_s == len(read.load_audio(u.audio)) / 16000
    return sets


Prepared = tuple[Path, dict[str, list[manifest.Utterance]]]


@pytest.fixture
def prepared(prepare: Prepare, original: Path, tmp_path: Path) -> Prepared:
    """The folder made of an archive, and its sets."""
    assert prepare("--source", pack(original, tmp_path / ARCHIVE), tmp_path / "out") == 0
    return tmp_path / "out", check(tmp_path / "out", 12)


def test_archive_to_manifests(prepared: Prepared) -> None:
    _, sets = prepared
    assert len(sets["valid"]) == 3
    assert [(u.id, u.text) for u in sets["test"]] == [
        (f"an{3 * i + j}-{speaker}-b", text)
        for i, speaker in enumerate(SPEAKERS["test"])
        for j, text in enumerate(TEXTS)
    ]
    assert {u.text for u in sets["train"]} == set(TEXTS)
    assert sets["test"][1].duration_s == 4400 / 16000


def test_training_and_validation_share_the_speakers_of_the_training_part(prepared: Prepared) -> None:
    assert {u.speaker for u in prepared[1]["train"] + prepared[1]["valid"]} == set(SPEAKERS["train"])


def test_manifests_and_audio_can_be_moved_together(prepared: Prepared) -> None:
    assert '"audio": "raw/an4/wav/' in (prepared[0] / "test.jsonl").read_text()


def test_preparing_prints_a_line_for_each_manifest(
    prepare: Prepare, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("--source", original, tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [
        str(tmp_path / "out" / f"{name}.jsonl") for name in ("full", "train", "valid", "test")
    ]


def test_prepared_twice_is_the_same(prepare: Prepare, original: Path, tmp_path: Path) -> None:
    source = pack(original, tmp_path / ARCHIVE)
    assert prepare("--source", source, tmp_path / "out") == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    source.unlink()  # what is unpacked is taken
    assert prepare("--source", source, tmp_path / "out") == 0
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("layout", ["", ".."])
def test_a_folder_with_the_corpus(prepare: Prepare, original: Path, tmp_path: Path, layout: str) -> None:
    """``an4`` itself, or the folder that holds it; nothing is copied."""
    assert prepare("--source", original / layout, tmp_path / "out") == 0
    sets = check(tmp_path / "out", 12)
    assert all(Path(u.audio).resolve().is_relative_to(original) for u in sets["test"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "full.jsonl",
        "statistics.json",
        "test.jsonl",
        "train.jsonl",
        "valid.jsonl",
    ]


def test_download(prepare: Prepare, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack(original, tmp_path / ARCHIVE)
    urls: list[str] = []

    def fetch(url: str, target: Path, *, max_bytes: int, sha256: str | None) -> Path:
        urls.append(url)
        assert source.stat().st_size < max_bytes
        return Path(shutil.copy(source, target))

    monkeypatch.setattr(download, "fetch", fetch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ARCHIVE).write_bytes(b"left by something else")
    assert prepare(tmp_path / "out") == 0
    assert urls == [load_corpus(RECIPE.parent).archives[0].url]
    check(tmp_path / "out", 12)
    assert prepare(tmp_path / "out") == 0
    assert len(urls) == 1


def refused(prepare: Prepare, source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of its error; no manifest is written."""
    assert prepare("--source", source, out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not list(out.glob("*.jsonl"))
    return line


@pytest.mark.parametrize("name", ["etc/an4_test.transcription", "wav/an4_clstk/fash/an0-fash-b.sph"])
def test_changed_content(
    prepare: Prepare, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data = bytearray((corpus / name).read_bytes())
    data[-10] ^= 1
    (corpus / name).write_bytes(data)
    assert "SHA-256" in refused(prepare, corpus, tmp_path / "out", capsys)
    assert (corpus / name).is_file()


def test_a_refused_archive_does_not_stand_in_the_way(
    prepare: Prepare, original: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "etc" / "an4_test.transcription").write_text("")
    assert "SHA-256" in refused(prepare, pack(corpus, tmp_path / "bad.tar.gz"), tmp_path / "out", capsys)
    assert list((tmp_path / "out").iterdir()) == []
    assert prepare("--source", pack(original, tmp_path / ARCHIVE), tmp_path / "out") == 0


def test_an_unpacked_folder_that_was_there_before_is_kept(
    prepare: Prepare, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "etc" / "an4_test.transcription").write_text("")
    raw = tmp_path / "out" / "raw"
    raw.mkdir(parents=True)
    shutil.move(corpus, raw / "an4")
    assert "SHA-256" in refused(prepare, tmp_path / "unused.tar.gz", tmp_path / "out", capsys)
    assert (raw / "an4" / "etc").is_dir()


def test_missing_files(prepare: Prepare, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "wav" / "an4_clstk" / "fash" / "an0-fash-b.sph").unlink()
    assert "an0-fash-b.sph: cannot read" in refused(prepare, corpus, tmp_path / "out", capsys)
    fileids = corpus / "etc" / "an4_train.fileids"
    fileids.write_text("".join(fileids.read_text().splitlines(keepends=True)[1:]))
    assert "SHA-256" in refused(prepare, corpus, tmp_path / "out", capsys)
    (corpus / "etc" / "an4_test.fileids").unlink()
    assert "an4_test.fileids: cannot read" in refused(prepare, corpus, tmp_path / "out", capsys)
    shutil.rmtree(corpus / "etc")
    assert "expected a folder that holds etc/an4_train.fileids" in refused(prepare, corpus, tmp_path / "out", capsys)


def test_a_source_that_is_not_there(prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.tar.gz: cannot unpack" in refused(prepare, tmp_path / "gone.tar.gz", tmp_path / "out", capsys)


def test_an_archive_that_is_not_safe(
    prepare: Prepare, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pack(original, tmp_path / ARCHIVE)
    evil = tarfile.TarInfo("an4/../../../evil")
    evil.size = 4
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(original, "an4")
        tar.addfile(evil, io.BytesIO(b"evil"))
    assert "outside the target" in refused(prepare, tmp_path / "evil.tar", tmp_path / "out", capsys)
    source.write_bytes(source.read_bytes()[:-100])
    assert "cannot unpack" in refused(prepare, source, tmp_path / "out", capsys)
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_missing_transcript_is_named(recipe: ModuleType, corpus: Path) -> None:
    path = corpus / "etc" / "an4_test.transcription"
    lines = path.read_text().splitlines()
    gone = [line for line in lines if "(an4-mmxg-b)" in line]
    path.write_text("\n".join(line for line in lines if line not in gone))
    with pytest.raises(ManifestError, match=r"an4_test\.transcription: no transcript of .*an4-mmxg-b"):
        list(recipe.read_set(corpus, "test"))
    path.write_text(lines[0] + "\n\nYES no id\n")
    with pytest.raises(ManifestError, match=r"an4_test\.transcription:\d+: expected 'WORDS \(id\)'"):
        list(recipe.read_set(corpus, "test"))


@pytest.mark.parametrize(
    ("line", "text", "id"),
    [
        ("<s> YES </s> (an251-fash-b)", "YES", "an251-fash-b"),
        ("RUBOUT G M (an406-fcaw-b)", "RUBOUT G M", "an406-fcaw-b"),
        ("<s>  ONE TWO  </s>  (cen1-a)", "ONE TWO", "cen1-a"),
        ("<s> </s> (a)", "", "a"),
        ("(a)", "", "a"),
    ],
)
def test_transcript_lines(recipe: ModuleType, line: str, text: str, id: str) -> None:
    match = recipe.LINE.match(line)
    assert (match["text"], match["id"]) == (text, id)


@pytest.mark.parametrize("count", [0, 4, 5])
def test_held_out_speakers_that_leave_nothing(
    prepare: Prepare, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    assert prepare("--source", original, "--valid-speakers", str(count), tmp_path / "out") == 2
    assert f"expected 1 to 3 of 4, got {count}" in capsys.readouterr().err


def prepare_real(source: Path, folder: Path) -> dict[str, list[manifest.Utterance]]:
    """The sets of the corpus at ``source``."""
    recipe, argv = load_recipe("an4"), ["--source", str(source), str(folder)]
    assert run_recipe(str(RECIPE), recipe.read, contents=recipe.contents, argv=argv) == 0
    return {name: manifest.read_manifest(folder / f"{name}.jsonl") for name in ("train", "valid", "test")}


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The folder made of the real archive, and its sets."""
    archive = request.getfixturevalue("asr_data")(ARCHIVE)
    out = tmp_path_factory.mktemp("real") / "out"
    prepare_real(archive, out)
    return out, check(out, 948)


def test_the_real_corpus_has_its_773_test_words(real: Prepared) -> None:
    _, sets = real
    assert manifest.statistics(sets["test"]).words == 773
    assert len(sets["test"]) == 130


def test_the_real_corpus_has_its_84_speakers(real: Prepared) -> None:
    _, sets = real
    assert len({u.speaker for u in sets["train"] + sets["valid"]}) == 74
    assert len({u.speaker for u in sets["valid"]}) == load_corpus(RECIPE.parent).valid_speakers
    assert len({u.speaker for u in sets["test"]}) == 10


def test_texts_of_the_real_corpus_are_words_of_letters(real: Prepared) -> None:
    texts = [u.text for utterances in real[1].values() for u in utterances]
    assert set().union(*texts) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
    assert all(text == " ".join(text.split()) != "" for text in texts)


def test_known_texts_of_the_real_corpus(real: Prepared) -> None:
    texts = {u.id: u.text for utterances in real[1].values() for u in utterances}
    assert texts["an251-fash-b"] == "YES"
    assert texts["an406-fcaw-b"] == "RUBOUT G M E F THREE NINE"


def test_the_real_archive_and_its_folders_give_the_same_manifests(
    asr_data: Callable[[str], Path], real: Prepared, tmp_path: Path
) -> None:
    out, _ = real
    sets = prepare_real(asr_data(ARCHIVE), out)  # again, from what is unpacked
    for folder in (out / "raw", out / "raw" / "an4"):
        assert prepare_real(folder, tmp_path / "out2") == sets
