"""Recognition by onnxruntime: what torch gives, without torch; exports, lone graphs, and files that are refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import TOKENIZER, make_recognizer, sound

import asr
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.errors import ConfigError, DecodeError, ModelError
from asr.export.onnx_folder import export_onnx
from asr.lm import lm_directory
from asr.lm.recurrent import LanguageNetwork
from asr.models import model_directory
from asr.models.description import read_description
from asr.models.onnx_files import check_graph
from asr.recognize import loading
from asr.recognize.recognizer import Recognizer, load
from asr.recognize.stream import Stream, finish_streams
from asr.recognize.stream_batch import StreamBatch

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "egs" / "sample.wav"
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}: it is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""
CELLS = ("lstm", "gru", "rnn", "min_gru", "ssm")


def save(recognizer, folder, storage="float32"):
    """A recogniser's model as a directory."""
    model = recognizer.model
    model_directory.save_model_description(folder, model.config, model.tokenizer, model.stats)
    model_directory.save_weights(folder, recognizer.backend.network, {"name": "small"}, storage=storage)
    return folder


def without_torch(folder):
    """A model directory that onnxruntime runs."""
    return Recognizer(loading._directory_as_graphs(folder))


def run(code, *arguments):
    """What a program prints in a process of its own, where torch cannot be imported."""
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [{"bidirectional": True}, {"lookahead": 2}, {"upsampling": 2, "subsampling": 2}, {"centred": True}],
    ids=str,
)
def test_batches_of_recordings_give_what_torch_gives(tmp_path, cell, options):
    torch = make_recognizer(tmp_path, cell, **options)
    onnx = without_torch(save(torch, tmp_path / "model"))
    waveforms = [sound(seconds, seed=round(10 * seconds)) for seconds in (0.03, 1.3, 0.7)]
    expected, lengths = torch.log_probs(waveforms)
    found, counts = onnx.log_probs(waveforms)
    assert counts.tolist() == lengths.tolist()
    for ours, theirs, count in zip(found, expected, counts, strict=True):
        np.testing.assert_allclose(ours[:count], theirs[:count], atol=1e-3)


def fed(live, samples, sizes):
    """All rows of a stream that gets its samples in blocks of these sizes, in turn, and its transcript."""
    rows, plain, at, turn = [], live.recognizer.decoder.accept, 0, 0
    live.recognizer.decoder.accept = lambda searches, parts: (rows.extend(parts), plain(searches, parts))
    try:
        while at < len(samples):
            live.accept(samples[at : at + sizes[turn % len(sizes)]])
            at, turn = at + sizes[turn % len(sizes)], turn + 1
        final = live.finish()
    finally:
        live.recognizer.decoder.accept = plain
    return np.concatenate(rows), final


@settings(max_examples=25, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    sizes=st.lists(st.integers(1, 20000), min_size=1, max_size=4),
    seconds=st.floats(0.03, 2.0),
    options=st.sampled_from(
        [{}, {"lookahead": 3}, {"upsampling": 2}, {"subsampling": 2, "adapt_s": 0.5}, {"centred": True}]
    ),
)
def test_streams_give_what_torch_gives_for_any_blocks(tmp_path_factory, cell, sizes, seconds, options):
    folder = tmp_path_factory.mktemp("model")
    torch = make_recognizer(folder, cell, **options)
    onnx = without_torch(save(torch, folder / "model"))
    samples = sound(seconds, seed=int(100 * seconds))
    rows, final = fed(Stream(onnx), samples, sizes)
    expected, theirs = fed(Stream(torch), samples, [len(samples)])
    np.testing.assert_allclose(rows, expected, atol=2e-3)
    assert final.text == theirs.text


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20000), min_size=1, max_size=4),
    seconds=st.floats(0.03, 2.0),
    chunk=st.integers(1, 12),
    right=st.integers(0, 12),
)
def test_chunks_of_bidirectional_models_give_what_torch_gives(tmp_path_factory, sizes, seconds, chunk, right):
    folder = tmp_path_factory.mktemp("model")
    torch = make_recognizer(folder, bidirectional=True)
    onnx = without_torch(save(torch, folder / "model"))
    samples, latency = sound(seconds, seed=3), {"chunk_s": chunk * 0.03, "right_s": right * 0.03}
    rows, _ = fed(Stream(onnx, **latency), samples, sizes)
    expected, _ = fed(Stream(torch, **latency), samples, [len(samples)])
    np.testing.assert_allclose(rows, expected, atol=2e-3)


