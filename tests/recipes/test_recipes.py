"""Every recipe, on a small corpus made up in its raw layout; and, where ASR_DATA holds some of it, on the real one."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from recipe import RECIPES, load_recipe

from asr.cli import main
from asr.config import loader, sections
from asr.config.language import LanguageConfig
from asr.corpora.recipe import STATUSES, load_corpus, recipes, run_recipe
from asr.data import manifest
from asr.errors import ConfigError

NAMES = sorted(path.parent.name for path in RECIPES.glob("*/corpus.yaml"))
Prepare = Callable[..., dict[str, list[manifest.Utterance]]]


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def sound(path: Path, seconds: float = 0.5, rate: int = 16000, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(path.name)).normal(0, 0.1, round(seconds * rate))
    soundfile.write(path, samples, rate, **options)


def run(name: str, *args: str | Path) -> int:
    recipe = load_recipe(name)
    options = {key: getattr(recipe, key) for key in ("contents", "add_arguments") if hasattr(recipe, key)}
    return run_recipe(str(RECIPES / name / "prepare.py"), recipe.read, argv=[*map(str, args)], **options)


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """``prepare(name, source, …)``: the manifests by name, of a recipe that must succeed."""

    def call(name: str, source: Path, *args: str | Path, status: int = 0) -> dict[str, list[manifest.Utterance]]:
        out = tmp_path / "out"
        assert run(name, "--source", source, *args, out) == status
        found = {p.relative_to(out).with_suffix("").as_posix(): manifest.read_manifest(p) for p in out.rglob("*.jsonl")}
        figures = json.loads((out / "statistics.json").read_text())
        assert {key: value["utterances"] for key, value in figures.items()} == {k: len(v) for k, v in found.items()}
        for utterances in found.values():
            assert len({u.id for u in utterances}) == len(utterances)
            for u in utterances:
                info = soundfile.info(u.audio)
                assert u.start_s + u.duration_s == pytest.approx(u.end_s or info.frames / info.samplerate, abs=0.03)
        return found

    return call


def texts(utterances: list[manifest.Utterance]) -> dict[str, tuple[str, str]]:
    return {u.id: (u.text, u.speaker) for u in utterances}


def apart(*sets: list[manifest.Utterance]) -> None:
    """No speaker is in two of the sets."""
    speakers = [{u.speaker for u in utterances} for utterances in sets]
    assert all(not a & b for i, a in enumerate(speakers) for b in speakers[:i])


def librispeech(folder: Path, *subsets: str) -> None:
    for subset in subsets:
        number = sum(map(ord, subset))
        for chapter in (1, 2):
            stem = folder / subset / str(number) / str(chapter) / f"{number}-{chapter}"
            write(stem.with_name(f"{stem.name}.trans.txt"), f"{stem.name}-0000 HE SAID\n{stem.name}-0001 IT'S SO\n")
            for index in range(2):
                sound(stem.with_name(f"{stem.name}-000{index}.flac"))


def test_librispeech(prepare: Prepare, tmp_path: Path) -> None:
    librispeech(tmp_path / "LibriSpeech", "train-clean-100", "train-other-500", "dev-clean", "test-other")
    found = prepare("librispeech", tmp_path)
    assert set(found) == {"train-clean-100", "train-other-500", "dev-clean", "test-other", "train"}
    assert len(found["train"]) == 8
    assert {u.text for u in found["train"]} == {"HE SAID", "IT'S SO"}
    assert all(u.id.startswith(f"{u.speaker}-") for u in found["train"])
    apart(found["train"], found["dev-clean"], found["test-other"])


def test_librispeech_held_out(prepare: Prepare, tmp_path: Path) -> None:
    librispeech(tmp_path / "LibriSpeech", "train-clean-100", "train-other-500")
    speaker = next((tmp_path / "LibriSpeech" / "train-clean-100").iterdir()).name
    found = prepare("librispeech", tmp_path, "--held-out", speaker)
    assert {u.speaker for u in found["held_out"]} == {speaker}
    apart(found["train"], found["held_out"])


def test_mini_librispeech(prepare: Prepare, tmp_path: Path) -> None:
    librispeech(tmp_path / "LibriSpeech", "train-clean-5", "dev-clean-2")
    found = prepare("mini_librispeech", tmp_path)
    assert {name: len(utterances) for name, utterances in found.items()} == {"train": 4, "valid": 4}
    apart(found["train"], found["valid"])


def test_ljspeech(prepare: Prepare, tmp_path: Path) -> None:
    lines = [f"LJ001-{i:04}|Mr. No. {i}, he said.|Mister Number {i}, he said." for i in range(40)]
    write(tmp_path / "LJSpeech-1.1" / "metadata.csv", "\n".join(lines))
    for line in lines:
        sound(tmp_path / "LJSpeech-1.1" / "wavs" / f"{line.split('|')[0]}.wav", 0.2, 22050)
    found = prepare("ljspeech", tmp_path)
    assert sum(map(len, found.values())) == 40
    assert {u.speaker for u in found["train"]} == {"LJ"}
    everything = {u.id: u.text for utterances in found.values() for u in utterances}
    assert everything["LJ001-0021"] == "Mister Number twenty one he said"


@pytest.mark.parametrize("version", ["0.80", "0.92"])
def test_vctk(prepare: Prepare, tmp_path: Path, version: str) -> None:
    for speaker in (f"p{n}" for n in range(225, 255)):
        for index in range(3):
            name = f"{speaker}_{index:03}"
            write(tmp_path / "VCTK" / "txt" / speaker / f"{name}.txt", f"Please call Stella, no. {index}.\n")
            old = tmp_path / "VCTK" / "wav48" / speaker / f"{name}.wav"
            new = tmp_path / "VCTK" / "wav48_silence_trimmed" / speaker / f"{name}_mic1.flac"
            sound(old if version == "0.80" else new, 0.1, 48000)
    found = prepare("vctk", tmp_path)
    apart(found["train"], found["valid"], found["test"])
    assert len(found["train"]) + len(found["valid"]) + len(found["test"]) == 90
    own = found["speaker/p225/train"] + found.get("speaker/p225/test", [])
    assert sorted(u.id for u in own) == ["p225_000", "p225_001", "p225_002"]
    assert texts(own)["p225_001"] == ("Please call Stella number one", "p225")


def test_common_voice(prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cv-corpus-17.0" / "de"
    head = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
    rows = {
        "train": [('„Ja", sagte er – 21 Mal.', "a" * 64), ('Ein " allein', "b" * 64)],
        "dev": [("Über den Fluss", "c" * 64)],
        "test": [("Es kostet 3,5 Taler.", "d" * 64)],
    }
    for name, sentences in rows.items():
        lines = []
        for index, (sentence, client) in enumerate(sentences):
            clip = f"common_voice_de_{name}{index}.mp3"
            lines.append(f"{client}\t{clip}\tx\t{sentence}\t2\n")
            sound(folder / "clips" / clip, 1.0, 32000)
        write(folder / f"{name}.tsv", head + "".join(lines))
    found = prepare("common_voice", tmp_path, "--language", "de")
    train = texts(found["train"])
    assert train["common_voice_de_train0"] == ("Ja sagte er einundzwanzig Mal", "a" * 16)
    assert train["common_voice_de_train1"][0] == "Ein allein"
    assert found["valid"][0].text == "Über den Fluss"
    assert found["test"][0].text == "Es kostet drei Komma fünf Taler"
    assert capsys.readouterr().err == ""


def test_common_voice_names_what_it_cannot_spell(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cv" / "xx"
    sound(folder / "clips" / "1.mp3", 1.0)
    sound(folder / "clips" / "2.mp3", 1.0)
    sound(folder / "clips" / "3.mp3", 1.0)
    rows = "a\t1.mp3\tx 17 y\nb\t2.mp3\tx y\nc\t3.mp3\tx $3.50\n"
    write(folder / "test.tsv", f"client_id\tpath\tsentence\n{rows}")
    found = prepare("common_voice", tmp_path, "--language", "xx")
    assert [u.id for u in found["test"]] == ["2"]
    printed = capsys.readouterr().err
    assert "1: left out: cannot spell the number '17'" in printed
    assert "3: left out: cannot tell how '$3.50' is said" in printed


STM = """;; a comment
Talk_2010 1 Talk_2010 0.10 0.60 <o,f0,female> and so <unk> what 's that {NOISE}
Talk_2010 1 inter_segment_gap 0.60 0.80 <o,,unknown> ignore_time_segment_in_scoring
Talk_2010 1 Talk_2010 0.80 2.20 <o,f0,female> the(2) end
"""


def test_tedlium3(prepare: Prepare, tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        folder = tmp_path / "TEDLIUM_release-3" / "legacy" / part
        write(folder / "stm" / "Talk_2010.stm", STM.split("\n", 1)[1].replace("Talk", f"Talk{part}"))
        sound(folder / "sph" / f"Talk{part}_2010.sph", 2.0, format="NIST", subtype="PCM_16")
        (folder / "stm" / "Talk_2010.stm").rename(folder / "stm" / f"Talk{part}_2010.stm")
    found = prepare("tedlium3", tmp_path)
    assert set(found) == {"train", "valid", "test"}
    first, last = found["valid"]
    assert (first.text, first.start_s, first.end_s) == ("and so what's that", 0.1, 0.6)
    # What reaches a little beyond the recording is cut there.
    assert (last.text, last.start_s, last.end_s) == ("the end", 0.8, 2.0)


def test_tedlium3_names_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "T" / "legacy" / "train" / "stm" / "a.stm", "a 1 a zero 1 <x> text\n")
    assert run("tedlium3", "--source", tmp_path, tmp_path / "out") == 2
    assert "a.stm:1: expected 'talk 1 speaker start end" in capsys.readouterr().err


def test_voxforge(prepare: Prepare, tmp_path: Path) -> None:
    for index in range(60):
        name = f"user{index}-20080318-kdl" if index else "anonymous-20080318-kdl"
        write(tmp_path / "vf" / name / "etc" / "PROMPTS", f"{name}/mfc/b0019 HE WAS A MEMBER - OF\n{name}/mfc/b2 IT\n")
        for stem in ("b0019", "b2"):
            sound(
                tmp_path / "vf" / name / ("wav" if index % 2 else "flac") / f"{stem}.{'wav' if index % 2 else 'flac'}",
                0.1,
            )
    found = prepare("voxforge", tmp_path)
    apart(found["train"], found["valid"], found["test"])
    everything = texts([u for utterances in found.values() for u in utterances])
    assert len(everything) == 120
    assert everything["user1-20080318-kdl-b0019"] == ("HE WAS A MEMBER OF", "user1")
    assert everything["anonymous-20080318-kdl-b2"] == ("IT", "anonymous-20080318-kdl")


def test_speech_commands(prepare: Prepare, tmp_path: Path) -> None:
    names = ["bed/0c40e715_nohash_0.wav", "bed/00f0204f_nohash_0.wav", "yes/1234abcd_nohash_1.wav"]
    for name in (*names, "_background_noise_/white_noise.wav"):
        sound(tmp_path / "speech_commands" / name, 1.0)
    write(tmp_path / "speech_commands" / "testing_list.txt", names[0] + "\n")
    write(tmp_path / "speech_commands" / "validation_list.txt", names[1] + "\n")
    found = prepare("speech_commands", tmp_path)
    assert {name: list(texts(u).values()) for name, u in found.items()} == {
        "train": [("yes", "1234abcd")],
        "valid": [("bed", "00f0204f")],
        "test": [("bed", "0c40e715")],
    }


def test_yesno(prepare: Prepare, tmp_path: Path) -> None:
    names = ["0_0_0_0_1_1_1_1", "0_1_0_0_0_1_1_0", "1_0_0_0_0_0_0_0", "1_1_1_1_1_1_1_1"]
    for name in names:
        sound(tmp_path / "waves_yesno" / f"{name}.wav", 4.0, 8000)
    found = prepare("yesno", tmp_path)
    assert [u.id for u in found["train"]] == names[:2]
    assert found["test"][0].text == "YES NO NO NO NO NO NO NO"


PHONES = ["h#", "sh", "ix", "hv", "eh", "dcl", "q", "pau", "ao"]
PHN = "".join(f"{at} {at + 500} {phone}\n" for at, phone in enumerate(PHONES))


@pytest.mark.parametrize("upper", [True, False])
def test_timit(prepare: Prepare, tmp_path: Path, upper: bool) -> None:
    case = str.upper if upper else str.lower
    for part, dialect, speaker in (
        ("train", "dr1", "fcjf0"), ("test", "dr1", "mdab0"), ("test", "dr1", "faks0"), ("test", "dr2", "fzzz0"),
    ):  # fmt: skip
        for sentence in ("sa1", "si1027", "sx37"):
            stem = tmp_path / case("timit") / case(part) / case(dialect) / case(speaker) / case(sentence)
            write(stem.with_suffix(case(".phn")), PHN)
            sound(stem.with_suffix(case(".wav")), 1.0, format="NIST", subtype="PCM_16")
    found = prepare("timit", tmp_path)
    assert {name: sorted(texts(u)) for name, u in found.items()} == {
        "train": ["FCJF0-SI1027", "FCJF0-SX37"],
        "valid": ["FAKS0-SI1027", "FAKS0-SX37"],
        "test": ["MDAB0-SI1027", "MDAB0-SX37"],
    }
    assert {u.text for u in found["train"]} == {"sil sh ih hh eh sil aa"}


def test_timit_folds_61_phones_to_39() -> None:
    recipe = load_recipe("timit")
    vowels = "iy ih eh ae ix ax ah uw ux uh ao aa ey ay oy aw ow er axr ax-h"
    others = "l el r w y m em n en nx ng eng v f dh th z s zh sh jh ch b p d dx t g k hh hv"
    closures = "bcl pcl dcl tcl gcl kcl q epi pau h#"
    phones = f"{vowels} {others} {closures}".split()
    assert len(phones) == 61
    assert len({recipe.FOLD.get(phone, phone) for phone in phones} - {""}) == 39
    assert len(set(recipe.CORE)) == 24
    assert len(set(recipe.DEVELOPMENT)) == 50
    assert not set(recipe.CORE) & set(recipe.DEVELOPMENT)


def test_wsj(prepare: Prepare, tmp_path: Path) -> None:
    dots = {
        "wsj0/transcrp/dots/si_tr_s/011/011c0200.dot": (
            "The sale of the *hotels* ,COMMA is Holiday's ~ (011c0201)\n[noise] -- Bad [bad_recording] (011c0202)\n"
        ),
        "wsj1/trans/wsj1/si_dt_20/4k0/4k0c0300.dot": "He <sp-> [cough] said .PERIOD twenty-one %PERCENT (4k0c0301)\n",
        "wsj0/transcrp/dots/si_et_20/440/440c0400.dot": "A. \\(see\\) it (440c0401)\n",
    }
    for path, text in dots.items():
        write(tmp_path / path, text)
    for stem in ("wsj0/si_tr_s/011/011c0201", "wsj0/si_tr_s/011/011c0202", "wsj1/si_dt_20/4k0/4k0c0301",
                 "wsj0/si_et_20/440/440c0401"):  # fmt: skip
        sound(tmp_path / f"{stem}.wav")
        write(tmp_path / f"{stem}.wv1", "compressed")
    found = prepare("wsj", tmp_path)
    assert {name: list(texts(u).values()) for name, u in found.items()} == {
        "train": [("THE SALE OF THE HOTELS COMMA IS HOLIDAY'S", "011")],
        "valid": [("HE SAID PERIOD TWENTY ONE PERCENT", "4k0")],
        "test": [("A SEE IT", "440")],
    }
    assert all(u.audio.endswith(".wav") for utterances in found.values() for u in utterances)


def test_aishell1(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "data_aishell"
    lines = []
    for part, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        key = f"BAC009{speaker}W0122"
        lines.append(f"{key} 而 对 楼市 成交\n")
        data = io.BytesIO()
        soundfile.write(data, np.zeros(8000), 16000, format="WAV")
        (folder / "wav").mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "wav" / f"{speaker}.tar.gz", "w:gz") as tar:
            for name in (key, f"BAC009{speaker}W9999"):  # the second has no transcript
                member = tarfile.TarInfo(f"{part}/{speaker}/{name}.wav")
                member.size = len(data.getvalue())
                tar.addfile(member, io.BytesIO(data.getvalue()))
    write(folder / "transcript" / "aishell_transcript_v0.8.txt", "".join(lines))
    for _ in range(2):  # again, from what is unpacked
        found = prepare("aishell1", tmp_path)
        assert {name: list(texts(u).values()) for name, u in found.items()} == {
            "train": [("而对楼市成交", "S0002")],
            "valid": [("而对楼市成交", "S0724")],
            "test": [("而对楼市成交", "S0764")],
        }
    assert not list((folder / "wav").glob("*.tar.gz"))


def test_mls(prepare: Prepare, tmp_path: Path) -> None:
    for part, speaker in (("train", "4800"), ("dev", "7"), ("test", "8")):
        key = f"{speaker}_10003_000000"
        write(tmp_path / "mls_polish" / part / "transcripts.txt", f"{key}\tja miałem wtedy\n")
        sound(
            tmp_path / "mls_polish" / part / "audio" / speaker / "10003" / f"{key}.opus",
            1.0,
            format="OGG",
            subtype="OPUS",
        )
    found = prepare("mls", tmp_path)
    assert texts(found["valid"]) == {"7_10003_000000": ("ja miałem wtedy", "7")}
    assert set(found) == {"train", "valid", "test"}


@pytest.fixture
def fsdd(prepare: Prepare, tmp_path: Path) -> dict[str, list[manifest.Utterance]]:
    """The sets of two speakers' digits."""
    for speaker in ("george", "lucas"):
        for digit in range(10):
            for index in range(12):
                sound(tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav", 0.2, 8000)
    return prepare("fsdd", tmp_path)


def test_fsdd(fsdd: dict[str, list[manifest.Utterance]]) -> None:
    assert len(fsdd["full"]) == 140
    assert {u.id.rsplit("_", 1)[1] for u in fsdd["test"]} == set("01234")
    assert {u.id.rsplit("_", 1)[1] for u in fsdd["valid"]} == set("56789")
    assert texts(fsdd["full"])["7_lucas_5"] == ("SEVEN", "lucas")


def test_fsdd_leaves_each_speaker_out_once(fsdd: dict[str, list[manifest.Utterance]]) -> None:
    assert {u.speaker for u in fsdd["leave/george/test"]} == {"george"}
    assert {u.speaker for u in fsdd["leave/george/train"]} == {"lucas"}


def test_connected_digits_of_fsdd_are_the_same_each_time(
    fsdd: dict[str, list[manifest.Utterance]], prepare: Prepare, tmp_path: Path
) -> None:
    strings = fsdd["connected/test"]
    assert len(strings) == 2 * load_recipe("fsdd").STRINGS["test"]
    assert all(3 <= len(u.text.split()) <= 7 for u in strings)
    again = {u.id: Path(u.audio).read_bytes() for u in strings}
    assert {u.id: Path(u.audio).read_bytes() for u in prepare("fsdd", tmp_path)["connected/test"]} == again


def test_speechocean762(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "speechocean762"
    for name, ages in (("train", {f"{n:04}": 7 for n in range(1, 13)}), ("test", {"0101": 8, "0102": 30})):
        for file, value in (
            ("text", "WE CALL IT"), ("wav.scp", "WAVE/SPEAKER{0}/{0}1.WAV"), ("utt2spk", "{0}"),
        ):  # fmt: skip
            write(folder / name / file, "".join(f"{s}1\t{value.format(s)}\n" for s in ages))
        write(folder / name / "spk2age", "".join(f"{s} {age}\n" for s, age in ages.items()))
        for speaker in ages:
            # Re-encoded, with another extension.
            path = folder / "WAVE" / f"SPEAKER{speaker}" / f"{speaker}1.opus"
            sound(path, 1.0, format="OGG", subtype="OPUS")
    found = prepare("speechocean762", tmp_path)
    assert [u.speaker for u in found["test_children"]] == ["0101"]
    assert [u.speaker for u in found["test_adults"]] == ["0102"]
    assert len(found["full"]) == 12
    assert len(found["valid"]) == 10
    apart(found["train"], found["valid"], found["test"])


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", NAMES)
def test_what_a_recipe_consists_of(name: str) -> None:
    """A short prepare.py, a description, a README with results, and configurations that fit its manifests."""
    folder = RECIPES / name
    described = load_corpus(folder)
    lines = (folder / "prepare.py").read_text().splitlines()
    assert len(lines) < 100
    readme = (folder / "README.md").read_text()
    assert f"recipes/{name}/prepare.py" in readme
    if described.status != "complete":
        assert STATUSES[described.status] in readme
    for kind in ("blstm", "lstm_stream"):
        loaded = sections.load_config(folder / "conf" / f"{kind}.yaml")
        assert loaded.model.bidirectional == (kind == "blstm")
        assert all(path.startswith(f"data/{name}/") for path in loaded.data.manifests)
        assert loaded.train.output.startswith(f"exp/{name}/")
    language = loader.read_yaml(LanguageConfig, folder / "conf" / "lm.yaml")
    assert language.data.train.startswith(f"data/{name}/")


def test_the_list_of_recipes() -> None:
    found = recipes(RECIPES)
    assert {"an4", "fsdd", "speechocean762", "librispeech", "ljspeech", "vctk", "common_voice", "timit"} <= set(found)
    assert all(c.hours > 0 and c.homepage.startswith("http") for c in found.values())


def test_a_folder_without_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected recipes"):
        recipes(tmp_path)


# ------------------------------------------------------------------------------------------------ on real speech

REAL = {
    "an4": ("an4_sphere.tar.gz", [], "test"),
    "fsdd": ("free-spoken-digit-dataset-1.0.10.tar.gz", [], "test"),
    "speechocean762": ("speechocean762", [], "test_adults"),
    "librispeech": ("LibriSpeech", ["--held-out", "27"], "held_out"),
    "ljspeech": ("LJSpeech-1.1", [], "test"),
    "vctk": ("VCTK-Corpus", [], "speaker/p239/test"),
}
"""Recipe: what ASR_DATA calls its source, arguments, and a set to evaluate on."""


def succeed(*command: object) -> None:
    """Run ``asr`` with this command line, which must succeed."""
    assert main.run_command([str(part) for part in command]) == 0, command


def adapt_to_a_list(test: Path, train: Path, conf: Path, small: Sequence[str]) -> None:
    """The recipe's last steps: two models judge a list of words together, label recordings, and learn from them."""
    said = {u.text for u in manifest.read_manifest(train)}
    Path("digits.txt").write_text("\n".join(sorted(said)))
    judges = ["--model", "exp/fsdd/blstm", "--also", "exp/fsdd/finetune_words", "--phrases", "digits.txt"]
    succeed("evaluate", test, *judges, "--speeds", "0.9,1,1.1", "--json", "report.json")
    assert {u["hypothesis"] for u in json.loads(Path("report.json").read_text())["utterances"]} <= said
    succeed("label", test, *judges, "--output", "data/mine.jsonl", "--least-confidence", "0")
    adapted = ["train.init=exp/fsdd/finetune_words", "data.train=data/mine.jsonl", "train.output=exp/fsdd/adapted"]
    succeed("train", conf, *small, *adapted)


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_trains_on_a_handful_of_real_utterances(
    asr_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """From the archive to a scored model by the recipe's own configurations: a small network, a few steps."""
    source, arguments, test_set = REAL[name]
    data = tmp_path / "data" / name
    status = run(name, "--source", asr_data(source), "--limit", "24", *arguments, data)
    assert status == (1 if name == "ljspeech" else 0)  # the metadata lists utterances that are not here
    monkeypatch.chdir(tmp_path)
    conf = RECIPES / name / "conf"
    common = ["train.epochs=3", "train.threads=1", "train.device=cpu"]
    small = [*common, "data.batch_s=3", "model.hidden=24", "model.layers=2", "model.channels=4"]
    train = next(p for p in ("train", "full") if (data / f"{p}.jsonl").exists())
    here = [f"data.train=data/{name}/{train}.jsonl", "data.valid=''"]
    if name == "an4":  # its configuration joins utterances from pieces
        cut = [sys.executable, RECIPES / name / "segment.py", data / f"{train}.jsonl", data / "segments.jsonl"]
        subprocess.run(cut, check=True)
    runs = [
        ("blstm", small),
        ("lstm_stream", [*small, f"train.teacher=exp/{name}/blstm"] if name != "fsdd" else small),
    ]
    if (conf / "phones.yaml").exists():  # without the other corpus that it goes with
        runs.append(("phones", [*small, "data.more=[]", "augment.splice=''"]))
    if name == "fsdd":
        runs.append(("finetune_words", [*small, f"train.init=exp/{name}/blstm"]))
    for config, options in runs:
        succeed("train", conf / f"{config}.yaml", *options, *here, f"train.output=exp/{name}/{config}")
        test = data / f"{test_set}.jsonl"
        succeed("evaluate", test, "--model", f"exp/{name}/{config}", "--json", "report.json")
        report = json.loads(Path("report.json").read_text())
        assert report["words"] > 0
        assert report["failures"] == {}
    if name == "fsdd":
        adapt_to_a_list(test, data / f"{train}.jsonl", conf / "finetune_words.yaml", small)
    succeed("train-lm", conf / "lm.yaml", "train.epochs=1", "model.hidden=16", *here)
    losses = [
        row for row in map(json.loads, Path(f"exp/{name}/blstm/log.jsonl").read_text().splitlines()) if "loss" in row
    ]
    assert losses
    assert all(np.isfinite(row["loss"]) for row in losses)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RECIPES.glob("*/steps.yaml")))
def test_the_steps_of_a_table_can_be_run(name: str) -> None:
    """Their commands are ones that this package has, with files that the recipe has."""
    for entry in yaml.safe_load((RECIPES / name / "steps.yaml").read_text()):
        words = shlex.split(entry["run"].replace("{data}", "/data").replace("{json}", "/out.json"))
        if words[0] == "python":
            assert (RECIPES.parent / words[1]).is_file()
            continue
        arguments = main.parse_arguments(words[1:])
        if words[1].startswith("train") and words[1] != "train-ngram":
            load = sections.load_config if words[1] == "train" else partial(loader.read_yaml, LanguageConfig)
            load(RECIPES.parent / arguments.config, arguments.overrides)
