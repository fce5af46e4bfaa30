"""Folders for sherpa-onnx: what is in them, their test recording, and their check."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from graph_models import SmallModel
from node_modules import find_node
from test_sherpa_graphs import sound, speaking
from torchaudio.compliance import kaldi

from asr.cli.main import run_command
from asr.errors import ModelError, OutputError
from asr.export.onnx_folder import export_onnx
from asr.export.sherpa_folder import export_sherpa, sherpa_tokens
from asr.export.sherpa_graphs import NEMO_FEATURES
from asr.export.sherpa_runs import centred_log_mel
from asr.export.verification import verify_export
from asr.models import model_directory
from asr.models.features import LogMel
from asr.text.tokenizer_files import tokenizer_from_texts

pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")


def directory(folder, **options):
    small = speaking(**options)
    model_directory.save_model_description(folder, small.config, small.weights.tokenizer, small.weights.stats)
    model_directory.save_weights(folder, small.network, {"name": "tiny", "licence": "CC0", "purpose": "letters A to D"})
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with all graphs, and its model."""
    folder = tmp_path_factory.mktemp("sherpa")
    model = directory(folder / "model", lookahead=2, layers=2)
    soundfile.write(folder / "said.wav", sound(3.0), 16000)
    export_sherpa(model, folder / "out", utterance=folder / "said.wav")
    return folder / "out"


def test_a_folder_has_graphs_licence_card_checksums_and_a_test_recording(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "omnilingual.onnx", "nemo_ctc.onnx", "encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "README.md",
        "LICENSE", "card.json", "export.json", "utterance.wav", "expected.json",
    }  # fmt: skip
    tree = json.loads((exported / "export.json").read_text())
    assert (tree["to"], tree["tail_s"]) == ("sherpa", 0.4)
    assert set(tree["files"]) == names - {"export.json"}
    assert (exported / "tokens.txt").read_text(encoding="utf-8").split("\n")[:3] == ["<blk> 0", "▁ 1", "A 2"]


def test_the_check_runs_the_recording_in_sherpa_and_finds_the_expected_texts(exported, capsys):
    expected = json.loads((exported / "expected.json").read_text())
    assert set(expected) == {"omnilingual.onnx", "nemo_ctc.onnx", "encoder.onnx"}
    assert all(len(text) > 3 for text in expected.values())
    assert run_command(["export", "--verify", str(exported)]) == 0
    assert f"nemo_ctc.onnx: {expected['nemo_ctc.onnx']}" in capsys.readouterr().out


def test_the_readme_gives_the_tail_the_licence_and_three_platforms(exported):
    text = (exported / "README.md").read_text(encoding="utf-8")
    for part in (
        "Feed 0.4 s of silence",
        "Licence: CC0",
        "Letters A to D.",
        "from_nemo_ctc",
        "Kotlin",
        "WebAssembly",
        "npm install sherpa-onnx",
    ):
        assert part in text
    assert "{" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    expected = json.loads((exported / "expected.json").read_text())
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for block, name in zip(blocks, ("omnilingual.onnx", "nemo_ctc.onnx"), strict=False):
        exec(block, {})
        assert " ".join(capsys.readouterr().out.split()) == expected[name]


@pytest.fixture(scope="module")
def node():
    """Node, which finds the module ``sherpa-onnx``: the runtime as WebAssembly."""
    return find_node("sherpa-onnx")