def test_streams_that_began_at_different_times_advance_together(tmp_path):
    torch = make_recognizer(tmp_path, lookahead=2, blank=6.0)
    onnx = without_torch(save(torch, tmp_path / "model"))
    sounds = [sound(1.5, seed=seed) for seed in range(3)]
    batch = StreamBatch(onnx)
    streams = [batch.open() for _ in sounds]
    for turn in range(17):
        blocks = {}
        for late, (stream, samples) in enumerate(zip(streams, sounds, strict=True)):
            at = (turn - late) * 1600
            if 0 <= at < len(samples):
                blocks[stream] = samples[at : at + 1600]
        batch.accept(blocks)
    assert [t.text for t in finish_streams(streams)] == [torch.transcribe(samples).text for samples in sounds]


def test_a_long_recording_gives_what_torch_gives(tmp_path):
    for options in ({"bidirectional": True}, {"lookahead": 2}):
        torch = make_recognizer(tmp_path, blank=6.0, **options)
        onnx = without_torch(save(torch, tmp_path / f"{len(options)}{next(iter(options))}"))
        samples = sound(65.0, seed=9)
        found, expected = onnx.transcribe(samples), torch.transcribe(samples)
        assert found.text == expected.text
        assert len(found.words) == len(expected.words) > 1


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_stored_weights_are_those_that_torch_reads(tmp_path, storage):
    folder = save(make_recognizer(tmp_path, bidirectional=True), tmp_path / "model", storage)
    samples = [sound(1.0)]
    expected, _ = load(folder).log_probs(samples)
    np.testing.assert_allclose(without_torch(folder).log_probs(samples)[0], expected, atol=1e-3)


def export(tmp_path, lm=False, **options):
    """A model directory and its export."""
    recognizer = make_recognizer(tmp_path, **options)
    folder = save(recognizer, tmp_path / "model")
    if lm:
        config = loader.from_dict(LanguageConfig, {"model": {"hidden": 8, "embedding": 6}})
        lm_directory.save_lm_description(folder / "lm" / "lm", config, TOKENIZER)
        network = LanguageNetwork(config.model, TOKENIZER.vocab_size)
        model_directory.save_weights(folder / "lm" / "lm", network, {"name": "words"})
        (folder / "decoding.yaml").write_text("beam: 8\nlm: lm/lm\n")
    export_onnx(folder, tmp_path / "export")
    return folder, tmp_path / "export"


def test_an_export_decodes_with_its_language_model_as_the_directory(tmp_path):
    folder, exported = export(tmp_path, lm=True, blank=6.0)
    samples = sound(3.0, seed=2)
    expected, found = asr.load(folder).transcribe(samples), asr.load(exported).transcribe(samples)
    assert found.text == expected.text
    assert found.words
    assert [w.confidence for w in found.words] == pytest.approx([w.confidence for w in expected.words], abs=1e-3)


def test_an_exported_language_model_is_the_same_for_confidences_that_were_fitted_with_it(tmp_path):
    folder, exported = export(tmp_path, lm=True)
    assert lm_directory.fingerprint(exported / "lm" / "lm") == lm_directory.fingerprint(folder / "lm" / "lm")


def test_a_graph_of_an_export_stands_for_its_folder(tmp_path):
    _, exported = export(tmp_path, lm=True)
    for name in ("offline.onnx", "streaming.onnx"):
        recognizer = asr.load(exported / name)
        assert recognizer.model.path == exported
        assert recognizer.decoder.options.beam == 8


def test_what_needs_the_model_directory_says_that_it_got_an_export(tmp_path):
    _, exported = export(tmp_path)
    for place in (exported, exported / "offline.onnx"):
        with pytest.raises(ModelError, match="it is an export, which transcribes; give the model"):
            read_description(place)


