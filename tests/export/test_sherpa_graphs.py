"""Graphs for sherpa-onnx, in the unmodified runtime, against torch."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from graph_models import TOKENIZER, SmallModel
from torchaudio.compliance import kaldi

from asr.config import loader
from asr.config.sections import FeatureConfig
from asr.decode import greedy
from asr.errors import ModelError
from asr.export import sherpa_graphs
from asr.export.sherpa_graphs import NEMO_FEATURES, kaldi_to_ours, lstm_graphs, nemo_graph, omnilingual_graph
from asr.models.features import LogMel, measure_stats
from asr.models.framing import framed
from asr.models.inference import Latency

sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")

CASES = {
    "lookahead": {"lookahead": 2, "layers": 2},
    "gru": {"cell": "gru", "layers": 2},
    "bidirectional": {"bidirectional": True, "layers": 2},
}


def speaking(features=NEMO_FEATURES, **model):
    """A small model that emits tokens at every few frames."""
    small = SmallModel(features={**features}, hidden=24, **model)
    with torch.no_grad():
        small.network.output.weight.mul_(8)
        small.network.output.bias[0] = 2.0
    return small.again()


def sound(seconds, seed=0):
    """Noise and tones whose colour and level wander, as speech does."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16000)
    envelope = np.repeat(rng.uniform(0, 0.3, count // 800 + 1) ** 2, 800)[:count]
    tone = np.sin(np.cumsum(np.repeat(rng.uniform(0.05, 1.5, count // 1600 + 1), 1600)[:count]))
    return ((rng.normal(0, 0.3, count) + tone) * envelope).astype(np.float32)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    names = ["<blk>", "▁", *TOKENIZER.symbols[2:]]
    path.write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)), encoding="utf-8")
    return str(path)


def saved(model, folder, name):
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


def torch_tokens(small, waveform, latency=None):
    """Symbols and seconds of greedy decoding of a stream."""
    samples = torch.from_numpy(framed(waveform, small.config.features))[None]
    with torch.inference_mode():
        features, _ = small.log_mel.following(samples)
        log_probs = small.network.stream(features, latency=latency, last=True)[0]
    found = greedy(log_probs, torch.tensor([log_probs.shape[1]]))[0]
    return [TOKENIZER.symbols[t] for t in found.tokens], [0.04 * f for f in found.frames]


def run_stream(recognizer, waveform, block=3200, tail_s=3.0):
    stream = recognizer.create_stream()
    padded = np.concatenate([waveform, np.zeros(round(tail_s * 16000), np.float32)])
    for at in range(0, len(padded), block):
        stream.accept_waveform(16000, padded[at : at + block])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    result = recognizer.get_result_all(stream)
    return [t.strip("▁") or " " for t in result.tokens], list(result.timestamps)


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_streams_in_sherpa_give_the_tokens_and_times_of_torch(case, chunk, tokens, tmp_path):
    small = speaking(**CASES[case])
    latency = Latency(chunk, 6)
    path = saved(nemo_graph(small.weights, latency), tmp_path, "nemo")
    recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens=tokens, model=path, num_threads=1)
    waveform = sound(3.0)
    silence = np.concatenate([waveform, np.zeros(16000 * 3, np.float32)])
    symbols, times = torch_tokens(small, silence, latency if small.config.model.bidirectional else None)
    found, found_times = run_stream(recognizer, waveform)
    assert len(found) > 10
    assert found == symbols[: len(found)]
    np.testing.assert_allclose(found_times, times[: len(found)], atol=1e-4)


def test_streams_that_are_decoded_together_give_what_each_gives_alone(tokens, tmp_path):
    small = speaking(lookahead=2, layers=2)
    path = saved(nemo_graph(small.weights, Latency(4, 0)), tmp_path, "nemo")
    recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens=tokens, model=path, num_threads=1)
    waveforms = [sound(2.0, 1), sound(3.0, 2)]
    streams = [recognizer.create_stream() for _ in waveforms]
    for stream, waveform in zip(streams, waveforms, strict=True):
        stream.accept_waveform(16000, np.concatenate([waveform, np.zeros(48000, np.float32)]))
        stream.input_finished()
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    for stream, waveform in zip(streams, waveforms, strict=True):
        found = [t.strip("▁") or " " for t in recognizer.get_result_all(stream).tokens]
        assert found == run_stream(recognizer, waveform)[0]


@pytest.mark.parametrize("hop_s", [0.01, 0.0075, 0.02])
def test_whole_recordings_in_sherpa_give_the_tokens_and_times_of_torch(hop_s, tokens, tmp_path):
    small = speaking(features={"mel_bins": 16, "hop_s": hop_s}, lookahead=1, layers=2)
    path = saved(omnilingual_graph(small.weights), tmp_path, "omnilingual")
    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(model=path, tokens=tokens)
    waveform = sound(4.0)
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, waveform)
    recognizer.decode_stream(stream)
    normal = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
    level = sherpa_graphs.training_level(small.weights)
    log_probs, counts = small.torch_log_probs((level * normal)[None].astype(np.float32), [len(waveform)])
    expected = greedy(torch.from_numpy(log_probs), torch.from_numpy(counts))[0]
    found = [t.strip("▁") or " " for t in stream.result.tokens]
    assert found == [TOKENIZER.symbols[t] for t in expected.tokens]
    assert len(found) > 5
    times = np.array(expected.frames) * small.config.output_frame_s
    # A frame is written where a step of 20 ms begins in it.
    assert np.all((np.array(stream.result.timestamps) >= times - 1e-4) & (stream.result.timestamps < times + 0.02))


