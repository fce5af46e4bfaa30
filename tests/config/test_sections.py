"""Configuration: strict keys and types, overrides, ranges, round trip."""

import dataclasses
import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import Config, load_config
from asr.config.training_sections import TrainConfig
from asr.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "conf.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"unknown key modle; did you mean model\?"),
        ("model: {layer: 3}", r"unknown key model\.layer; did you mean model\.layers\?"),
        ("model: {zzz: 3}", r"unknown key model\.zzz; known keys: .*subsampling.*dropout"),
        ("1: 2", "unknown key 1"),
        ("model: {layers: '3'}", r"model\.layers: expected int, got '3'"),
        ("model: {layers: 3.0}", r"model\.layers: expected int, got 3\.0"),
        ("model: {layers: true}", r"model\.layers: expected int, got True"),
        ("model: {layers: }", r"model\.layers: expected int, got None"),
        ("model: {bidirectional: 1}", r"model\.bidirectional: expected bool, got 1"),
        ("model: {dropout: true}", r"model\.dropout: expected float, got True"),
        ("model: {dropout: much}", r"model\.dropout: expected float, got 'much'"),
        ("model: {cell: 3}", r"model\.cell: expected str, got 3"),
        ("model: 3", r"model: expected a mapping, got 3"),
        ("augment: {speeds: 1.0}", r"augment\.speeds: expected a list, got 1\.0"),
        ("augment: {speeds: [1, fast]}", r"augment\.speeds\[1\]: expected float, got 'fast'"),
        ("optim: {betas: [0.9]}", r"optim\.betas: expected 2 values, got 1"),
        ("text: {replace: [a, b]}", r"text\.replace: expected a mapping"),
        ("text: {replace: {a: 1}}", r"text\.replace\.a: expected str, got 1"),
        ("text: {replace: {no: x}}", r"text\.replace: expected str, got False"),
        ("- model", "expected a mapping of sections at the top, got list"),
        ("model: {layers: 3", "not valid YAML"),
        ("model: {layers: 3}\nmodel: {hidden: 9}", "key model occurs twice"),
        ("model: {layers: 3, layers: 4}", "key layers occurs twice"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "conf.yaml" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "conf.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"conf\.yaml: cannot read"):
        load_config(path)


def test_empty_files_and_sections_are_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "")) == Config()
    assert load_config(write(tmp_path, "model:\ntrain: {}\n")) == Config()


def test_ints_and_exponents_without_a_dot_are_floats(tmp_path):
    config = load_config(write(tmp_path, "optim: {learning_rate: 2e-3, clip_norm: 5}\naugment: {speeds: [1]}"))
    assert config.optim.learning_rate == 0.002
    assert config.optim.clip_norm == 5.0
    assert isinstance(config.optim.clip_norm, float)
    assert config.augment.speeds == (1.0,)


def test_a_merged_key_may_be_overridden(tmp_path):
    text = "optim:\n  <<: {clip_norm: 2.0, weight_decay: 0.5}\n  clip_norm: 3.0\n"
    optim = load_config(write(tmp_path, text)).optim
    assert (optim.clip_norm, optim.weight_decay) == (3.0, 0.5)


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = write(tmp_path, "model: {layers: 2, hidden: 7}\ndata:\n")
    config = load_config(path, ["model.layers=5", "data.train=a=b.jsonl", "augment.speeds=[0.9, 1]", "model.layers=6"])
    assert (config.model.layers, config.model.hidden) == (6, 7)
    assert config.data.train == "a=b.jsonl"
    assert config.augment.speeds == (0.9, 1.0)


@pytest.mark.parametrize("empty", ["augment.splice=", "augment.splice=''", 'augment.splice=""'])
def test_an_override_with_nothing_behind_the_sign_is_an_empty_text(tmp_path, empty):
    path = write(tmp_path, "augment: {splice: pieces.jsonl}\n")
    assert load_config(path, [empty]).augment.splice == ""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.layers", "expected key.sub=value"),
        ("=3", "expected key.sub=value"),
        ("model.layers.x=3", "layers is not a section"),
        ("model.layesr=3", r"did you mean model\.layers\?"),
        ("model=3", "model: expected a mapping"),
        ("model..layers=3", r"unknown key model\."),
        ("model.layers=[", "not valid YAML"),
        ("model.layers=", "expected int, got ''"),
        ("model.layers=null", "expected int, got None"),
    ],
)
def test_a_wrong_override_is_an_error(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "model: {layers: 2}"), [override])


