"""Preflight: each fault is found, named with its utterance, and hides no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.cli import main
from asr.config.sections import Config, TextConfig
from asr.config.training_sections import AugmentConfig, DataConfig
from asr.data import findings, preflight
from asr.errors import ConfigError, ManifestError

Bursts = Callable[..., np.ndarray]
RATE_HZ = 16000


class Corpus:
    """A folder of recordings with a manifest, line by line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "m.jsonl"
        self.lines: list[str] = []

    def add(self, name: str, samples: Any = None, text: str = "ABC", **record: Any) -> None:
        if samples is not None:
            soundfile.write(self.folder / f"{name}.wav", samples, RATE_HZ, subtype="PCM_16")
            record = {"duration_s": len(samples) / RATE_HZ, **record}
        line = {"id": name, "audio": f"{name}.wav", "text": text, "duration_s": 1.0, **record}
        self.lines.append(json.dumps(line))

    def check(self, *args: Any, **options: Any) -> findings.CheckReport:
        self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return preflight.check_manifest(self.path, *args, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def found(report: findings.CheckReport) -> set[tuple[str, str]]:
    return {(finding.kind, finding.id) for finding in report.findings}


def faulty(corpus: Corpus, bursts: Bursts) -> set[tuple[str, str]]:
    """A manifest with one of nearly every fault between good utterances; what should be found in it."""
    corpus.add("good", bursts(1, 1))
    corpus.lines.append('{"id": "cut')
    corpus.add("gone")
    corpus.add("good", text="CBA", audio="other.wav")
    soundfile.write(corpus.folder / "other.wav", bursts(1, 2), RATE_HZ)
    (corpus.folder / "noise.wav").write_bytes(b"RIFF but not really")
    corpus.add("noise")
    corpus.add("dead", 1e-4 * bursts(1, 3))
    corpus.add("quiet", np.zeros(RATE_HZ), text="")
    corpus.add("loud", np.clip(8 * bursts(1, 4), -0.7, 0.7))
    corpus.add("twin", bursts(1, 1))
    corpus.add("liar", bursts(1, 1), text="CAB")
    corpus.add("long", bursts(1, 5), duration_s=1.5)
    corpus.add("strange", bursts(1, 6), text="A~B")
    corpus.add("full", bursts(1, 7), text="ABC" * 9)
    corpus.add("blink", bursts(0.02, 8), text="A")
    corpus.add("last", bursts(1, 9))
    return {
        ("bad_line", ""), ("unreadable", "gone"), ("duplicate_id", "good"), ("unreadable", "noise"),
        ("silent", "dead"), ("clipped", "loud"), ("duplicate_audio", "twin"), ("conflicting_text", "liar"),
        ("wrong_duration", "long"), ("unknown_character", "strange"), ("label_misfit", "full"),
        ("label_misfit", "blink"),
    }  # fmt: skip


CONFIG = Config(text=TextConfig(alphabet="ABC"))


@pytest.mark.parametrize("workers", [1, 4])
def test_every_fault_is_found_and_nothing_else(corpus: Corpus, bursts: Bursts, workers: int) -> None:
    expected = faulty(corpus, bursts)
    report = corpus.check(CONFIG, workers=workers)
    assert found(report) - {("speaking_rate", "full"), ("speaking_rate", "blink")} == expected
    assert report.utterances == 14


@pytest.mark.parametrize("workers", [1, 4])
def test_faults_have_their_lines_in_order(corpus: Corpus, bursts: Bursts, workers: int) -> None:
    faulty(corpus, bursts)
    report = corpus.check(CONFIG, workers=workers)
    assert [finding.line for finding in report.findings] == sorted(finding.line for finding in report.findings)
    assert next(finding.line for finding in report.findings if finding.kind == "bad_line") == 2


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("duplicate_id", "good", "already the id of line 1"),
        ("wrong_duration", "long", "duration_s is 1.5, the audio lasts 1.000 s"),
        ("unknown_character", "strange", "'~'"),
        ("conflicting_text", "liar", "line 1, good"),
        ("unreadable", "noise", "noise.wav"),
    ],
)
def test_the_message_of_a_fault_says_what_is_wrong(
    corpus: Corpus, bursts: Bursts, kind: str, name: str, part: str
) -> None:
    faulty(corpus, bursts)
    report = corpus.check(CONFIG, workers=1)
    (message,) = [f.message for f in report.findings if (f.kind, f.id) == (kind, name)]
    assert part in message