@pytest.mark.parametrize("name", ["offline.onnx", "streaming.onnx"])
def test_a_lone_graph_transcribes_with_what_its_metadata_say(tmp_path, name):
    folder, exported = export(tmp_path, lookahead=2)
    lone = tmp_path / "lone" / "model.onnx"
    lone.parent.mkdir()
    shutil.copy(exported / name, lone)
    samples = sound(2.0, seed=4)
    recognizer = asr.load(lone)
    assert recognizer.transcribe(samples).text == asr.load(folder).transcribe(samples).text
    assert recognizer.model.card["name"] == "small"


def test_what_a_lone_graph_cannot_do_is_named(tmp_path):
    _, exported = export(tmp_path, bidirectional=True)
    (tmp_path / "lone").mkdir()
    for name in ("offline.onnx", "streaming.onnx"):
        shutil.copy(exported / name, tmp_path / "lone" / name)
    with pytest.raises(ModelError, match=r"expected offline\.onnx for whole recordings"):
        asr.load(tmp_path / "lone" / "streaming.onnx").transcribe(sound(1.0))
    with pytest.raises(ModelError, match=r"expected streaming\.onnx for streams"):
        asr.load(tmp_path / "lone" / "offline.onnx").stream().accept(sound(3.0))


def test_an_export_and_an_import_of_asr_do_not_import_torch(tmp_path):
    _, exported = export(tmp_path, lm=True)
    code = (
        "import sys, asr\n"
        f"r = asr.load({str(exported)!r}); r.transcribe({str(SAMPLE)!r}); r.align({str(SAMPLE)!r}, 'AB')\n"
        "r.stream().accept([0.0] * 9000)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_bundled_models_transcribe_stream_and_align_without_torch():
    code = """
import json, asr, soundfile
offline = asr.load("an4")
live = asr.load("stream").stream()
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
for at in range(0, len(samples), 1600):
    live.accept(samples[at : at + 1600])
transcript = offline.transcribe(sys.argv[1])
aligned = offline.align(sys.argv[1], "Enter 4592.")
print(json.dumps([transcript.text, transcript.written, live.finish().text, [w.start_s for w in aligned.words]]))
"""
    text, written, streamed, starts = json.loads(run(code, SAMPLE))
    assert text == streamed == "ENTER FOUR FIVE NINE TWO"
    assert written == "Enter 4592."
    assert starts == [w.start_s for w in asr.load("an4").align(SAMPLE, "Enter 4592.").words]


def test_commands_that_need_torch_say_what_to_install():
    code = "from asr.cli.main import run_command; sys.exit(run_command(['train-lm', 'recipes/an4/conf/lm.yaml']))"
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this command needs the package torch: pip install 'recurrent-asr[train]'")


def test_the_perplexity_of_an_n_gram_needs_no_torch(tmp_path):
    arpa, text = tmp_path / "words.arpa", tmp_path / "text.txt"
    arpa.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-99\t<s>\n-0.5\t</s>\n-0.5\tA\n\n\\end\\\n")
    text.write_text("A A\n")
    code = "from asr.cli.main import run_command; sys.exit(run_command(['perplexity', *sys.argv[1:]]))"
    assert run(code, arpa, text).startswith("perplexity per token 3.162, per word 3.162")


def test_the_command_transcribes_many_files_in_processes_without_torch(tmp_path):
    for name in "abc":
        shutil.copy(SAMPLE, tmp_path / f"{name}.wav")
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    code = f"""
import os
os.environ["PYTHONPATH"] = os.pathsep.join([{str(tmp_path)!r}, {str(ROOT)!r}])
from asr.cli.main import run_command
if __name__ == "__main__":
    sys.exit(run_command(["transcribe", *sys.argv[1:], "--model", "an4", "--jobs", "2"]))
"""
    (tmp_path / "main.py").write_text(BLOCKED + code)
    command = [sys.executable, str(tmp_path / "main.py"), *(str(tmp_path / f"{name}.wav") for name in "abc")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    texts = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert texts == ["ENTER FOUR FIVE NINE TWO"] * 3, done.stderr


def test_damaged_weights_are_named_without_torch(tmp_path):
    folder = save(make_recognizer(tmp_path), tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        without_torch(folder)


def test_weights_of_another_network_are_refused_when_they_are_loaded(tmp_path):
    folder = save(make_recognizer(tmp_path), tmp_path / "model")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("hidden: 12", "hidden: 13"))
    with pytest.raises(ModelError, match="weights of another architecture"):
        without_torch(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device: expected auto or cpu for a model that onnxruntime runs, got 'cuda'"),
        ({"precision": "bf16"}, "precision: expected fp32 for a model that onnxruntime runs"),
    ],
)
def test_what_needs_torch_is_refused(tmp_path, options, message):
    _, exported = export(tmp_path)
    with pytest.raises(ConfigError, match=message):
        asr.load(exported, **options)


def test_a_language_model_without_torch_cannot_adapt(tmp_path):
    _, exported = export(tmp_path, lm=True)
    with pytest.raises(DecodeError, match="cannot learn; leave lm_adapt out"):
        asr.load(exported, lm_adapt=0.1)


def test_foreign_and_mixed_up_files_are_refused(tmp_path):
    _, exported = export(tmp_path, lm=True)
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"foreign\.onnx: not an ONNX file"):
        asr.load(foreign)
    shutil.copy(exported / "lm" / "lm" / "lm.onnx", foreign)
    with pytest.raises(ModelError, match=r"foreign\.onnx: expected the graph of an acoustic model"):
        asr.load(foreign)
    tokens = exported / "tokens.txt"
    tokens.write_text(tokens.read_text().replace("D", "E"))
    with pytest.raises(ModelError, match=r"offline\.onnx: its tokens are not those of"):
        asr.load(exported, beam=1).transcribe(sound(1.0))


