"""Model directories: round trip, what damage is called, and that no failed write costs what was there before."""

import dataclasses
import errno
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import mutants
import pytest
import torch
from corpus import make_config, start
from torch import nn

from asr import files
from asr.config.sections import ModelConfig
from asr.decode import confidence
from asr.errors import AsrError, ConfigError, ModelError
from asr.models import description, model_directory
from asr.models.acoustic import AcousticModel
from asr.models.description import FeatureStats
from asr.models.tensors import load_metadata, load_shapes, load_tensors, save_tensors
from asr.recognize import decoder
from asr.recognize.options import load_options
from asr.text import tokenizer as tokenizer_module
from asr.text.tokenizer import CharTokenizer


def make_model(folder, *, storage="float32", card=None, **model):
    """A model directory with random weights; returns its network and configuration."""
    config = make_config(folder, model=model)
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B", "Ü"], config.text)
    torch.manual_seed(0)
    network = AcousticModel(config.model, config.features.mel_bins, tokenizer.vocab_size)
    stats = FeatureStats(tuple(range(16)), (0.1,) * 16, 100)
    model_directory.save_model_description(folder, config, tokenizer, stats)
    card = {"format": 1, "note": "ü"} if card is None else card
    model_directory.save_weights(folder, network, card, storage=storage)
    return network, config


def leftovers(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".")]


def file_with(value, size=10):
    return {"weights": torch.full((size,), float(value))}


# Round trip


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_model_directory_gives_back_what_was_saved(tmp_path, cell):
    network, config = make_model(tmp_path, cell=cell)
    model = model_directory.load_model(tmp_path)
    assert model.config == config
    assert model.tokenizer.symbols == ("<blank>", " ", "A", "B", "Ü")
    assert model.stats == FeatureStats(tuple(map(float, range(16))), (0.1,) * 16, 100)
    assert model.card == {"format": 1, "note": "ü"}
    assert not model.network.training
    loaded = model.network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.yaml", "tokens.txt", "stats.json", "model.safetensors", "card.json",
    }  # fmt: skip


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    make_model(tmp_path / "full", hidden=64)
    network, _ = make_model(tmp_path / "half", hidden=64, storage="float16")
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.55 * full
    for name, value in model_directory.load_model(tmp_path / "half").network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_weights_too_large_for_half_precision_are_not_saved_as_infinity(tmp_path):
    network = nn.Linear(2, 2)
    nn.init.constant_(network.weight, 1e5)
    with pytest.raises(ModelError, match=r"weight holds values that are not finite as torch\.float16"):
        model_directory.save_weights(tmp_path, network, {}, storage="float16")
    assert list(tmp_path.iterdir()) == []


def test_tensors_and_metadata_round_trip_with_their_types(tmp_path):
    tensors = {
        "float": torch.randn(3, 4).t(),
        "byte": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    save_tensors(tmp_path / "x", tensors, {"best": float("inf"), "name": "é"})
    loaded, metadata = load_tensors(tmp_path / "x")
    assert metadata == load_metadata(tmp_path / "x") == {"best": float("inf"), "name": "é"}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[n], t) and loaded[n].dtype == t.dtype for n, t in tensors.items())


def test_loaded_tensors_can_be_changed_without_changing_the_file(tmp_path):
    save_tensors(tmp_path / "x", file_with(1))
    loaded, _ = load_tensors(tmp_path / "x")
    loaded["weights"].add_(1)
    assert load_tensors(tmp_path / "x")[0]["weights"].eq(1).all()


def test_a_saved_model_describes_itself(tmp_path):
    make_model(tmp_path, card={"validation": {"wer": 0.123456}})
    text = description.describe_model(description.read_description(tmp_path))
    assert "1 x 12 bidirectional lstm" in text
    assert "8000 Hz" in text
    assert "wer 12.35 %" in text


def test_an_unknown_name_lists_what_there_is(tmp_path):
    with pytest.raises(ModelError, match="nonesuch: neither a model directory nor a bundled model"):
        model_directory.load_model("nonesuch")


# Damage


