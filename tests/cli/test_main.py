"""The command line: what each command does, and what it says and returns when something is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asr
from asr import formats, transcript
from asr.cli import main
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AudioError, ConfigError
from asr.recognize import batch
from asr.recognize.recognizer import Recognizer

Bursts = Callable[..., np.ndarray]
Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

TORCHLESS = (
    "audio.read", "cli.main", "config.sections", "corpora.download", "corpora.unpack", "data.manifest", "decode",
    "errors", "scoring.wer", "text.tokenizer", "transcript",
)  # fmt: skip


def python(*args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *map(str, args)], capture_output=True, text=True, timeout=500, **options
    )


@pytest.fixture
def run(model_dir: Path) -> Callable[..., int]:
    """``asr transcribe`` in this process with the tiny model."""

    def transcribe(*args: str | Path) -> int:
        return main.run_command(["transcribe", *map(str, args), "--model", str(model_dir), "--device", "cpu"])

    return transcribe


@pytest.fixture
def files(tmp_path: Path, bursts: Bursts, write_wav: Write) -> list[Path]:
    """Three recordings in a folder and one below it."""
    folder = tmp_path / "in"
    names = ("b.wav", "a.wav", "deep/er/c.wav", "deep/a.b.wav")
    return [write_wav(folder / name, bursts(3, seed=i)) for i, name in enumerate(names)]


@pytest.fixture
def texts(recognizer: Recognizer, files: list[Path]) -> list[str]:
    texts = [recognizer.transcribe(path).text for path in files]
    assert all(texts)
    assert len(set(texts)) == len(texts)
    return texts


def outputs(folder: Path) -> list[str]:
    """Names of the transcripts in a folder, which always holds a summary and a record of what was written as well."""
    names = {path.name for path in folder.iterdir()}
    return sorted(names - {"summary.json", ".asr-transcripts.jsonl"})


def errors(capsys: Capture) -> list[str]:
    """Lines on stderr, each of which must be a message for people."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    return lines


# ------------------------------------------------------------------------------------------------ imports