def test_the_training_level_is_that_of_the_recordings_behind_the_statistics():
    config = loader.from_dict(FeatureConfig, {})
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(0, 0.05, 32000).astype(np.float32) for _ in range(4)]
    stats = measure_stats(LogMel(config), waveforms)
    small = SmallModel(features={"mel_bins": 80})
    weights = dataclasses.replace(small.weights, stats=stats, config=dataclasses.replace(small.config, features=config))
    assert sherpa_graphs.training_level(weights) == pytest.approx(0.05, rel=0.1)


def kaldi_log_probs(small, waveform, latency=None):
    """Log-probabilities by torch on Kaldi's features of a stream, converted as the graph does."""
    samples = torch.from_numpy(waveform)[None]
    log_mel = kaldi.fbank(samples, num_mel_bins=80, dither=0.0, snip_edges=False, high_freq=-400.0)
    energies = log_mel.exp() @ torch.from_numpy(kaldi_to_ours(small.config.features)).float()
    features = energies.clamp(min=small.config.features.floor).log()
    features = (features - small.log_mel.mean) * small.log_mel.inverse_std
    with torch.inference_mode():
        return small.network.stream(features[None], latency=latency, last=True)[0]


@pytest.fixture(params=CASES)
def transducer(request, tokens, tmp_path):
    """A small model, its chunks, and the places of its graphs as sherpa's arguments."""
    small, latency = speaking(**CASES[request.param]), Latency(8, 6)
    graphs = lstm_graphs(small.weights, latency)
    paths = {name: saved(graph, tmp_path, name) for name, graph in graphs.items()}
    return small, latency, {"tokens": tokens, "model_type": "lstm", "num_threads": 1, **paths}


def test_a_transducer_in_sherpa_gives_the_tokens_and_times_of_torch_on_its_features(transducer):
    small, latency, arguments = transducer
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(**arguments)
    waveform = sound(3.0)
    found, times = run_stream(recognizer, waveform)
    silence = np.concatenate([waveform, np.zeros(16000 * 3, np.float32)])
    log_probs = kaldi_log_probs(small, silence, latency if small.config.model.bidirectional else None)
    expected = greedy(log_probs, torch.tensor([log_probs.shape[1]]))[0]
    assert len(found) > 10
    assert found == [TOKENIZER.symbols[t] for t in expected.tokens][: len(found)]
    np.testing.assert_allclose(times, np.array(expected.frames[: len(found)]) * 0.04, atol=1e-4)


def test_hot_words_act_in_the_transducer(tokens, tmp_path):
    graphs = lstm_graphs(speaking(**CASES["lookahead"]).weights, Latency(8, 6))
    paths = {name: saved(graph, tmp_path, name) for name, graph in graphs.items()}
    arguments = {"tokens": tokens, "model_type": "lstm", "num_threads": 1, **paths}
    arguments |= {"decoding_method": "modified_beam_search", "modeling_unit": "cjkchar"}
    hot = tmp_path / "hotwords.txt"
    hot.write_text("C C C\n")
    waveform = sound(3.0)
    plain, _ = run_stream(sherpa_onnx.OnlineRecognizer.from_transducer(**arguments), waveform)
    arguments |= {"hotwords_file": str(hot), "hotwords_score": 3.0}
    found, _ = run_stream(sherpa_onnx.OnlineRecognizer.from_transducer(**arguments), waveform)
    assert "".join(found).count("CCC") > "".join(plain).count("CCC")


def test_converted_kaldi_features_are_near_ours():
    config = loader.from_dict(FeatureConfig, {"centred": True})
    waveform = sound(2.0) + np.random.default_rng(1).normal(0, 1e-3, 32000).astype(np.float32)
    samples = torch.from_numpy(waveform)[None]
    log_mel = kaldi.fbank(samples, num_mel_bins=80, dither=0.0, snip_edges=False, high_freq=-400.0)
    converted = (log_mel.exp() @ torch.from_numpy(kaldi_to_ours(config)).float()).clamp(min=1e-8).log()
    ours, _ = LogMel(config)(samples, torch.tensor([len(waveform)]))
    difference = (converted[: ours.shape[1]] - ours[0]).abs()
    assert float(difference.median()) < 0.35
    assert float(ours.std()) > 2


@pytest.mark.parametrize(
    ("features", "model", "named"),
    [
        ({"hop_s": 0.0075}, {}, r"features.hop_s=0.0075 \(expected 0.01\)"),
        ({"preemphasis": 0.0}, {}, r"features.preemphasis=0 \(expected 0.97\)"),
        ({"centred": False}, {}, r"features.centred=false \(expected true\)"),
        ({}, {"subsampling": 2}, "20 ms a label"),
        ({}, {"upsampling": 2}, "20 ms a label"),
    ],
)
def test_options_that_a_stream_cannot_have_are_named_with_what_is_expected(features, model, named):
    config = SmallModel(features=NEMO_FEATURES | features, **model).config
    assert any(re.search(named, obstacle) for obstacle in sherpa_graphs.nemo_obstacles(config))


def test_recordings_at_another_rate_or_of_short_frames_are_refused():
    with pytest.raises(
        ModelError, match="mine: sherpa-onnx feeds whole recordings at 16000 Hz, got a model of 8000 Hz"
    ):
        sherpa_graphs.check_omnilingual(SmallModel(features={"sample_rate_hz": 8000, "high_hz": 4000}).config, "mine")
    with pytest.raises(ModelError, match="counts 20 ms a frame of whole recordings, got 15 ms"):
        sherpa_graphs.check_omnilingual(SmallModel(subsampling=2).config, "mine")