def test_the_file_is_named_for_its_own_errors_only(tmp_path):
    path = write(tmp_path, "model: {layers: 2}")
    with pytest.raises(ConfigError, match=r"^unknown key model\.layesr"):
        load_config(path, ["model.layesr=3"])
    with pytest.raises(ConfigError, match=rf"^{path}: model\.layers: expected > 0"):
        load_config(write(tmp_path, "model: {layers: 0}"), ["model.layers=3"])


RANGES = {
    "text.tokenizer": (["syllable"], ["char", "bpe", "word"]),
    "text.bpe_size": ([1, -3], [2, 5000]),
    "text.case": (["title"], ["upper", "lower", "keep"]),
    "text.unknown": (["drop"], ["error", "space"]),
    "text.replace": ([{"": "x"}], [{}, {"-": " "}]),
    "features.sample_rate_hz": ([0, -8000], [16000, 48000]),
    "features.window_s": ([0.0, 0.009, 1.5, math.inf, math.nan], [0.010, 0.025]),
    "features.hop_s": ([0.0, 0.026, 1e-5, math.nan], [0.001, 0.025]),
    "features.mel_bins": ([0], [1, 128]),
    "features.floor": ([0.0, -1e-8, 1e-40, math.inf, math.nan], [1e-10]),
    "features.adapt_s": ([-0.1, math.inf, math.nan], [0.0, 0.5]),
    "features.preemphasis": ([-0.1, 1.0, math.nan], [0.0, 0.97]),
    "features.low_hz": ([-1.0, 8000.0, math.nan], [0.0, 7999.0]),
    "features.high_hz": ([20.0, 8001.0, math.nan], [8000.0]),
    "augment.speeds": ([[], [0.4], [1.0, 2.1], [math.nan]], [[1.0], [0.5, 2.0]]),
    "augment.silence_s": ([-0.1, 11.0, math.nan], [0.0, 1.0]),
    "augment.reverb_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.reverb_rt60_s": ([[0.0, 1.0], [0.5, 0.4], [0.1, 6.0], [math.nan, 1.0]], [[0.3, 0.3]]),
    "augment.reverb_ratio_db": ([[3.0, 2.0], [0.0, 50.0]], [[-5.0, 20.0]]),
    "augment.noise_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.noise_snr_db": ([[20.0, 10.0], [0.0, math.inf]], [[-5.0, 20.0]]),
    "augment.babble_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.babble_voices": ([[0, 2], [3, 2], [1, 51]], [[1, 1], [4, 50]]),
    "augment.babble_snr_db": ([[20.0, 10.0], [0.0, math.inf]], [[-5.0, 20.0]]),
    "augment.packet_loss_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.packet_loss_rate": ([[-0.1, 0.5], [0.2, 0.1], [0.0, 1.1]], [[0.0, 1.0], [0.1, 0.1]]),
    "augment.telephone_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.codec_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.splice_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.opus_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.gsm_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.clip_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.trim_prob": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.gain_db": ([-1.0, 61.0, math.nan], [0.0, 20.0]),
    "augment.warp": ([-0.1, 0.5, math.nan], [0.0, 0.2]),
    "augment.tilt_db": ([-1.0, 41.0, math.nan], [0.0, 6.0]),
    "augment.time_masks": ([-1], [0, 10]),
    "augment.time_mask_frames": ([-1], [0]),
    "augment.time_mask_ratio": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "augment.freq_masks": ([-1], [0]),
    "augment.freq_mask_bins": ([-1], [0, 1000]),
    "model.subsampling": ([0, 1, 3, 8], [2, 4]),
    "model.upsampling": ([0, 5], [1, 4]),
    "model.channels": ([0], [1]),
    "model.cell": (["transformer"], ["rnn", "rnn_relu", "gru", "lstm", "min_gru", "ssm"]),
    "model.layers": ([0], [1]),
    "model.hidden": ([0, -4], [1]),
    "model.projection": ([-1], [0, 128]),
    "model.lookahead": ([-1, 3], [0]),  # 3: the default is bidirectional, which needs none
    "model.dropout": ([-0.1, 1.0, math.nan], [0.0, 0.99]),
    "model.recurrent_dropout": ([-0.1, 1.0, math.nan], [0.0, 0.99]),
    "model.intermediate_ctc": ([-0.1, 1.0, math.nan], [0.0, 0.5]),
    "data.batch_s": ([0.0, math.nan, "large"], [1.0, "auto"]),
    "data.max_utterance_s": ([0.0, math.nan], [math.inf]),
    "data.prefetch": ([0], [1]),
    "data.workers": ([-1, "many"], [0, 1, 16, "auto"]),
    "data.rehearsal_s": ([-1.0, math.inf, math.nan], [0.0, 60.0]),
    "data.cache_s": ([-1.0, math.nan], [0.0, math.inf]),
    "data.shuffle_s": ([0.0, -1.0, math.nan], [1.0, math.inf]),
    "optim.learning_rate": ([0.0, math.inf, math.nan], [1e-5]),
    "optim.schedule": (["linear"], ["cosine", "wsd"]),
    "optim.warmup_ratio": ([-0.1, 1.1], [0.0, 1.0]),
    "optim.warmup_steps": ([-1], [0, 1000]),
    "optim.decay_ratio": ([-0.1, 1.1], [0.0, 1.0]),
    "optim.final_ratio": ([-0.1, 1.1], [0.0, 1.0]),
    "optim.weight_decay": ([-0.1, math.inf], [0.0]),
    "optim.betas": ([[0.9, 1.0], [-0.1, 0.9]], [[0.0, 0.999]]),
    "optim.clip_norm": ([0.0, math.nan], [math.inf]),
    "optim.layer_decay": ([0.0, -1.0, 1.1, math.nan], [0.5, 1.0]),
    "optim.label_smoothing": ([-0.1, 1.0, math.nan], [0.0, 0.2]),
    "train.teacher_share": ([-0.1, 1.1, math.nan], [0.0, 1.0]),
    "train.teacher_delay_s": ([-0.1, 11.0, math.nan], [0.0, 10.0]),
    "train.consistency": ([-0.1, 11.0, math.nan], [0.0, 0.2]),
    "train.freeze": ([-1, 1], [0]),  # 1: there is no train.init to keep anything of
    "train.epochs": ([0], [1]),
    "train.seconds": ([-1.0, math.inf, math.nan], [0.0, 0.1, 1e6]),
    "train.validate_every_s": ([-1.0, math.inf, math.nan], [0.0, 60.0]),
    "train.seed": ([-1, 2**32], [0, 2**32 - 1]),
    "train.threads": ([-1], [0, 64]),
    "train.precision": (["fp8", "float16"], ["fp32", "bf16", "fp16"]),
    "train.average_epochs": ([-1, 61], [0, 60]),
    "train.ema": ([-0.1, 1.0, math.nan], [0.0, 0.999]),
    "train.validate_every_epochs": ([0], [1]),
    "train.patience": ([-1, 1], [0]),  # 1: there is no data.valid to be patient with
    "train.checkpoint_every_s": ([0.0, math.nan], [0.001, math.inf]),
    "train.max_bad_steps": ([0], [1]),
}
FREE = {
    "augment.splice",
    "text.lexicon",  # only with text.tokenizer=phone, see tests/test_tokenizers.py
    "text.g2p",
    "text.word_boundary",
    "text.alphabet",
    "augment.reverb_dir",
    "augment.noise_dir",
    "augment.babble_dir",
    "features.centred",
    "model.bidirectional",
    "model.residual",
    "model.locked_dropout",
    "data.train",
    "data.more",
    "data.sources",  # see test_sources_are_held_to_their_ranges_by_name
    "data.valid",
    "data.shortest_first",
    "train.compile",
    "train.init",
    "train.teacher",
    "train.tensorboard",
    "train.output",
    "train.device",
}