def test_help_and_import_do_not_load_torch() -> None:
    """Starting torch takes seconds; none of these need it."""
    code = (
        "import sys, asr, asr.cli.main\n"
        "try: asr.cli.main.run_command(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print([m for m in ('torch', 'numpy', 'numba', 'librosa') if m in sys.modules])\n"
        f"for name in {TORCHLESS}: __import__(f'asr.{{name}}')\n"
        "print([m for m in ('torch', 'numba', 'librosa') if m in sys.modules])\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *printed, after_help, after_imports = done.stdout.splitlines()
    assert (after_help, after_imports) == ("[]", "[]")
    for command in ("transcribe", "train", "evaluate", "score", "info"):
        assert any(line.split()[:1] == [command] for line in printed), command


def test_public_names() -> None:
    assert asr.Transcript is transcript.Transcript
    assert asr.Recognizer is Recognizer
    assert {getattr(asr, name).__name__ for name in asr.__all__} == set(asr.__all__)
    assert {*asr.__all__, "__version__"} == set(dir(asr))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = asr.nonsense


@pytest.mark.parametrize("command", ["transcribe", "train", "evaluate", "score", "info"])
def test_help_of_each_command(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run_command([command, "--help"])
    assert stop.value.code == 0
    assert f"asr {command}" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run_command(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"asr {asr.__version__}"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["transcribe"],
        ["transcrib", "a.wav"],
        ["transcribe", "a.wav", "--format", "pdf"],
        ["transcribe", "a.wav", "--beam", "wide"],
        ["transcribe", "a.wav", "--beam", "0"],
        ["transcribe", "a.wav", "--formta", "txt", "b.wav"],
        ["evaluate"],
        ["evaluate", "m.jsonl", "--beam", "2", "n.jsonl"],
        ["score", "ref.txt"],
        ["info", "a", "b"],
    ],
)
def test_wrong_arguments(args: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run_command(args)
    assert stop.value.code == 2
    assert "usage: asr" in capsys.readouterr().err


def test_arguments_may_stand_behind_options() -> None:
    args = main.parse_arguments(["train", "conf.yaml", "--resume", "train.epochs=3", "model.layers=2"])
    assert (args.config, args.overrides, args.resume) == ("conf.yaml", ["train.epochs=3", "model.layers=2"], True)
    args = main.parse_arguments(["transcribe", "a.wav", "--format", "json", "b.wav", "--beam", "4", "-"])
    assert (args.inputs, args.format, args.beam) == (["a.wav", "b.wav", "-"], "json", 4)


def test_offered_formats_are_those_there_are() -> None:
    for name in formats.FORMATS:
        assert main.parse_arguments(["transcribe", "a.wav", "--format", name]).format == name
    (choices,) = {
        tuple(action.choices)
        for action in main.build_parser()._subparsers._group_actions[0].choices["transcribe"]._actions  # type: ignore
        if action.dest == "format"
    }
    assert choices == tuple(formats.FORMATS)


# ------------------------------------------------------------------------------------------------ transcribe


def test_one_file_to_stdout(run: Callable[..., int], files: list[Path], texts: list[str], capsys: Capture) -> None:
    assert run(files[0]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (texts[0] + "\n", "")


def test_several_files_are_named(run: Callable[..., int], files: list[Path], texts: list[str], capsys: Capture) -> None:
    assert run(*files[:3]) == 0
    assert capsys.readouterr().out == "".join(f"{f}: {t}\n" for f, t in zip(files[:3], texts[:3], strict=True))


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_every_format(
    run: Callable[..., int], recognizer: Recognizer, files: list[Path], tmp_path: Path, capsys: Capture, name: str
) -> None:
    assert run(files[0], "--format", name) == 0
    body = formats.FORMATS[name].write(recognizer.transcribe(files[0]))
    assert capsys.readouterr().out == body
    assert run(files[0], "--format", name, "--output-dir", tmp_path / "out") == 0
    assert (tmp_path / "out" / f"b{formats.FORMATS[name].suffix}").read_text(encoding="utf-8") == body
    assert capsys.readouterr().out == ""


def test_json_of_several_files_is_a_line_each(
    run: Callable[..., int], files: list[Path], texts: list[str], capsys: Capture
) -> None:
    assert run(*files, "--format", "json") == 0
    trees = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(t["source"], t["text"]) for t in trees] == [(str(f), t) for f, t in zip(files, texts, strict=True)]


def test_standard_input(
    run: Callable[..., int], files: list[Path], texts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(files[0].read_bytes())))
    assert run("-") == 0
    assert capsys.readouterr().out == texts[0] + "\n"


def test_standard_input_with_files_and_folder(
    run: Callable[..., int],
    files: list[Path],
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(files[0].read_bytes())))
    assert run("-", files[1], "--output-dir", tmp_path / "out") == 0
    assert (tmp_path / "out" / "stdin.txt").read_text() == texts[0] + "\n"
    assert (tmp_path / "out" / "a.txt").read_text() == texts[1] + "\n"