def test_labels_fit_exactly_or_not(corpus: Corpus, bursts: Bursts) -> None:
    """1 s gives 98 frames and 25 outputs at subsampling 4; at speed 1.1, 89 frames and 23."""
    corpus.add("fits", bursts(1, 1), text="AB" * 11 + "A")
    corpus.add("tight", bursts(1, 2), text="AB" * 12)
    corpus.add("repeat", bursts(1, 3), text="A" * 13)  # 13 tokens and 12 blanks between them
    corpus.add("over", bursts(1, 4), text="AB" * 13)
    assert found(corpus.check(CONFIG)) == {
        ("label_tight", "tight"),
        ("label_tight", "repeat"),
        ("label_misfit", "over"),
    }
    slow = Config(text=TextConfig(alphabet="AB"), augment=AugmentConfig(speeds=(1.0,)))
    assert found(corpus.check(slow)) == {("label_misfit", "over")}


def test_the_measured_duration_decides_what_fits(corpus: Corpus, bursts: Bursts) -> None:
    corpus.add("short", bursts(0.5, 1), text="ABC" * 6, duration_s=2.0)
    assert found(corpus.check(CONFIG)) == {("wrong_duration", "short"), ("label_misfit", "short")}


def test_segments_are_measured_in_one_pass_over_their_recording(
    corpus: Corpus, bursts: Bursts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asr.audio import read, sound_files

    monkeypatch.setattr(sound_files, "_BLOCK_VALUES", 5000)  # so that segments straddle blocks
    samples = np.concatenate([bursts(2, 1), np.zeros(RATE_HZ), np.clip(9 * bursts(1, 2), -0.8, 0.8)])
    soundfile.write(corpus.folder / "talk.flac", samples, RATE_HZ)
    for name, start_s, end_s in (("a", 0.0, 1.0), ("again", 0.0, 1.0), ("b", 0.5, 2.0), ("hush", 2.0, 3.0),
                                 ("hot", 3.0, 4.0), ("past", 3.5, 4.5), ("beyond", 5.0, 6.0)):  # fmt: skip
        corpus.add(name, None, audio="talk.flac", start_s=start_s, end_s=end_s, duration_s=end_s - start_s)
    opened = []
    blocks = read.load_blocks
    monkeypatch.setattr(read, "load_blocks", lambda name, channel=None: opened.append(name) or blocks(name, channel))
    report = corpus.check(CONFIG)
    assert len(opened) == 1
    assert found(report) == {
        ("duplicate_audio", "again"), ("silent", "hush"), ("clipped", "hot"), ("clipped", "past"),
        ("wrong_duration", "past"), ("unreadable", "beyond"),
    }  # fmt: skip
    assert report.series["duration_s"] == pytest.approx([1, 1, 1.5, 1, 1, 0.5])
    expected = [20 * np.log10(np.std(samples[round(s * RATE_HZ) : round(e * RATE_HZ)])) for s, e in ((0, 1), (0.5, 2))]
    assert report.series["level_dbfs"][1:3] == pytest.approx(expected, abs=0.01)


def test_loud_sound_is_not_clipped_sound(corpus: Corpus, bursts: Bursts) -> None:
    samples = bursts(2, 1)
    corpus.add("normalised", samples / np.abs(samples).max() * 0.9999)
    corpus.add("offset", samples * 0.5 + 0.4)
    assert found(corpus.check(CONFIG)) == set()


def test_a_constant_offset_is_silence(corpus: Corpus) -> None:
    corpus.add("offset", np.full(RATE_HZ, 0.3))
    assert found(corpus.check(CONFIG)) == {("silent", "offset")}


def test_a_speaking_rate_unlike_the_others_is_a_warning(corpus: Corpus, bursts: Bursts) -> None:
    for index in range(12):
        corpus.add(f"u{index}", bursts(1 + index / 12, index), text="ABC" * (2 + index // 6))
    assert found(corpus.check(CONFIG)) == set()
    corpus.add("mumble", bursts(6, 50), text="A")
    report = corpus.check(CONFIG)
    assert found(report) == {("speaking_rate", "mumble")}
    assert (report.count(findings.ERROR), report.count(findings.WARNING)) == (0, 1)


def test_the_alphabet_is_that_of_the_training_set(corpus: Corpus, bursts: Bursts, tmp_path: Path) -> None:
    corpus.add("u", bursts(1, 1), text="ABX")
    assert found(corpus.check()) == set()
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"id": "t", "audio": "t.wav", "text": "ab", "duration_s": 1}))
    config = Config(data=DataConfig(train=str(train)))
    assert found(corpus.check(config)) == {("unknown_character", "u")}
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"id": "o", "audio": "o.wav", "text": "x", "duration_s": 1}))
    assert found(corpus.check(Config(data=DataConfig(train=str(train), more=(str(other),))))) == set()
    given = Config(data=DataConfig(train=str(train), more=("nowhere.jsonl",)), text=TextConfig(alphabet="ABX"))
    assert found(corpus.check(given)) == set()
    train.unlink()
    with pytest.raises(ConfigError, match=r"train\.jsonl.*set text\.alphabet"):
        corpus.check(config)