@pytest.mark.parametrize("name", ["config.yaml", "tokens.txt", "stats.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    make_model(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        model_directory.load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "tokens.txt", "stats.json", "model.safetensors", "card.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "noise"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    make_model(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    # Half of a text may well be valid: those are cut inside a word.
    word = {"config.yaml": b"mel_bi", "tokens.txt": b"<spa"}.get(name)
    cut = content.index(word) + len(word) if word else len(content) // 2
    path.write_bytes({"empty": b"", "half": content[:cut], "noise": b"\xff\x00\x17{[" * 50}[damage])
    # An empty configuration is the default one, which the other files do not fit.
    named = "tokens|stats|model" if (name, damage) == ("config.yaml", "empty") else name
    with pytest.raises((ModelError, ConfigError), match=named):
        model_directory.load_model(tmp_path)


def test_no_cut_of_a_weights_file_goes_unnoticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(3), "b": torch.ones(2)}, {"step": 3})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"x\.safetensors"):
            load_tensors(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ModelError):
        load_tensors(path)


def test_a_file_is_read_whole_while_another_takes_its_place(tmp_path):
    """As a training does; each version is one length and one value throughout."""
    path = tmp_path / "x.safetensors"
    stop = threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            size = 1000 + 100 * (turn % 7)
            save_tensors(path, {"weights": torch.full((size,), float(size))}, {"size": size})

    save_tensors(path, {"weights": torch.full((1000,), 1000.0)}, {"size": 1000})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            tensors, metadata = load_tensors(path)
            assert tensors["weights"].eq(metadata["size"]).all()
            assert tensors["weights"].numel() == metadata["size"]
            assert load_metadata(path)["size"] >= 1000
    finally:
        stop.set()
        writer.join()


def test_a_pickle_is_not_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save(Payload(), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_tensors(tmp_path / "x.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_what_is_no_file_is_a_model_error(tmp_path, kind):
    path = tmp_path if kind == "folder" else tmp_path / "x"
    with pytest.raises(ModelError, match=str(path)):
        load_tensors(path)


def test_weights_of_another_architecture_are_listed(tmp_path):
    network, _ = make_model(tmp_path)
    make_model(tmp_path / "wider", hidden=20)
    (tmp_path / "wider" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"another architecture: .* is \(80, .*\), expected \(48, .* more"):
        model_directory.load_model(tmp_path)
    weights = dict(network.state_dict())
    weights["extra"] = weights.pop("output.bias")
    with pytest.raises(ModelError, match=r"missing output\.bias; unexpected extra"):
        model_directory.load_weights(network, weights, tmp_path)


def test_weights_are_not_touched_by_a_failed_load():
    network = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError):
        model_directory.load_weights(network, {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, Path("x"))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [("tokens.txt", "<blank>\n<space>\nA\n"), ("stats.json", '{"mean": [0, 0], "std": [1, 1], "frames": 3}')],
)
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path, name, text):
    make_model(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError):
        model_directory.load_model(tmp_path)


@pytest.mark.parametrize("text", ['{"mean": [], "std": [], "frames": 0}', '{"mean": [0], "std": [0], "frames": 1}'])
def test_statistics_that_cannot_be_are_a_model_error(tmp_path, text):
    make_model(tmp_path)
    (tmp_path / "stats.json").write_text(text)
    with pytest.raises(ModelError, match=r"stats\.json"):
        model_directory.load_model(tmp_path)


# Models of others


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"hidden": 300_000_000}, r"encoder\.layers\.0\S+ is .*, expected .*000"),
        ("model", {"hidden": 10**18}, r"config\.yaml: no network can have these sizes"),
        ("model", {"layers": 10**9}, r"\d+ tensors, expected 1000000000 layers"),
        ("model", {"channels": 10**8}, "another architecture"),
        ("model", {"projection": 10**9}, "another architecture"),
    ],
)
def test_no_memory_is_taken_for_a_network_that_the_weights_are_not_of(tmp_path, section, values, message):
    _, config = make_model(tmp_path)
    part = dataclasses.replace(getattr(config, section), **values)
    model_directory.save_config(tmp_path, dataclasses.replace(config, **{section: part}))
    before = torch.get_rng_state()
    with pytest.raises(ModelError, match=message):
        model_directory.load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before), "nothing was drawn: nothing was built"