@pytest.mark.parametrize("content", [b"", b"no audio"])
def test_bad_standard_input(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Capture, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert run("-") == 1
    (line,) = errors(capsys)
    assert "standard input" in line


def test_folders_are_searched_in_depth(
    run: Callable[..., int], files: list[Path], texts: list[str], tmp_path: Path, capsys: Capture
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "notes.txt").write_text("no audio")
    (folder / ".hidden.wav").write_bytes(b"no audio")
    assert run(folder, "--output-dir", out) == 0
    written = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*.txt")}
    names = ("b.txt", "a.txt", "deep/er/c.txt", "deep/a.b.txt")
    assert written == {name: text + "\n" for name, text in zip(names, texts, strict=True)}
    assert run(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{f}: {t}" for f, t in sorted(zip(files, texts, strict=True))]


def test_a_folder_without_audio(run: Callable[..., int], files: list[Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", files[0]) == 1
    assert errors(capsys) == [f"error: {tmp_path / 'empty'}: no audio file in this folder"]


def test_a_folder_that_cannot_be_listed(
    run: Callable[..., int],
    files: list[Path],
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def refuse(folder: str, problems: list[str], archives: list[str]) -> list[Path]:
        raise AudioError(f"{folder}: expected a folder that can be listed: Permission denied")

    monkeypatch.setattr("asr.audio.find.find_audio_files", refuse)
    assert run(tmp_path, files[0]) == 1
    printed = capsys.readouterr()
    assert printed.out == texts[0] + "\n"
    assert printed.err == f"error: {tmp_path}: expected a folder that can be listed: Permission denied\n"


def test_bad_files_among_good_ones(
    run: Callable[..., int], files: list[Path], texts: list[str], tmp_path: Path, capsys: Capture
) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(files[0].read_bytes()[:1000])
    assert run(files[0], tmp_path / "gone.wav", files[1], cut, files[2]) == 1
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{f}: {t}\n" for f, t in zip(files[:3], texts[:3], strict=True))
    gone, damaged = printed.err.splitlines()
    assert gone == f"error: {tmp_path / 'gone.wav'}: no such file"
    assert damaged.startswith(f"error: {cut}: truncated")
    # The same with files for output: the good ones are there, the others leave nothing.
    assert run(files[0], tmp_path / "gone.wav", cut, "--output-dir", tmp_path / "out") == 1
    assert outputs(tmp_path / "out") == ["b.txt"]


def test_only_bad_files(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path / "gone.wav") == 1
    assert errors(capsys) == [f"error: {tmp_path / 'gone.wav'}: no such file"]


def test_outputs_that_would_collide(
    run: Callable[..., int], files: list[Path], write_wav: Write, tmp_path: Path, capsys: Capture
) -> None:
    other = write_wav(tmp_path / "other" / files[1].name, np.zeros(16000))
    assert run(files[1], other, "--output-dir", tmp_path / "out") == 2
    (line,) = errors(capsys)
    assert str(files[1]) in line
    assert str(other) in line
    assert "a.wav.txt" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitles_of_two_files_do_not_share_a_stream(
    run: Callable[..., int], files: list[Path], tmp_path: Path, capsys: Capture, name: str
) -> None:
    assert run(files[0], files[1], "--format", name) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--output-dir" in printed.err
    assert run(files[0], files[1], "--format", name, "--output-dir", tmp_path / "out") == 0
    assert outputs(tmp_path / "out") == [f"a.{name}", f"b.{name}"]


def test_an_output_folder_that_cannot_be_made(
    run: Callable[..., int], files: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    assert run(*files[:2], "--output-dir", tmp_path / "file" / "out") == 2
    (line,) = errors(capsys)
    assert f"{tmp_path / 'file' / 'out'}: cannot make the output folder" in line


def test_one_output_that_cannot_be_written(
    run: Callable[..., int], files: list[Path], texts: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "out" / "b.txt").mkdir(parents=True)
    assert run(*files[:2], "--output-dir", tmp_path / "out", "--force") == 1
    (line,) = errors(capsys)
    assert f"{files[0]}: {tmp_path / 'out' / 'b.txt'}: cannot write" in line
    assert (tmp_path / "out" / "a.txt").read_text() == texts[1] + "\n"
    assert outputs(tmp_path / "out") == ["a.txt", "b.txt"]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
def test_a_file_name_that_is_no_unicode(
    recognizer: Recognizer, files: list[Path], texts: list[str], tmp_path: Path
) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    Path(odd).write_bytes(files[0].read_bytes())
    for name in ("txt", "json", "ctm"):
        out = io.StringIO()
        assert batch.transcribe_files(recognizer, [odd, str(files[1])], format=name, out=out).failures == []
        body = out.getvalue().encode("utf-8").decode("utf-8")
        assert ("caf\\udce9 1 " if name == "ctm" else "caf\\udce9.wav") in body
    folder = tmp_path / "out"
    assert batch.transcribe_files(recognizer, [odd, str(files[1])], format="json", output_dir=folder).failures == []
    tree = json.loads((folder / os.fsdecode(b"caf\xe9.json")).read_text(encoding="utf-8"))
    assert (tree["source"], tree["text"]) == (odd, texts[0])


def test_the_progress_bar_keeps_out_of_the_text(
    recognizer: Recognizer, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    names = [str(path) for path in files]
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"out": Terminal()}, False),
        ({"out": io.StringIO()}, True),
        ({"output_dir": tmp_path / "out"}, True),
    ]
    for options, shown in cases:
        screen = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", screen)
            assert batch.transcribe_files(recognizer, names, **options).failures == []
        assert ("transcribing" in screen.getvalue()) == shown


def test_an_unknown_format_is_refused_by_the_library(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match="format: expected one of txt, json, srt, vtt, ctm, textgrid, got 'pdf'"):
        batch.transcribe_files(recognizer, ["a.wav"], format="pdf")


def test_an_unknown_model(files: list[Path], tmp_path: Path, capsys: Capture) -> None:
    for command in (["transcribe", str(files[0]), "--model"], ["evaluate", str(files[0]), "--model"], ["info"]):
        assert main.run_command([*command, str(tmp_path / "nowhere")]) == 2
        (line,) = errors(capsys)
        assert f"{tmp_path / 'nowhere'}: neither a model directory nor a bundled model" in line


@pytest.mark.parametrize(("option", "value"), [("--device", "gpu")])
def test_bad_options_of_the_recogniser(
    model_dir: Path, files: list[Path], capsys: Capture, option: str, value: str
) -> None:
    assert main.run_command(["transcribe", str(files[0]), "--model", str(model_dir), option, value]) == 2
    (line,) = errors(capsys)
    assert option.strip("-") in line
    assert value in line


def test_a_beam(model_dir: Path, files: list[Path], capsys: Capture) -> None:
    assert (
        main.run_command(["transcribe", str(files[0]), "--model", str(model_dir), "--device", "cpu", "--beam", "4"])
        == 0
    )
    assert capsys.readouterr().out == asr.load(model_dir, device="cpu", beam=4).transcribe(files[0]).text + "\n"


@pytest.mark.usefixtures("compiled_search")
def test_the_command_in_its_own_process(model_dir: Path, files: list[Path], texts: list[str], tmp_path: Path) -> None:
    """Once as a user runs it: streams, status and no traceback."""
    args = ["-m", "asr.cli", "transcribe", "-", str(tmp_path / "gone.wav"), "--model", str(model_dir)]
    with files[0].open("rb") as stdin:
        done = python(*args, stdin=stdin)
    assert done.returncode == 1
    assert done.stdout == f"standard input: {texts[0]}\n"
    assert done.stderr == f"error: {tmp_path / 'gone.wav'}: no such file\n"


# ------------------------------------------------------------------------------------------------ info, train


def test_info(model_dir: Path, capsys: Capture) -> None:
    assert main.run_command(["info", str(model_dir)]) == 0
    out = capsys.readouterr().out
    for fact in (str(model_dir), "1 x 24 bidirectional lstm", "16000 Hz", "80 mel bins", "tiny", "random weights"):
        assert fact in out


def test_info_of_a_damaged_model(model_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main.run_command(["info", str(tmp_path)]) == 2
    assert "config.yaml is missing" in errors(capsys)[0]
    for path in model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main.run_command(["info", str(tmp_path)]) == 2
    assert "model.safetensors: not a readable" in errors(capsys)[0]


def test_train_makes_a_model_that_transcribes(
    tmp_path: Path, bursts: Bursts, write_wav: Write, files: list[Path], capsys: Capture
) -> None:
    for name in ("train", "valid"):
        path = write_wav(tmp_path / f"{name}.wav", bursts(1.0))
        manifest.write_manifest(tmp_path / f"{name}.jsonl", [Utterance(name, str(path), "OH ONE", 1.0, speaker=name)])
    (tmp_path / "conf.yaml").write_text("model: {channels: 2, layers: 1, hidden: 4}\ntrain: {epochs: 1, device: cpu}\n")
    out = tmp_path / "model"
    args = ["train", tmp_path / "conf.yaml", f"data.train={tmp_path / 'train.jsonl'}", f"train.output={out}"]
    assert main.run_command([*map(str, args), f"data.valid={tmp_path / 'valid.jsonl'}"]) == 0
    assert main.run_command(["transcribe", str(files[0]), "--model", str(out)]) == 0
    assert main.run_command(["info", str(out)]) == 0
    assert "1 x 4 bidirectional lstm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "override", "message"),
    [
        (None, "", r"conf\.yaml: cannot read"),
        ("modell: {}\n", "", r"conf\.yaml.*modell.*did you mean model"),
        ("", "model.layres=3", "model.layres.*did you mean model.layers"),
        ("", "model.layers=many", "model.layers: expected int"),
        ("", "model.layers", "expected key.sub=value"),
        ("", "train.device=cpu", "data.train: expected the path of a manifest"),
        ("", "data.train=gone.jsonl", r"data\.valid|gone\.jsonl"),
    ],
)
def test_train_refuses(tmp_path: Path, capsys: Capture, content: str | None, override: str, message: str) -> None:
    conf = tmp_path / "conf.yaml"
    if content is not None:
        conf.write_text(content)
    args = ["train", str(conf), f"train.output={tmp_path / 'out'}", *([override] if override else [])]
    assert main.run_command(args) == 2
    (line,) = errors(capsys)
    assert re.search(message, line)


# ------------------------------------------------------------------------------------------------ score


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "ref.txt").write_text("a OH ONE TWO\nb THREE\nc\n")
    (tmp_path / "hyp.txt").write_text("b\nc\na OH NINE TWO\n")
    return tmp_path / "ref.txt", tmp_path / "hyp.txt"


def test_score(pair: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "report.json"
    assert main.run_command(["score", *map(str, pair), "--json", str(out), "--errors"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "WER 50.00 % (2/4; S 1 D 1 I 0;" in printed.out.splitlines()[-1]
    assert "a\nREF: OH ONE  TWO\nHYP: OH NINE TWO\n" in printed.out
    assert "\nc\n" not in printed.out
    tree = json.loads(out.read_text())
    assert (tree["wer"], tree["errors"], tree["words"]) == (0.5, 2, 4)


def test_score_takes_every_format(tmp_path: Path, capsys: Capture) -> None:
    """The same two utterances, one of them with an empty hypothesis, in each format against each other."""
    forms = {
        "text": "a {a}\nb {b}\n",
        "trn": "{a} (a)\n{b} (b)\n",
        "jsonl": '{{"id": "a", "{key}": "{a}"}}\n{{"id": "b", "{key}": "{b}"}}\n',
        "json": '{{"utterances": [{{"id": "a", "{key}": "{a}"}}, {{"id": "b", "{key}": "{b}"}}]}}\n',
    }
    for suffix, form in forms.items():
        (tmp_path / f"ref.{suffix}").write_text(form.format(a="OH ONE", b="TWO", key="text"))
        (tmp_path / f"hyp.{suffix}").write_text(form.format(a="OH", b="", key="hypothesis"))
    for reference in forms:
        for hypothesis in forms:
            paths = [str(tmp_path / f"ref.{reference}"), str(tmp_path / f"hyp.{hypothesis}")]
            assert main.run_command(["score", *paths]) == 0
            assert "(2/3; S 0 D 2 I 0;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hypothesis", "message"),
    [(None, r"hyp\.txt"), ("", "empty"), ("a X\n", "'b', 'c'"), ("a X\nb\nc\nd Y\n", "'d'"), ("a X\na Y\n", "'a'")],
)
def test_score_refuses(pair: tuple[Path, Path], capsys: Capture, hypothesis: str | None, message: str) -> None:
    pair[1].unlink()
    if hypothesis is not None:
        pair[1].write_text(hypothesis)
    assert main.run_command(["score", *map(str, pair)]) == 2
    (line,) = errors(capsys)
    assert re.search(message, line)


def test_a_json_report_can_hold_any_id(tmp_path: Path) -> None:
    """JSON can name half a surrogate pair, which UTF-8 cannot hold."""
    line = '{"id": "caf\\udce9", "text": "OH"}\n'
    (tmp_path / "a.jsonl").write_text(line)
    paths = [str(tmp_path / "a.jsonl")] * 2
    assert main.run_command(["score", *paths, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["utterances"][0]["id"] == "caf\udce9"


# ------------------------------------------------------------------------------------------------ interruptions


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    """``asr score … | head`` ends quietly with status 0, however much is left to print."""
    (tmp_path / "ref.txt").write_text("".join(f"u{i} ONE\n" for i in range(2_000)))
    (tmp_path / "hyp.txt").write_text("".join(f"u{i} TWO\n" for i in range(2_000)))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for options in (["--errors"], []):
        args = [sys.executable, "-m", "asr.cli", "score", str(tmp_path / "ref.txt"), str(tmp_path / "hyp.txt")]
        process = subprocess.Popen(
            [*args, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(timeout=500) == 0


def test_an_interruption(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path], capsys: Capture) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("asr.scoring.wer.score", stop)
    assert main.run_command(["score", *map(str, pair)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, pair: tuple[Path, Path]) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("asr.scoring.wer.score", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main.run_command(["score", *map(str, pair)])


def test_what_is_missing_is_named_and_nothing_else(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main.run_command(["check"])
    assert "the following arguments are required: MANIFEST|CONF\n" in capsys.readouterr().err