@pytest.mark.parametrize("name", ["omnilingual.onnx", "encoder.onnx"])
def test_the_javascript_of_the_readme_runs(node, exported, name):
    blocks = re.findall(r"```js\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "require(" in block and name in block)
    done = subprocess.run([node, "-e", block], cwd=exported, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.splitlines()[-1].split()) == json.loads((exported / "expected.json").read_text())[name]


def test_another_text_than_expected_fails_the_check(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    tree = json.loads((folder / "export.json").read_text())
    texts = json.loads((folder / "expected.json").read_text()) | {"nemo_ctc.onnx": "SOMETHING ELSE"}
    (folder / "expected.json").write_text(json.dumps(texts))
    with pytest.raises(ModelError, match=r"expected\.json: expected SHA-256"):
        verify_export(folder)
    from asr.files import file_sha256

    tree["files"]["expected.json"] = file_sha256(folder / "expected.json")
    (folder / "export.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"nemo_ctc\.onnx: expected the text 'SOMETHING ELSE'"):
        verify_export(folder)


def test_a_model_that_cannot_stream_there_is_exported_for_recordings_with_the_reasons(tmp_path, capsys):
    features = {"mel_bins": 16, "hop_s": 0.0075}
    model = directory(tmp_path / "model", features=features, bidirectional=True, layers=1)
    assert run_command(["export", str(model), str(tmp_path / "out"), "--to", "sherpa"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"no streams: features.hop_s=0.0075 \(expected 0.01\); .*features.preemphasis=0", out)
    assert (tmp_path / "out" / "omnilingual.onnx").exists()
    assert not (tmp_path / "out" / "nemo_ctc.onnx").exists()
    assert "Not here: streams" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_int8_graphs_run_in_sherpa_too(tmp_path):
    model = directory(tmp_path / "model", layers=1)
    export_sherpa(model, tmp_path / "out", int8=True)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["weights"] == "dynamic int8"
    assert any(line.startswith("nemo_ctc.onnx") for line in verify_export(tmp_path / "out"))


def test_an_export_to_sherpa_replaces_only_earlier_exports(exported, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="mine: expected a new output or an earlier export"):
        export_sherpa("an4", tmp_path / "mine", force=True)


@pytest.mark.parametrize(
    ("config", "texts", "symbols"),
    [
        ({"tokenizer": "char"}, ["AB A"], ["<blk>", "▁", "A", "B"]),
        ({"tokenizer": "word"}, ["AB A"], ["<blk>", "▁A", "▁AB"]),
    ],
)
def test_tokens_are_written_as_the_runtime_reads_them(config, texts, symbols):
    from asr.config.sections import TextConfig

    assert sherpa_tokens(tokenizer_from_texts(texts, TextConfig(**config)), "mine") == symbols


def test_features_of_the_expected_texts_equal_those_of_torchaudio_and_ours():
    waveform = sound(1.234)
    expected = kaldi.fbank(
        torch.from_numpy(waveform)[None], num_mel_bins=80, dither=0.0, snip_edges=False, high_freq=-400.0
    )
    found = centred_log_mel(waveform, kaldi=True)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-3)
    log_mel = LogMel(SmallModel(features=NEMO_FEATURES).config.features)
    ours, _ = log_mel(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    nemo = centred_log_mel(waveform, kaldi=False)
    assert nemo.shape == ours[0].shape
    np.testing.assert_allclose(nemo, ours[0].numpy(), atol=2e-3)


@pytest.mark.parametrize("change", ["probabilities", "no graph"])
def test_the_check_of_an_onnx_folder_finds_a_graph_that_does_not_work(tmp_path, change):
    import onnx

    from asr.files import file_sha256

    out = tmp_path / "out"
    export_onnx(directory(tmp_path / "model", layers=1), out)
    assert len(verify_export(out)) == 3
    graph = onnx.load(out / "offline.onnx")
    if change == "probabilities":
        last = next(node for node in graph.graph.node if node.op_type == "LogSoftmax")
        last.op_type = "Identity"
        del last.attribute[:]
    else:
        graph.graph.node[5].input[0] = "nowhere"
    (out / "offline.onnx").write_bytes(graph.SerializeToString())
    tree = json.loads((out / "export.json").read_text())
    tree["files"]["offline.onnx"] = file_sha256(out / "offline.onnx")
    (out / "export.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"offline\.onnx: (expected log-probabilities|onnxruntime cannot run it)"):
        verify_export(out)


def test_a_folder_that_is_no_export_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"expected a folder of asr export, which has export\.json"):
        verify_export(tmp_path)