def test_a_header_that_claims_too_much_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    for size in (10**9, 2**63, 2**64 - 1):
        path.write_bytes(size.to_bytes(8, "little") + b"{}")
        for read in (load_metadata, load_shapes, load_tensors):
            with pytest.raises(ModelError, match=r"x\.safetensors: not a readable safetensors file"):
                read(path)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"[1]", b'{"a": 1}', b'{"a": {"shape": 3}}', b'{"a": {}}', b"\xff"])
def test_a_header_of_another_kind_is_a_model_error(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match=r"x\.safetensors: not a readable safetensors file"):
        load_shapes(path)


@pytest.mark.parametrize("name", ["stats.json", "card.json", "confidence.json"])
@pytest.mark.parametrize(
    "number", ["NaN", "-Infinity", "1e308", "1" + "0" * 308, pytest.param("[" * 100_000, id="nested")]
)
def test_numbers_that_cannot_be_are_named_with_file_and_key(tmp_path, name, number):
    make_model(tmp_path)
    texts = {
        "stats.json": '{"mean": [0], "std": [1], "frames": NUMBER}',
        "card.json": '{"hours": NUMBER}',
        "confidence.json": '{"greedy": {"posterior": NUMBER, "share": 0, "bias": 0}}',
    }
    keys = {"stats.json": "frames", "card.json": "hours", "confidence.json": r"greedy\.posterior"}
    (tmp_path / name).write_text(texts[name].replace("NUMBER", number))
    wanted = "nested too deeply" if number.startswith("[") else f"{keys[name]}: expected a"
    with pytest.raises(ModelError, match=rf"{name}: .*{wanted}"):
        confidence.load_calibration(tmp_path) if name == "confidence.json" else model_directory.load_model(tmp_path)


def test_a_card_has_null_where_a_figure_is_not_finite(tmp_path):
    make_model(tmp_path, card={"validation": {"loss": float("inf"), "wer": [float("nan"), 1.0]}})
    assert description.load_card(tmp_path) == {"validation": {"loss": None, "wer": [None, 1.0]}}


def test_lists_of_tokens_have_a_largest_size(tmp_path, monkeypatch):
    make_model(tmp_path)
    monkeypatch.setattr(tokenizer_module, "LARGEST_LIST", 3)
    with pytest.raises(ModelError, match=r"tokens\.txt: .*expected at most 3 bytes"):
        model_directory.load_model(tmp_path)


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_no_damage_to_a_model_directory_ends_in_a_traceback(tmp_path, storage):
    make_model(tmp_path, hidden=64, storage=storage)
    confidence.save_calibration(tmp_path, {"greedy": confidence.Calibration(1.0, 0.5, 0.0)})
    options = "beam: 4\nlexicon: words.txt\nword_bonus: 0.5\nhotwords: {AB: 2.0}\nunknown_penalty: -3\n"
    (tmp_path / "decoding.yaml").write_text(options)
    (tmp_path / "words.txt").write_text("AB\nBA\n")
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rng, refused = random.Random(5), 0
    for _ in range(250):
        name = rng.choice(sorted(whole))
        tensors = name.endswith(".safetensors")
        data = mutants.mutant_tensors(whole[name], rng) if tensors else mutants.mutant(whole[name], rng, 10**6)
        (tmp_path / name).write_bytes(data)
        try:
            model = model_directory.load_model(tmp_path)
            confidence.load_calibration(tmp_path)
            decoder.Decoder(load_options(tmp_path), model.tokenizer)
        except AsrError:
            refused += 1
        (tmp_path / name).write_bytes(whole[name])
    assert 50 < refused < 250


# Writes that fail


def test_an_error_in_the_block_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def write():
        with files.atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failing_system_call_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "x.safetensors"
    save_tensors(path, file_with(1))

    def fail(*args):
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail) if function == "fsync" else patch.setattr(Path, "replace", fail)
        with pytest.raises(ModelError, match=r"x\.safetensors: cannot write: .*I/O error"):
            save_tensors(path, file_with(2))
    assert load_tensors(path)[0]["weights"].eq(1).all()
    assert leftovers(tmp_path) == []