def test_every_key_has_a_range_test_or_is_free():
    sections = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config)}
    keys = {f"{name}.{f.name}" for name, section in sections.items() for f in dataclasses.fields(section)}
    assert keys == RANGES.keys() | FREE


@pytest.mark.parametrize("key", RANGES)
def test_ranges(key):
    section, name = key.split(".")
    bad, good = RANGES[key]
    for value in bad:
        with pytest.raises(ConfigError, match=section):
            loader.from_dict(Config, {section: {name: value}})
    for value in good:
        got = getattr(getattr(loader.from_dict(Config, {section: {name: value}}), section), name)
        assert got == (tuple(value) if isinstance(value, list) else value)


def test_patience_needs_held_out_data():
    found = loader.from_dict(Config, {"train": {"patience": 3}, "data": {"valid": "valid.jsonl"}})
    assert found.train.patience == 3
    with pytest.raises(ConfigError, match=r"train\.patience: expected 0 without held-out data \(data\.valid\), got 3"):
        loader.from_dict(Config, {"train": {"patience": 3}})


def test_patience_needs_held_out_texts_of_a_language_model():
    with pytest.raises(ConfigError, match=r"train\.patience: expected 0 without held-out data"):
        loader.from_dict(LanguageConfig, {"train": {"patience": 3}})


