"""The bundled models on the test set of AN4: ONNX, int8 and sherpa-onnx beside torch (docs/export.md)."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.audio.read import load_audio
from asr.config.sections import FeatureConfig
from asr.data.manifest import read_manifest
from asr.export.onnx_folder import export_onnx
from asr.export.sherpa_folder import export_sherpa
from asr.export.sherpa_graphs import NEMO_FEATURES, training_level
from asr.export.stored_weights import acoustic_weights
from asr.models import model_directory
from asr.models.description import read_description
from asr.models.features import LogMel, measure_stats

RECIPE = Path(__file__).parents[2] / "recipes" / "an4" / "prepare.py"
GREEDY = {"beam": 1, "lm": "", "lexicon": "", "device": "cpu"}
BLOCK = 2743
"""Samples of a stream that come at a time: nothing fits them."""


@pytest.fixture(scope="module")
def utterances(asr_data, tmp_path_factory):
    """Id, reference and samples of all 130."""
    archive = asr_data("an4_sphere.tar.gz")
    folder = tmp_path_factory.mktemp("an4") / "data"
    prepare = [sys.executable, RECIPE, "--source", archive, folder]
    subprocess.run(prepare, check=True, capture_output=True)
    found = [(u.id, u.text, load_audio(u.audio, 16000)) for u in read_manifest(folder / "test.jsonl")]
    assert len(found) == 130
    return found


@pytest.fixture(scope="module", params=["an4", "stream"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def torch_texts(name, utterances):
    return texts(asr.load(name, **GREEDY), utterances)


def texts(recognizer, utterances):
    waveforms = [samples for _, _, samples in utterances]
    found = recognizer.transcribe(waveforms)
    return {key: transcript.text for (key, _, _), transcript in zip(utterances, found, strict=True)}


def errors(found, utterances):
    return asr.score({key: text for key, text, _ in utterances}, found).errors


def test_graphs_give_the_texts_and_log_probabilities_of_torch(name, utterances, torch_texts, tmp_path):
    export_onnx(name, tmp_path / "out")
    exported, model = asr.load(tmp_path / "out", **GREEDY), asr.load(name, **GREEDY)
    assert texts(exported, utterances) == torch_texts
    for _, _, samples in utterances[::10]:
        expected, found = model.log_probs([samples])[0], exported.log_probs([samples])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-3)


def test_graphs_give_the_texts_of_torch_as_the_model_decodes(name, utterances, tmp_path):
    export_onnx(name, tmp_path / "out")
    exported, model = asr.load(tmp_path / "out", device="cpu"), asr.load(name, device="cpu")
    assert texts(exported, utterances) == texts(model, utterances)


def test_streams_of_graphs_give_the_texts_of_torch(utterances, tmp_path):
    export_onnx("stream", tmp_path / "out")
    streams = [asr.load(place, **GREEDY).stream() for place in (tmp_path / "out", "stream")]
    for _, _, samples in utterances[::4]:
        found = []
        for stream in streams:
            stream.start()
            for at in range(0, len(samples), BLOCK):
                stream.accept(samples[at : at + BLOCK])
            found.append(stream.finish().text)
        assert found[0] == found[1]


def test_int8_makes_three_errors_more_at_most(name, utterances, torch_texts, tmp_path):
    export_onnx(name, tmp_path / "out", int8=True)
    found = texts(asr.load(tmp_path / "out", **GREEDY), utterances)
    assert errors(found, utterances) <= errors(torch_texts, utterances) + 3


def test_whole_recordings_in_sherpa_have_the_texts_of_torch_at_their_level(name, utterances, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    export_sherpa(name, tmp_path / "out")
    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(tmp_path / "out" / "omnilingual.onnx"), tokens=str(tmp_path / "out" / "tokens.txt")
    )
    level = training_level(acoustic_weights(read_description(name)))
    levelled, found = [], {}
    for key, text, samples in utterances:
        normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-5)
        levelled.append((key, text, np.clip(level * normal, -1, 1).astype(np.float32)))
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, samples)
        recognizer.decode_stream(stream)
        found[key] = " ".join(stream.result.text.split())
    assert found == texts(asr.load(name, **GREEDY), levelled)


@pytest.fixture(scope="module")
def runtime_features(utterances, tmp_path_factory):
    """The weights of ``stream`` with the features that sherpa-onnx computes: poor texts, but of real speech."""
    model, folder = model_directory.load_model("stream"), tmp_path_factory.mktemp("runtime") / "model"
    features = FeatureConfig(**NEMO_FEATURES)
    stats = measure_stats(LogMel(features), [samples for _, _, samples in utterances[::4]])
    config = dataclasses.replace(model.config, features=features)
    model_directory.save_model_description(folder, config, model.tokenizer, stats)
    model_directory.save_weights(folder, model.network, {"name": "runtime"})
    return folder


def word_starts(tokens, times):
    """When the first token of each word is emitted, in seconds."""
    before = ["▁", *(token.strip() or "▁" for token in tokens)]
    return [time for last, token, time in zip(before, before[1:], times, strict=False) if last == "▁" != token]


def test_streams_in_sherpa_have_the_texts_and_times_of_torch(runtime_features, utterances, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    export_sherpa(runtime_features, tmp_path / "out")
    recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
        model=str(tmp_path / "out" / "nemo_ctc.onnx"), tokens=str(tmp_path / "out" / "tokens.txt"), num_threads=1
    )
    torch = asr.load(runtime_features, **GREEDY)
    tail_s = json.loads((tmp_path / "out" / "export.json").read_text())["tail_s"]
    for key, _, samples in utterances:
        heard = np.concatenate([samples, np.zeros(round(tail_s * 16000), np.float32)])
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, heard)
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        found, expected = recognizer.get_result_all(stream), torch.transcribe(heard)
        assert " ".join(found.text.split()) == expected.text, key
        starts = word_starts(found.tokens, found.timestamps)
        assert starts == pytest.approx([word.start_s for word in expected.words], abs=1e-3), key
