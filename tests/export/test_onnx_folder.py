"""Folders of graphs: what is in them, and that they are whole or not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from graph_models import SmallModel, batch, noise

from asr.cli.main import run_command
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.errors import ModelError, OutputError
from asr.export import onnx_folder
from asr.export.onnx_folder import check_files, export_onnx
from asr.lm import lm_directory
from asr.lm.recurrent import LanguageNetwork
from asr.models import model_directory
from asr.models.onnx_files import check_graph


@pytest.fixture
def model(tmp_path):
    """A model directory with a recurrent language model and the rest of a training."""
    small, folder = SmallModel(lookahead=1), tmp_path / "model"
    model_directory.save_model_description(folder, small.config, small.weights.tokenizer, small.weights.stats)
    model_directory.save_weights(folder, small.network, {"name": "tiny", "licence": "none"}, storage="float16")
    config = loader.from_dict(LanguageConfig, {"model": {"hidden": 8, "embedding": 6}})
    lm_directory.save_lm_description(folder / "lm" / "lm", config, small.weights.tokenizer)
    network = LanguageNetwork(config.model, small.weights.tokenizer.vocab_size)
    model_directory.save_weights(folder / "lm" / "lm", network, {"name": "words"})
    (folder / "lm" / "lexicon.txt").write_text("AB\nCD\n")
    (folder / "decoding.yaml").write_text("beam: 4\nlm: lm/lm\nlexicon: lm/lexicon.txt\n")
    (folder / "log.jsonl").write_text("{}\n")
    (folder / "rehearsal.safetensors").write_bytes(b"speech of users")
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_has_graphs_in_place_of_weights_and_all_the_rest(model, tmp_path):
    export_onnx(model, tmp_path / "out")
    assert names(tmp_path / "out") == [
        "card.json", "config.yaml", "decoding.yaml", "export.json", "lm/lexicon.txt", "lm/lm/card.json",
        "lm/lm/config.yaml", "lm/lm/lm.onnx", "lm/lm/tokens.txt", "offline.onnx", "stats.json", "streaming.onnx",
        "tokens.txt",
    ]  # fmt: skip
    tree = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (tree["format"], tree["model"], tree["weights"]) == (1, "tiny", "float16")
    assert sorted(tree["files"]) == [name for name in names(tmp_path / "out") if name != "export.json"]


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_graphs_compute_with_the_numbers_that_the_directory_stores(storage, tmp_path):
    small, folder = SmallModel(hidden=72, bidirectional=True), tmp_path / "model"
    model_directory.save_model_description(folder, small.config, small.weights.tokenizer, small.weights.stats)
    model_directory.save_weights(folder, small.network, {}, storage=storage)
    small.network = model_directory.load_model(folder).network
    export_onnx(folder, tmp_path / "out")
    runtime = onnxruntime.InferenceSession(tmp_path / "out" / "offline.onnx", providers=["CPUExecutionProvider"])
    samples, lengths = batch(noise(0.6, 1), noise(0.3, 2))
    expected, counts = small.torch_log_probs(samples, lengths)
    found, _ = runtime.run(None, {"samples": samples, "lengths": lengths})
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=1e-4)
    size = os.path.getsize(tmp_path / "out" / "offline.onnx")
    assert abs(size - os.path.getsize(folder / "model.safetensors")) < 60_000


def test_metadata_hold_what_a_lone_graph_needs(model, tmp_path):
    export_onnx(model, tmp_path / "out")
    found = check_graph(tmp_path / "out" / "streaming.onnx", "streaming")
    assert found.tree("asr.tokens") == ["<blank>", " ", "A", "B", "C", "D"]
    assert found.tree("asr.card")["licence"] == "none"
    assert found.tree("asr.frames") == {"subsampling": 4, "upsampling": 1, "frame_s": 0.03}
    assert found.tree("asr.latency") == {"bidirectional": False, "first_wait": 2}
    assert found.metadata["asr.config"] == (model / "config.yaml").read_text()


def test_all_graphs_pass_the_check_of_foreign_files(model, tmp_path):
    export_onnx(model, tmp_path / "out")
    for path, kind in (("offline.onnx", "offline"), ("streaming.onnx", "streaming"), ("lm/lm/lm.onnx", "lm")):
        assert check_graph(tmp_path / "out" / path, kind).kind == kind
    export_onnx(model, tmp_path / "int8", int8=True)
    assert check_graph(tmp_path / "int8" / "streaming.onnx").metadata["asr.weights"] == "dynamic int8"


def test_the_command_exports_and_says_the_sizes(model, tmp_path, capsys):
    assert run_command(["export", str(model), str(tmp_path / "out"), "--to", "onnx"]) == 0
    size = os.path.getsize(tmp_path / "out" / "offline.onnx")
    assert f"offline.onnx: {size / 1e6:.1f} MB" in capsys.readouterr().out
    assert run_command(["export", str(model), "--to", "onnx"]) == 2
    assert "expected a model and the folder to write" in capsys.readouterr().err


def test_an_export_that_fails_half_way_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ModelError("half way")

    monkeypatch.setattr(onnx_folder, "_export_language_models", fail)
    with pytest.raises(ModelError, match="half way"):
        export_onnx(model, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_a_killed_export_leaves_no_folder(model, tmp_path):
    program = (
        "import os, signal, sys; from asr.export import onnx_folder\n"
        "onnx_folder._export_language_models = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "onnx_folder.export_onnx(sys.argv[1], sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(model), str(tmp_path / "out")], timeout=500)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    export_onnx(model, tmp_path / "out")
    check_files(tmp_path / "out")


def test_a_failed_export_leaves_the_earlier_one(model, tmp_path, monkeypatch):
    export_onnx(model, tmp_path / "out")
    before = names(tmp_path / "out")
    monkeypatch.setattr(onnx_folder, "save_graph", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ModelError, match=r"out: cannot write the export.*No space left"):
        export_onnx(model, tmp_path / "out", force=True)
    assert names(tmp_path / "out") == before
    check_files(tmp_path / "out")


def test_only_an_earlier_export_is_replaced_and_only_with_force(model, tmp_path):
    export_onnx(model, tmp_path / "out")
    with pytest.raises(OutputError, match="out: there is an earlier export; replace it with --force"):
        export_onnx(model, tmp_path / "out")
    (tmp_path / "out" / "lm" / "lexicon.txt").write_text("changed")
    export_onnx(model, tmp_path / "out", force=True)
    check_files(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="mine: expected a new output or an earlier export"):
        export_onnx(model, tmp_path / "mine", force=True)
    assert names(tmp_path / "mine") == ["thesis.txt"]


def test_what_a_killed_export_has_left_goes_with_the_next_one_to_the_same_place(model, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from asr.export.onnx_folder import whole_folder\n"
        "with whole_folder(Path(sys.argv[1]), force=False, source=Path(sys.argv[2])) as made:\n"
        "    (made / 'offline.onnx').write_text('half of it'); print('begun', flush=True); sys.stdin.read()"
    )
    running = []
    for name in ("out", "out", "other"):
        arguments = [sys.executable, "-c", code, tmp_path / name, model]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"begun\n"
        running.append((process, {path.name for path in tmp_path.glob(".asr-part-*")}))
    (killed, first), (alive, _), (elsewhere, third) = running
    for process in (killed, elsewhere):
        process.kill()
        process.wait()
    (tmp_path / ".asr-part-mine").mkdir()
    export_onnx(model, tmp_path / "out")
    left = {path.name for path in tmp_path.glob(".asr-part-*")}
    alive.kill()
    alive.wait()
    assert left == third - first | {".asr-part-mine"}


@pytest.mark.parametrize("output", ["model", "model/out", "."])
def test_an_export_into_the_model_or_around_it_is_refused(model, tmp_path, output):
    with pytest.raises(OutputError, match="apart from the model's own"):
        export_onnx(model, tmp_path / output, force=True)
    assert (model / "model.safetensors").exists()


def test_checksums_find_a_changed_file_and_a_missing_one(model, tmp_path):
    out = tmp_path / "out"
    export_onnx(model, out)
    assert check_files(out)["model"] == "tiny"
    shutil.copy(out / "offline.onnx", out / "streaming.onnx")
    with pytest.raises(ModelError, match=r"streaming\.onnx: expected SHA-256"):
        check_files(out)
    (out / "streaming.onnx").unlink()
    with pytest.raises(ModelError, match=r"streaming\.onnx: missing"):
        check_files(out)


def test_checksums_of_files_outside_are_refused(model, tmp_path):
    out = tmp_path / "out"
    export_onnx(model, out)
    tree = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps(tree | {"files": {"../model/config.yaml": "0"}}))
    with pytest.raises(ModelError, match="expected files inside the folder"):
        check_files(out)


def test_int8_without_onnx_names_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"pip install 'recurrent-asr\[export\]'"):
        export_onnx(model, tmp_path / "out", int8=True)
    assert not Path(tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.jsonl", "out", "--format", "kaldi", "--int8"], "--int8: expected --to"),
        (["an4", "out", "--to", "onnx", "--utterance", "a.wav"], "--utterance: expected --to sherpa as well"),
        (["an4", "--verify", "out"], "--verify: expected the folder alone, got an4 as well"),
        (["--format", "nemo"], "expected a manifest and what to write, got nothing"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments, message, capsys):
    assert run_command(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