def test_patience_and_a_mean_of_the_last_epochs_exclude_each_other():
    with pytest.raises(ConfigError, match=r"train\.average_epochs: expected 0 beside train\.patience"):
        TrainConfig(patience=3, average_epochs=2)


@given(
    st.fixed_dictionaries(
        {
            "text": st.fixed_dictionaries(
                {
                    "replace": st.dictionaries(st.text(min_size=1), st.text()),
                    "alphabet": st.text(),
                    "case": st.sampled_from(["upper", "lower", "keep"]),
                }
            ),
            "augment": st.fixed_dictionaries({"speeds": st.lists(st.floats(0.5, 2), min_size=1)}),
            "optim": st.fixed_dictionaries({"learning_rate": st.floats(1e-12, 1e3), "clip_norm": st.just(math.inf)}),
            "data": st.fixed_dictionaries({"train": st.text(), "max_utterance_s": st.floats(0.1)}),
            "model": st.fixed_dictionaries({"bidirectional": st.booleans(), "layers": st.integers(1, 10**9)}),
        }
    )
)
@example({"text": {"alphabet": "é\x85\u2028", "replace": {"\x85": "\u2029"}}})
def test_yaml_round_trip(tree):
    config = loader.from_dict(Config, tree)
    assert loader.from_dict(Config, yaml.safe_load(loader.dumps(config))) == config
    assert loader.from_dict(Config, loader.to_dict(config)) == config


def test_a_dumped_file_loads(tmp_path):
    config = loader.from_dict(Config, {"text": {"replace": {"é": "e", "no": "1"}}, "train": {"output": "007"}})
    assert load_config(write(tmp_path, loader.dumps(config))) == config


# Files of others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text: {case: &a lower, unknown: *a}", r"aliases \(\*name\) are not supported"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", r"(?s)aliases .* line 2"),
        ("model: " + "[" * 5000, "nested too deeply"),
        ("model: {layers: " + "9" * 5000 + "}", "not valid YAML"),
        ("model: {layers: 2024-13-45}", "not valid YAML"),
        ("optim: {learning_rate: " + "9" * 400 + "}", r"optim\.learning_rate: expected float, got 9+"),
        ("optim: {learning_rate: .nan}", r"optim\.learning_rate: expected float, got nan"),
        ("features: {sample_rate_hz: 1000000000}", r"features\.sample_rate_hz: expected 1 to 768000"),
        ("features: {mel_bins: 1000000000}", r"features\.mel_bins: expected 1 to 4096"),
        ("features: {mel_bins: 4096, sample_rate_hz: 768000, window_s: 1.0}", r"features: expected at most 16777216 w"),
        ("#" * 1_000_001, "expected a configuration of at most 1,000,000 bytes"),
    ],
)
def test_a_hostile_configuration_is_a_short_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert len(str(caught.value)) < 1000


def test_long_values_are_cut_in_messages(tmp_path):
    for text in ("model: {layers: " + "x" * 100_000 + "}", "model: {" + "x" * 900 + ": 1}", f"model: {[0] * 100_000}"):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, text))
        assert len(str(caught.value)) < 700


def test_endless_devices_are_not_read_to_their_end():
    with pytest.raises(ConfigError, match="/dev/zero: expected a configuration of at most"):
        load_config("/dev/zero")


def test_equal_parts_are_written_without_aliases():
    values = ["a"]
    assert yaml.safe_load(loader.dump({"x": values, "y": values})) == {"x": ["a"], "y": ["a"]}
    assert "*" not in loader.dump({"x": values, "y": values})