def write_without_room(folder: Path) -> None:
    """Every write beyond 20,000 bytes of a file fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        save_tensors(folder / "x.safetensors", file_with(2, 100_000))
    except ModelError as error:
        (folder / "error").write_text(str(error))


def test_a_write_that_runs_out_of_room_is_named_and_leaves_the_old_file(tmp_path):
    save_tensors(tmp_path / "x.safetensors", file_with(1))
    process = start(write_without_room, tmp_path)
    process.join(300)
    assert process.exitcode == 0
    assert "x.safetensors: cannot write" in (tmp_path / "error").read_text()
    assert load_tensors(tmp_path / "x.safetensors")[0]["weights"].eq(1).all()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("what", ["weights", "card", "description"])
def test_a_full_disk_is_a_model_error_everywhere(tmp_path, monkeypatch, what):
    network, config = make_model(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "weights":
        monkeypatch.setattr("safetensors.torch.save_file", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    other = dataclasses.replace(config, model=ModelConfig())
    tokenizer = CharTokenizer(["<blank>", "A"], config.text)
    if what == "description":
        with pytest.raises(ModelError, match="No space left on device"):
            model_directory.save_model_description(tmp_path, other, tokenizer, FeatureStats((0.0,), (1.0,), 1))
    else:
        with pytest.raises(ModelError, match="No space left on device"):
            model_directory.save_weights(tmp_path, network, {"new": True})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_read_only_folder_is_a_model_error(tmp_path):
    # pytest's own folders are closed to other users, and root must become one to be refused.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, config = make_model(folder)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(ModelError, match=r"model\.safetensors: cannot write: .*[Pp]ermission denied"):
                model_directory.save_weights(folder, network, {})
            tokenizer = CharTokenizer(["<blank>", "A"], config.text)
            with pytest.raises(ModelError, match="cannot write the model directory"):
                model_directory.save_model_description(folder, config, tokenizer, FeatureStats((0.0,), (1.0,), 1))
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert model_directory.load_model(folder).config == config


def test_a_file_in_the_folders_place_is_a_model_error(tmp_path):
    network, config = make_model(tmp_path / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError):
        model_directory.save_weights(tmp_path / "file" / "run", network, {})
    tokenizer = CharTokenizer(["<blank>", "A"], config.text)
    with pytest.raises(ModelError, match="file"):
        model_directory.save_model_description(tmp_path / "file", config, tokenizer, FeatureStats((0.0,), (1.0,), 1))


def write_forever(path: Path) -> None:
    for number in range(1, 10**9):
        save_tensors(path, file_with(number, 500_000), {"number": number})


def test_a_kill_in_a_write_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, file_with(0, 500_000), {"number": 0})
    killed_in_write = 0
    for trial in range(12):
        process = start(write_forever, path)
        while load_metadata(path)["number"] < 1 and process.is_alive():
            time.sleep(0.001)
        # No moment is special; most of them are in a write.
        time.sleep(0.003 * trial)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        killed_in_write += bool(leftovers(tmp_path))
        tensors, metadata = load_tensors(path)
        assert tensors["weights"].eq(metadata["number"]).all()
        files.sweep(tmp_path)
        assert leftovers(tmp_path) == []
        save_tensors(path, file_with(0, 500_000), {"number": 0})
    assert killed_in_write > 0


def test_new_files_have_the_usual_permissions(tmp_path):
    save_tensors(tmp_path / "x", file_with(1))
    (tmp_path / "y").write_text("")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_a_card_is_json_that_everyone_reads(tmp_path):
    make_model(tmp_path, card={"validation": {"wer": 0.1}})
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8")) == {"validation": {"wer": 0.1}}


def test_errors_are_of_this_package():
    assert issubclass(ModelError, AsrError)


def test_loading_a_model_and_its_language_model_does_not_import_the_compiler_of_torch():
    code = "import asr, sys; asr.load(); print({'torch._dynamo', 'sympy', 'torch.onnx'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
