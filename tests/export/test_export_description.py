"""``asr info`` of exports: folders of graphs, folders for sherpa-onnx, single graphs."""

import json
import shutil

import pytest
import soundfile
from graph_models import SmallModel
from test_sherpa_graphs import sound, speaking

from asr.cli.main import run_command
from asr.export.onnx_folder import export_onnx
from asr.export.sherpa_folder import export_sherpa
from asr.models import model_directory


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The exports of one model: ``onnx`` and ``sherpa``."""
    folder = tmp_path_factory.mktemp("exports")
    small: SmallModel = speaking(lookahead=2, layers=2)
    model = folder / "model"
    model_directory.save_model_description(model, small.config, small.weights.tokenizer, small.weights.stats)
    model_directory.save_weights(model, small.network, {"name": "tiny", "licence": "CC0", "purpose": "letters A to D"})
    soundfile.write(folder / "said.wav", sound(1.0), 16000)
    export_onnx(model, folder / "onnx")
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    export_sherpa(model, folder / "sherpa", utterance=folder / "said.wav")
    return folder


def described(place, capsys):
    assert run_command(["info", str(place)]) == 0
    return {name.strip(): text.strip() for name, _, text in
            (line.partition(":") for line in capsys.readouterr().out.splitlines())}  # fmt: skip


@pytest.fixture
def graph_rows(exports, capsys):
    """What ``asr info`` says of a folder of graphs."""
    return described(exports / "onnx", capsys)


def test_a_folder_of_graphs_says_what_it_is_made_of(exports, graph_rows):
    assert graph_rows["export"] == f"{exports / 'onnx'}, for onnxruntime (--to onnx)"
    assert graph_rows["made of"].startswith("tiny, by asr ")
    assert graph_rows["made of"].endswith("weights as float32")


def test_a_folder_of_graphs_says_what_network_it_is(graph_rows):
    assert "2 x" in graph_rows["network"]
    assert "unidirectional (looking" in graph_rows["network"]
    assert graph_rows["input"].startswith("16000 Hz, ")


def test_a_folder_of_graphs_counts_its_tokens(exports, graph_rows):
    symbols = (exports / "onnx" / "tokens.txt").read_text(encoding="utf-8").split("\n")
    assert graph_rows["tokens"] == f"{len(symbols) - 1}, blank among them"


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_a_folder_of_graphs_lists_each_graph_with_its_size(exports, graph_rows, kind):
    size = (exports / "onnx" / f"{kind}.onnx").stat().st_size
    assert graph_rows[f"{kind}.onnx"] == f"{size / 1e6:.1f} MB, {kind} graph"


def test_the_checksums_of_a_folder_of_graphs_are_compared(exports, graph_rows):
    count = len(json.loads((exports / "onnx" / "export.json").read_text())["files"])
    assert graph_rows["checksums"] == f"{count} files have those of export.json"


def test_a_folder_of_graphs_says_the_licence_and_purpose_of_its_model(graph_rows):
    assert (graph_rows["licence"], graph_rows["purpose"]) == ("CC0", "letters A to D")


def test_a_folder_for_sherpa_names_the_class_for_each_graph_and_the_silence(exports, capsys):
    rows = described(exports / "sherpa", capsys)
    assert rows["export"].endswith("for sherpa-onnx (--to sherpa)")
    tail_s = json.loads((exports / "sherpa" / "export.json").read_text())["tail_s"]
    assert rows["input"] == f"16000 Hz; a stream needs {tail_s:g} s of silence behind its last sample"
    assert rows["nemo_ctc.onnx"].endswith("OnlineRecognizer.from_nemo_ctc")
    assert rows["licence"] == "CC0"


def test_one_graph_alone_is_described_by_its_metadata(exports, tmp_path, capsys):
    shutil.copy(exports / "onnx" / "streaming.onnx", tmp_path / "phone.onnx")
    rows = described(tmp_path / "phone.onnx", capsys)
    assert rows["export"].endswith("phone.onnx, one graph of asr export --to onnx")
    assert rows["weights"] == "float32"
    assert rows["phone.onnx"].endswith("streaming graph")
    assert rows["checksum"].startswith("SHA-256 ")
    assert rows["purpose"] == "letters A to D"


def test_a_folder_with_a_changed_file_is_refused_by_name(exports, tmp_path, capsys):
    shutil.copytree(exports / "onnx", tmp_path / "changed")
    with (tmp_path / "changed" / "tokens.txt").open("a", encoding="utf-8") as file:
        file.write("X\n")
    assert run_command(["info", str(tmp_path / "changed")]) == 2
    assert "tokens.txt: expected SHA-256" in capsys.readouterr().err


def test_a_foreign_graph_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "other.onnx").write_bytes(b"not a graph")
    assert run_command(["info", str(tmp_path / "other.onnx")]) == 2
    assert "other.onnx: not an ONNX file" in capsys.readouterr().err