def changed(graph, **entries):
    """Give an exported graph other metadata."""
    model = onnx.load(graph)
    known = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, known | {f"asr.{key}": value for key, value in entries.items()})
    graph.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tokens": '["<blank>", "A", "B"]'}, r"expected log-probabilities of 3 tokens, got \d+"),
        ({"tokens": "5"}, "metadata asr.tokens: expected a list, got 5"),
        ({"card": "[]"}, r"metadata asr.card: expected a dict, got \[\]"),
        ({"features": "{}"}, "metadata asr.features: expected {'sample_rate_hz': 16000"),
        ({"latency": '{"bidirectional": true, "first_wait": 1}'}, "metadata asr.latency: expected .*False"),
        ({"states": "3"}, "metadata asr.states: expected names and shapes"),
    ],
)
def test_a_lone_graph_whose_metadata_contradict_it_is_refused(tmp_path, entries, message):
    _, exported = export(tmp_path)
    graph = tmp_path / "graph.onnx"
    shutil.copy(exported / "streaming.onnx", graph)
    changed(graph, **entries)
    with pytest.raises(ModelError, match=rf"graph\.onnx: {message}"):
        asr.load(graph)


@pytest.mark.parametrize("size", [10**9, -5, '"a"'])
def test_states_that_do_not_fit_their_inputs_are_refused(tmp_path, size):
    _, exported = export(tmp_path)
    graph = exported / "streaming.onnx"
    states = json.dumps(check_graph(graph).tree("asr.states")).replace("[-1, 1, 2,", f"[-1, 1, {size},")
    changed(graph, states=states)
    with pytest.raises(ModelError, match=r"metadata asr\.states: conv\.0: expected the shape \[-1, 1, 'a few frames'"):
        check_graph(graph)


def test_a_configuration_with_other_frames_than_its_graphs_is_refused(tmp_path):
    _, exported = export(tmp_path)
    config = exported / "config.yaml"
    text, count = re.subn(r"hop_s: [0-9.]+", "hop_s: 0.02", config.read_text())
    assert count == 1
    config.write_text(text)
    with pytest.raises(ModelError, match=r"offline\.onnx: metadata asr\.features: .*as the configuration of"):
        asr.load(exported, beam=1).transcribe(sound(1.0))
