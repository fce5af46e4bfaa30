"""Files are replaced whole or not at all, and outputs are not written over what is not ours."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_model_directory import make_model

from asr import files
from asr.cli.main import run_command
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.decode import confidence
from asr.decode.arpa import read_arpa, write_arpa
from asr.errors import AsrError, ModelError, OutputError
from asr.files import hold_alone, remove_held, write_json, write_text
from asr.models import description
from asr.models.averaging import average_models
from asr.models.tensors import save_tensors


def test_json_is_indented_utf8_and_a_lone_surrogate_is_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"name": "é\udce9"})
    assert (tmp_path / "new" / "a.json").read_bytes() == '{\n  "name": "é\\udce9"\n}\n'.encode()
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"name": "é\udce9"}


def test_a_disk_that_is_full_leaves_the_old_report(tmp_path: Path) -> None:
    texts = "".join(f"u{i} WORDS OF A SENTENCE {i}\n" for i in range(200))
    (tmp_path / "r").write_text(texts)
    (tmp_path / "old.json").write_text("{}\n")
    command = f'ulimit -f 2; exec "{sys.executable}" -m asr.cli score r r --json old.json'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "old.json: cannot write: File too large" in done.stderr
    assert (tmp_path / "old.json").read_text() == "{}\n"
    assert sorted(os.listdir(tmp_path)) == ["old.json", "r"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_text(tmp_path / "link", "new\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new\n"


def test_pipes_and_devices_are_written_and_stay() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from asr.files import write_text; write_text('/dev/stdout', 'a\\n')"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a\n"
    write_text("/dev/null", "a")
    assert Path("/dev/null").is_char_device()


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AsrError, match="cannot write: Is a directory"):
        write_text(tmp_path, "a")


@pytest.fixture
def pair(tmp_path):
    """Two model directories."""
    for name in ("first", "second"):
        make_model(tmp_path / name)
    return [tmp_path / "first", tmp_path / "second"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# Temporary files


def test_sweeping_leaves_hidden_files_of_other_programs(tmp_path):
    names = [".notes.tmp", ".tmpAB12", ".x.123.tmp", ".asr-notes"]
    for name in names:
        (tmp_path / name).write_text("mine")
    block = files.atomic(tmp_path / "x")
    block.__enter__().write_text("half")  # as a kill leaves it
    assert len(list(tmp_path.iterdir())) == len(names) + 1
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_failed_write_of_tensors_leaves_nothing_of_safetensors_either(tmp_path, monkeypatch):
    def fail(tensors, path, metadata=None):
        (Path(path).parent / ".tmpXY").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(ModelError, match="No space left"):
        save_tensors(tmp_path / "x.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    with files.atomic(path) as temporary:
        temporary.write_text("long")
    assert path.read_text() == "long"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    with files.atomic(path) as temporary:
        temporary.write_text("through")
    reader.join()
    assert got == ["through"]
    assert not path.is_file()


# Outputs that are there already


def test_nothing_and_an_empty_folder_are_good_outputs(tmp_path):
    (tmp_path / "empty").mkdir()
    files.check_output(tmp_path / "new")
    files.check_output(tmp_path / "empty")
    files.check_output(Path("/dev/null"))


def test_a_file_a_folder_and_a_broken_link_are_refused_without_force(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(OutputError, match=f"{name}: expected a new output, got .* --force"):
            files.check_output(tmp_path / name)
        files.check_output(tmp_path / name, force=True)
        files.check_output(tmp_path / name, ours=lambda path: True)


def test_averaging_does_not_write_over_a_run(pair, tmp_path):
    make_model(tmp_path / "run", hidden=7)
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match="run: expected a new output"):
        average_models(pair, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert run_command(["average", *map(str, pair), "--output", str(tmp_path / "run")]) == 2
    assert contents(tmp_path / "run") == before


def test_forced_averaging_leaves_nothing_that_belongs_to_other_weights(pair, tmp_path):
    run = tmp_path / "run"
    make_model(run, hidden=7)
    confidence.save_calibration(run, {"greedy": confidence.Calibration(1.0, 0.0, 0.0)})
    (run / "decoding.yaml").write_text("beam: 8\nlm: lm/lm.arpa\n")
    (run / "lm").mkdir()
    (run / "lm" / "lm.arpa").write_text("")
    (run / "log.jsonl").write_text("{}\n")
    (run / "rehearsal.safetensors").write_bytes(b"")
    (run / "notes.txt").write_text("mine")
    assert run_command(["average", *map(str, pair), "--output", str(run), "--force"]) == 0
    assert sorted(path.name for path in run.iterdir()) == [
        "card.json", "config.yaml", "model.safetensors", "notes.txt", "stats.json", "tokens.txt",
    ]  # fmt: skip


def test_an_average_replaces_an_earlier_one_unless_it_was_tuned(pair, tmp_path):
    average_models(pair, tmp_path / "mean")
    average_models(pair, tmp_path / "mean", [1, 3])
    assert [part["share"] for part in description.load_card(tmp_path / "mean")["average_of"]] == [0.25, 0.75]
    (tmp_path / "mean" / "decoding.yaml").write_text("beam: 8\n")
    with pytest.raises(OutputError, match="mean: expected a new output"):
        average_models(pair, tmp_path / "mean")


def write_manifest(path):
    manifest.write_manifest(path, [Utterance("a", "/a.wav", "HI", 1.0, "s")])
    return str(path)


@pytest.mark.parametrize("command", ["export", "train-ngram", "segment", "tune"])
def test_commands_do_not_write_over_files_that_they_did_not_make(tmp_path, capsys, command):
    source = write_manifest(tmp_path / "m.jsonl")
    output = tmp_path / "mine"
    if command == "tune":  # writes into a folder
        output.mkdir()
    kept = output / "notes" if command == "tune" else output
    kept.write_text("mine")
    arguments = {
        "export": ["export", source, str(output), "--format", "nemo"],
        "train-ngram": ["train-ngram", source, str(output)],
        "segment": ["segment", "a.wav", "HI", str(output)],
        "tune": ["tune", source, "--model", "an4", "--save-to", str(output)],
    }[command]
    assert run_command(arguments) == 2
    assert "mine: expected a new output" in capsys.readouterr().err
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", ["words.arpa", "words.arpa.gz"])
def test_train_ngram_replaces_its_own_file_alone(tmp_path, capsys, name):
    source, output = write_manifest(tmp_path / "m.jsonl"), tmp_path / name
    command = ["train-ngram", source, str(output), "--order", "2"]
    assert run_command(command) == 0
    first = output.read_bytes()
    assert run_command(command) == 0
    assert output.read_bytes()[-20:] == first[-20:]
    write_arpa(read_arpa(output), output)  # as another program does
    assert run_command(command) == 2
    assert f"{name}: expected a new output, got a file that this command does not know" in capsys.readouterr().err


def test_segment_says_that_there_is_a_file_and_not_whose(tmp_path, capsys):
    (tmp_path / "cut.jsonl").write_text("")
    assert run_command(["segment", "a.wav", "HI", str(tmp_path / "cut.jsonl")]) == 2
    assert "got a file; choose another name, or overwrite it with --force" in capsys.readouterr().err


def test_force_writes_over_a_file(tmp_path):
    (tmp_path / "mine").write_text("mine")
    source = write_manifest(tmp_path / "m.jsonl")
    assert run_command(["export", source, str(tmp_path / "mine"), "--format", "nemo", "--force"]) == 0
    assert "audio_filepath" in (tmp_path / "mine").read_text()


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "asr").rglob("*.py")), ids=lambda p: p.name)
def test_the_package_asks_about_paths_by_os_path_whose_answers_are_never_errors(path):
    # Path.is_file() and its like raise for names that are too long and folders that may not be looked into.
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asking = {"is_file", "is_dir", "exists"}
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in asking:
            owner = ast.unparse(call.func.value)
            assert owner in ("os.path", "member"), f"{path}:{call.lineno}: {owner}.{call.func.attr}()"


@pytest.mark.parametrize("verb", ["evaluate", "check", "info", "perplexity", "init", "plot", "score"])
def test_a_name_that_is_too_long_is_an_error_with_a_message(verb, capsys):
    name = "x" * 300
    assert run_command([verb, name, *([name] if verb in ("perplexity", "score") else [])]) == 2
    assert "error: " in capsys.readouterr().err


# Files of others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [1, {"b": NaN}]}', r"a\[1\]\.b: expected a finite number, got nan"),
        ('{"a": Infinity}', "a: expected a finite number, got inf"),
        ('{"a": 1e999}', "a: expected a finite number, got inf"),
        ('{"a": -1e308}', r"a: expected a finite number, got -1e\+308"),
        ('{"a": 1' + "0" * 308 + "}", "a: expected a number below 1e38"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
        ("\udcff", "utf-8"),
    ],
)
def test_json_of_others_is_held_to_finite_numbers_by_key(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        files.read_json(tmp_path / "a.json")


def test_no_more_than_allowed_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_limited(tmp_path / "a", 5) == b"12345"
    for path in (tmp_path / "a", "/dev/zero"):
        with pytest.raises(OSError, match="expected at most 4 bytes, got more"):
            files.read_limited(path, 4)


def test_a_file_is_not_held_once_its_holder_has_removed_it(tmp_path):
    """Lines that are written into a removed file would be lost without a word."""
    pytest.importorskip("fcntl")
    path = tmp_path / "texts.jsonl"
    with path.open("a") as late:
        with path.open("a") as first:
            hold_alone(first, "busy")
            with pytest.raises(AsrError, match="busy"):
                hold_alone(late, "busy")
            remove_held(first)
        with pytest.raises(AsrError, match="busy"):
            hold_alone(late, "busy")
    with path.open("a") as again:
        hold_alone(again, "busy")


def test_the_lock_of_a_process_that_was_killed_ends_with_it(tmp_path):
    pytest.importorskip("fcntl")
    code = "import sys, time; from asr.files import hold_alone; f = open(sys.argv[1], 'a'); hold_alone(f, 'busy'); "
    code += "print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with (tmp_path / "a").open("a") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AsrError, match="busy"):
            hold_alone(file, "busy")
        holder.kill()
        holder.wait()
        hold_alone(file, "busy")