def test_half_a_surrogate_pair_is_an_unknown_character(corpus: Corpus, bursts: Bursts) -> None:
    corpus.add("half", bursts(1, 1), text="A\ud83d")
    corpus.add("whole", bursts(1, 2), text="AB")
    report = corpus.check()
    assert found(report) == {("unknown_character", "half")}
    assert report.summary()


def test_an_empty_manifest_cannot_be_checked(corpus: Corpus) -> None:
    with pytest.raises(ManifestError, match="got no utterance"):
        corpus.check()


def test_command_line(corpus: Corpus, bursts: Bursts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty(corpus, bursts)
    corpus.check(CONFIG)
    conf, out, png = tmp_path / "c.yaml", tmp_path / "o.json", tmp_path / "$o$.png"
    conf.write_text("text: {alphabet: ABC}\n")
    args = ["check", corpus.path, "--config", conf, "--json", out, "--plot", png]
    assert main.run_command([str(a) for a in args]) == 1
    shown = capsys.readouterr().out
    assert "error: unreadable audio: 2" in shown
    assert "line 3, gone: " in shown
    tree = json.loads(out.read_text())
    assert tree["counts"]["duplicate_audio"] == 1
    assert len(tree["findings"]) == tree["errors"] + tree["warnings"] == sum(tree["counts"].values())
    assert {"kind", "severity", "id", "line", "message"} == set(tree["findings"][0])
    assert png.read_bytes().startswith(b"\x89PNG")


def test_exit_status_of_clean_and_of_impossible(corpus: Corpus, bursts: Bursts, tmp_path: Path) -> None:
    corpus.add("u", bursts(1, 1))
    corpus.add("twin", bursts(1, 1))
    corpus.check()
    assert main.run_command(["check", str(corpus.path)]) == 0  # warnings alone are no failure
    assert main.run_command(["check", str(tmp_path / "none.jsonl")]) == 2
    assert main.run_command(["check", str(corpus.path), "--json", str(tmp_path / "no" / "o.json")]) == 2


def test_root_is_kept(corpus: Corpus, bursts: Bursts, tmp_path: Path) -> None:
    corpus.add("out", None, audio="/etc/passwd")
    corpus.add("in", bursts(1, 1))
    report = corpus.check(root=tmp_path)
    assert found(report) == {("bad_line", "")}
    assert "outside the root" in report.findings[0].message


def test_missing_matplotlib_is_named_before_the_work(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main.run_command(["check", str(tmp_path / "none.jsonl"), "--plot", str(tmp_path / "o.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_nothing_readable_can_still_be_drawn(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add("gone", text="")
    findings.draw_findings(corpus.check(), tmp_path / "o.png")
    assert (tmp_path / "o.png").stat().st_size > 0


def test_the_channels_of_a_recording_are_not_the_same_audio(corpus: Corpus, bursts: Bursts) -> None:
    """And each is measured by itself: one is silent here, and one is not there."""
    corpus.add("left", np.stack([bursts(1, 1), np.zeros(RATE_HZ)], axis=1), text="AB", channel=0)
    for channel in (1, 2):
        corpus.add(f"right{channel}", text="CA", audio="left.wav", channel=channel)
    assert found(corpus.check(CONFIG)) == {("silent", "right1"), ("unreadable", "right2")}


def test_without_a_configuration_misfits_are_those_of_the_default_model(corpus: Corpus, bursts: Bursts) -> None:
    """They are no errors of the manifest, and the summary says whose they are."""
    corpus.add("dense", bursts(1, 1), text="ABCDEFGH" * 4)
    report = corpus.check()
    assert found(report) == {("label_misfit", "dense")}
    assert report.count(findings.ERROR) == 0
    assert "warning: labels that cannot fit their frames (of the default model: no --config): 1" in report.summary()
    assert [finding["severity"] for finding in report.to_dict()["findings"]] == ["warning"]
    assert corpus.check(Config()).count(findings.ERROR) == 1
