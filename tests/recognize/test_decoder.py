"""From options to words: language models, lexicon, hot words and rescoring as users reach them; tuning; saving."""

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import make_config, make_corpus
from small import make_recognizer

import asr
from asr.cli import main
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.decode import fusion
from asr.decode.kenlm_binary import KENLM_MAGIC, KenlmNgram, is_kenlm
from asr.errors import ConfigError, DecodeError, ModelError
from asr.evaluation import tuning
from asr.lm import lm_directory, perplexities
from asr.lm.ngram_training import train_ngram
from asr.lm.recurrent import LanguageNetwork
from asr.models import model_directory
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.recognize.rescoring import Rescorer
from asr.text.bpe import BpeTokenizer
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import CharTokenizer
from asr.text.word_tokens import WordTokenizer
from asr.train import acoustic_task, language_task

TOKENIZER = CharTokenizer(["<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig())
TEXTS = ["GORDON CALLED", "GORDON SMITH CALLED", "CALL GORDON"] * 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A recurrent model and a 3-gram of the same few sentences, and tokens."""
    folder = tmp_path_factory.mktemp("lms")
    (folder / "text").write_text("\n".join(TEXTS) + "\n")
    (folder / "tokens.txt").write_bytes(TOKENIZER.symbol_list())
    tree = {
        "model": {"hidden": 32, "embedding": 16, "dropout": 0.0},
        "data": {"train": str(folder / "text"), "tokens": str(folder / "tokens.txt"), "batch": 4},
        "optim": {"learning_rate": 0.02},
        "train": {"output": str(folder / "rnn"), "epochs": 30, "threads": 1, "device": "cpu"},
    }
    language_task.train_language(loader.from_dict(LanguageConfig, tree))
    train_ngram(folder / "text", folder / "words.arpa", order=3)
    return folder


def posteriors(text, other=None, share=0.0):
    """Each symbol of ``text`` in a frame and a blank behind it; ``share`` of it goes to the symbols of ``other``."""
    rows = []
    for symbol, second in zip(text, other or text, strict=True):
        row = np.full(TOKENIZER.vocab_size, 1e-4)
        row[index(symbol)] += 1 - share
        row[index(second)] += share
        rows += [row / row.sum(), np.eye(TOKENIZER.vocab_size)[0] * 0.99 + 0.01 / TOKENIZER.vocab_size]
    matrix = np.log(np.array(rows) / np.array(rows).sum(axis=1, keepdims=True))
    return torch.from_numpy(matrix)[None].float(), torch.tensor([len(rows)])


def test_phones_become_words_by_lexicon_and_ngram(tmp_path):
    """TO and TWO sound alike; TOMATO is said in two ways. The n-gram decides, also by what follows."""
    (tmp_path / "dict").write_text("TO T UW\nTWO T UW\nTEA T IY\nTOMATO T M EY T\nTOMATO(2) T M AA T\nTOOT T UW T\n")
    (tmp_path / "text").write_text("TWO TOMATO\nTEA TO TEA\nTO TEA\nTWO\n" * 5)
    train_ngram(tmp_path / "text", tmp_path / "words.arpa", order=3)
    config = TextConfig(tokenizer="phone", lexicon=str(tmp_path / "dict"), word_boundary=True)
    tokenizer = PhoneTokenizer.from_lexicon(tmp_path / "dict", config)

    def matrix(phones):
        rows = []
        for symbol in phones.replace("|", " ").split("."):
            rows += [np.full(tokenizer.vocab_size, 1e-3), np.full(tokenizer.vocab_size, 1e-3)]
            rows[-2][tokenizer.symbols.index(symbol)] = rows[-1][0] = 1.0
        rows = np.array(rows)
        return torch.from_numpy(np.log(rows / rows.sum(axis=1, keepdims=True)))[None], torch.tensor([len(rows)])

    decoder = Decoder(Decoding(beam=16, lm=str(tmp_path / "words.arpa")), tokenizer)
    for phones, text in {
        "T.UW.|.T.M.AA.T": "TWO TOMATO",
        "T.IY.|.T.UW.|.T.IY": "TEA TO TEA",
        "T.UW.|.T.IY": "TO TEA",
        "T.UW": "TWO",
        "T.UW.T": "TWO",  # the n-gram does not know TOOT
    }.items():
        (found,) = decoder.decode(*matrix(phones))
        assert decoder.text(found.tokens) == text
    # Of a stream's text what may still become another word is not settled: TO or TWO, and a word under way.
    tokens = tokenizer.encode("TEA TO TEA TO")
    assert decoder.vocabulary.partial(tokens, 0) == ("TEA TO TEA TWO", 0)
    assert decoder.vocabulary.partial(tokens, 2) == ("TEA TO TEA TWO", 0)
    assert decoder.vocabulary.partial(tokens, 3) == ("TEA TO TEA TWO", 3)
    assert decoder.vocabulary.partial(tokens, len(tokens)) == ("TEA TO TEA TWO", 3)
    closed = Decoder(Decoding(beam=16, lexicon=str(tmp_path / "dict")), tokenizer)
    assert closed.text(closed.decode(*matrix("T.UW.T"))[0].tokens) == "TOOT"
    hot = Decoder(Decoding(beam=16, lm=str(tmp_path / "words.arpa"), hotwords={"TOOT": 9.0}), tokenizer)
    assert hot.text(hot.decode(*matrix("T.UW.T"))[0].tokens) == "TOOT"


@pytest.fixture
def alike(tmp_path):
    """Phones whose lexicon has two spellings of one sound, and posteriors of that sound."""
    (tmp_path / "dict").write_text("CATHIE K AE TH IY\nKATHY K AE TH IY\nNEW N UW\n")
    config = TextConfig(tokenizer="phone", lexicon=str(tmp_path / "dict"), word_boundary=True)
    tokenizer = PhoneTokenizer.from_lexicon(tmp_path / "dict", config)
    rows = np.full((2 * len(tokenizer.encode("NEW KATHY")), tokenizer.vocab_size), 1e-3)
    rows[1::2, 0] = 1.0
    rows[np.arange(0, len(rows), 2), tokenizer.encode("NEW KATHY")] = 1.0
    return tokenizer, (
        torch.from_numpy(np.log(rows / rows.sum(axis=1, keepdims=True)))[None],
        torch.tensor([len(rows)]),
    )


def arpa(path, **words):
    """A unigram of ``words`` with their log10 probabilities."""
    lines = [f"{value}\t{word}" for word, value in {"<s>": -99, "</s>": -1, **words}.items()]
    header = f"\\data\\\nngram 1={len(lines)}\n\n\\1-grams:\n"
    path.write_text(header + "\n".join(lines) + "\n\n\\end\\\n")
    return str(path)


@pytest.fixture
def alike_text(alike):
    """Gives the text of the matrix with some options of the search."""
    tokenizer, matrix = alike

    def text(**options):
        decoder = Decoder(Decoding(beam=16, **options), tokenizer)
        return decoder.text(decoder.decode(*matrix)[0].tokens)

    return text


def test_words_that_sound_alike_are_written_as_the_first_of_them(alike):
    tokenizer, _ = alike
    assert Decoder(Decoding(), tokenizer).text(tokenizer.encode("NEW KATHY")) == "NEW CATHIE"


def test_a_hot_word_is_written_and_not_what_sounds_like_it(alike_text):
    assert alike_text(hotwords={"KATHY": 5.0}) == "NEW KATHY"


@pytest.mark.parametrize(("words", "bonus"), [({"NEW": -1}, 15.0), ({"NEW": -1, "CATHIE": -1}, 5.0)])
def test_a_hot_word_is_written_beside_a_language_model(alike_text, tmp_path, words, bonus):
    assert alike_text(lm=arpa(tmp_path / "lm.arpa", **words), hotwords={"KATHY": bonus}) == "NEW KATHY"


def test_a_hot_word_is_written_beside_a_lexicon(alike_text, tmp_path):
    (tmp_path / "words").write_text("NEW\n")
    assert alike_text(lexicon=str(tmp_path / "words"), hotwords={"KATHY": 5.0}) == "NEW KATHY"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"NEW": -1, "CATHIE": -1}, "NEW CATHIE"),
        ({"new": -1, "cathie": -5, "kathy": -0.2}, "NEW KATHY"),  # in another case
    ],
)
def test_a_language_model_chooses_among_words_that_sound_alike(alike_text, tmp_path, words, text):
    assert alike_text(lm=arpa(tmp_path / "lm.arpa", **words)) == text


def test_a_lexicon_chooses_among_words_that_sound_alike(alike_text, tmp_path):
    (tmp_path / "words").write_text("new\nkathy\n")
    assert alike_text(lexicon=str(tmp_path / "words")) == "NEW KATHY"


def test_a_language_model_that_rescores_chooses_among_words_that_sound_alike(alike_text, tmp_path):
    assert alike_text(rescore=arpa(tmp_path / "lm.arpa", NEW=-1, CATHIE=-5, KATHY=-0.2)) == "NEW KATHY"


def test_no_word_of_a_partial_text_is_open_where_no_ngram_chooses(alike):
    tokenizer, _ = alike
    tokens = tokenizer.encode("NEW KATHY NEW NEW")
    assert Decoder(Decoding(), tokenizer).vocabulary.partial(tokens, len(tokens)) == (
        "NEW CATHIE NEW NEW",
        len("NEW CATHIE NEW"),
    )


def index(symbol):
    return TOKENIZER.symbols.index(symbol)


def text_of(options, matrix):
    return TOKENIZER.decode(Decoder(options, TOKENIZER).decode(*matrix)[0].tokens)


MISHEARD = posteriors("JORDON CALLED", "GORDON CALLED", 0.35)


def test_each_language_model_mends_what_was_misheard(models):
    assert text_of(Decoding(), MISHEARD) == "JORDON CALLED"
    assert text_of(Decoding(beam=8), MISHEARD) == "JORDON CALLED"
    (models / "words.txt").write_text("GORDON\nCALLED\n")
    for options in (
        {"lm": str(models / "rnn")},
        {"lm": str(models / "words.arpa")},
        {"lexicon": str(models / "words.txt")},
        {"hotwords": {"GORDON": 3.0}},
        {"rescore": str(models / "rnn")},
        {"rescore": str(models / "words.arpa"), "rescore_weight": 1.0},
    ):
        assert text_of(Decoding(beam=8, **options), MISHEARD) == "GORDON CALLED", options


def test_several_language_models_count_together(models):
    rnn, arpa = str(models / "rnn"), str(models / "words.arpa")
    plain = {
        h.tokens: h.score - h.lm_score for h in Decoder(Decoding(beam=64), TOKENIZER).nbest(*MISHEARD, count=64)[0]
    }

    def added(**options):
        found = Decoder(Decoding(beam=64, **options), TOKENIZER).nbest(*MISHEARD, count=8)[0]
        return {h.tokens: h.lm_score for h in found}

    words = "GORDON CALLED"
    tokens = tuple(TOKENIZER.encode(words))
    recurrent = float(fusion.score_sequences(lm_directory.load_recurrent(rnn).model, [tokens])[0])
    ngram = lm_directory.load_language_model(arpa).score(words.split())
    assert tokens in plain
    for lms, weights, wanted in (
        ((rnn, arpa), (0.6, 0.3), 0.6 * recurrent + 0.3 * ngram),
        ((arpa, rnn), 0.5, 0.5 * recurrent + 0.5 * ngram),
        ((rnn, rnn), (0.6, 0.3), 0.9 * recurrent),
        ((arpa, arpa), (0.6, 0.3), 0.9 * ngram),
        ((arpa, rnn, arpa), (0.6, 0.0, 0.3), 0.9 * ngram),
        ((arpa,), (0.7,), 0.7 * ngram),
    ):
        assert added(lm=lms, lm_weight=weights)[tokens] == pytest.approx(wanted, rel=1e-5)


def test_a_language_model_may_be_an_object(models):
    directory, ngram = (
        lm_directory.load_language_model(models / "rnn"),
        lm_directory.load_language_model(models / "words.arpa"),
    )
    for made, path in ((directory, "rnn"), (directory.model, "rnn"), (ngram, "words.arpa")):
        for option in ("lm", "rescore"):
            one, other = (Decoder(Decoding(beam=8, **{option: source}), TOKENIZER) for source in (made, models / path))
            assert one.decode(*MISHEARD) == other.decode(*MISHEARD)
    other = CharTokenizer(["<blank>", " ", *"ABC"], TextConfig())
    with pytest.raises(DecodeError, match="RecurrentLM: the language model knows 28 tokens, the acoustic model 5"):
        Decoder(Decoding(beam=4, lm=directory.model), other)
    with pytest.raises(ConfigError, match=r"lm: expected str or .*, got 5"):
        Decoding(beam=8, lm=5)


def test_several_language_models_are_saved_with_the_model(models, tmp_path):
    ngram = lm_directory.load_language_model(models / "words.arpa")
    lms = (str(models / "rnn"), ngram, str(models / "words.arpa"))
    options = Decoding(beam=8, lm=lms, lm_weight=(0.5, 0.2, 0.3))
    save_options(tmp_path, options)
    found = load_options(tmp_path)
    assert found.lm == tuple(str(tmp_path / "lm" / name) for name in ("lm", "lm-2.arpa", "lm-3.arpa"))
    assert found.lm_weight == (0.5, 0.2, 0.3)
    ours, theirs = (Decoder(each, TOKENIZER).decode(*MISHEARD)[0] for each in (found, options))
    assert ours.tokens == theirs.tokens
    assert ours.score == pytest.approx(theirs.score, abs=1e-4)  # ARPA files round
    with pytest.raises(ModelError, match="lm: expected a language model from a file, got RecurrentLM"):
        save_options(
            tmp_path,
            dataclasses.replace(options, lm=lm_directory.load_language_model(models / "rnn").model, lm_weight=0.5),
        )


def test_language_models_of_the_folder_itself_are_saved_in_any_order(models, tmp_path):
    (tmp_path / "other.arpa").write_text((models / "words.arpa").read_text().replace("GORDON", "WARREN"))
    first = (str(models / "words.arpa"), str(tmp_path / "other.arpa"), str(models / "rnn"))
    model = tmp_path / "model"
    save_options(model, Decoding(beam=8, lm=first))
    for order in ((2, 1, 0), (1, 2, 0), (1, 0)):
        before = load_options(model).lm
        wanted = [lm_directory.fingerprint(before[at]) for at in order]
        save_options(model, Decoding(beam=8, lm=tuple(before[at] for at in order)))
        after = load_options(model).lm
        assert [lm_directory.fingerprint(place) for place in after] == wanted
        assert {Path(place) for place in after} == set((model / "lm").iterdir())  # nothing older is left
    assert {path.name for path in model.iterdir()} == {"decoding.yaml", "lm"}


def test_saving_leaves_what_it_did_not_write_and_the_only_copy_of_an_option(models, tmp_path):
    save_options(tmp_path, Decoding(beam=8, lm=str(models / "words.arpa")))
    (tmp_path / "lm" / "lm.notes").write_text("mine")
    save_options(tmp_path, Decoding(beam=8))
    assert {path.name for path in (tmp_path / "lm").iterdir()} == {"lm.arpa", "lm.notes"}
    save_options(tmp_path, Decoding(beam=8, lm=str(models / "rnn")))
    assert {path.name for path in (tmp_path / "lm").iterdir()} == {"lm.arpa", "lm.notes", "lm"}


def test_weight_zero_is_no_language_model_exactly(models):
    plain = Decoder(Decoding(beam=8), TOKENIZER).decode(*MISHEARD)
    for name in ("rnn", "words.arpa"):
        options = Decoding(beam=8, lm=str(models / name), lm_weight=0.0, rescore=str(models / name), rescore_weight=0.0)
        assert Decoder(options, TOKENIZER).decode(*MISHEARD) == plain


def test_rescoring_adds_the_weighted_score_of_the_whole_text(models):
    options = Decoding(beam=8, rescore=str(models / "rnn"), rescore_weight=0.7, nbest=5)
    found = Decoder(options, TOKENIZER).nbest(*MISHEARD)[0]
    plain = {
        h.tokens: h.score for h in Decoder(dataclasses.replace(options, rescore=""), TOKENIZER).nbest(*MISHEARD)[0]
    }
    network = lm_directory.load_recurrent(models / "rnn")
    assert len(found) == 5
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for hypothesis in found:
        if hypothesis.tokens in plain:
            added = float(fusion.score_sequences(network.model, [hypothesis.tokens])[0])
            assert hypothesis.score == pytest.approx(plain[hypothesis.tokens] + 0.7 * added, rel=1e-5)


def test_a_closed_vocabulary_and_a_penalty_for_the_rest(models):
    (models / "few.txt").write_text("GORDON\nCALL\n")
    closed = Decoding(beam=16, lexicon=str(models / "few.txt"))
    assert set(text_of(closed, posteriors("JORDON CALLS")).split()) <= {"GORDON", "CALL"}
    opened = dataclasses.replace(closed, unknown_penalty=-1.0)
    assert text_of(opened, posteriors("JORDON CALLS")) == "JORDON CALLS"


def test_bad_options_are_named(models, tmp_path):
    for bad, error, message in (
        ({"beam": 0}, ConfigError, "beam.*0"),
        ({"beam": 1, "lm": "x"}, ConfigError, "lm: expected a beam above 1"),
        ({"lm_weight": -1.0}, ConfigError, "lm_weight"),
        ({"nbest": 0}, ConfigError, "nbest"),
        ({"beam": 8, "lm": ["a", "b"], "lm_weight": [1, 2, 3]}, ConfigError, "lm_weight: expected 2, .* got 3"),
        ({"beam": 8, "lm": "a", "lm_weight": [1, 2]}, ConfigError, "lm_weight: expected 1, .* got 2"),
        (
            {"beam": 8, "lm": ["a", ""]},
            ConfigError,
            "lm: expected .* in each of 2 places.*leave that one out",
        ),
        ({"language": "german"}, ConfigError, "language: expected a code .*got 'german'; did you mean de"),
        ({"beam": 8, "lm": ["a", "b"], "lm_weight": [1, -2]}, ConfigError, "lm_weight: expected 0 or more, got -2"),
        ({"beam": 2.5}, ConfigError, r"beam: expected int, got 2\.5"),
        ({"beam": True}, ConfigError, "beam: expected int, got True"),
        ({"beam": 8, "nbest": "5"}, ConfigError, "nbest: expected int, got '5'"),
        ({"beam": 8, "word_bonus": None}, ConfigError, "word_bonus: expected float, got None"),
        ({"beam": 8, "hotwords": ["A"]}, ConfigError, "hotwords: expected a mapping"),
        ({"beam": 8, "hotwords": {"A": "x"}}, ConfigError, "hotwords.A: expected float, got 'x'"),
        ({"speeds": 1.0}, ConfigError, "speeds: expected a list"),
        ({"rescore_weight": math.nan}, ConfigError, "rescore_weight"),
    ):
        with pytest.raises(error, match=message):
            Decoding(**bad)
    other = CharTokenizer(["<blank>", " ", *"ABC"], TextConfig())
    with pytest.raises(DecodeError, match="the language model's tokens are"):
        Decoder(Decoding(beam=4, lm=str(models / "rnn")), other)
    with pytest.raises(DecodeError, match="none of the n-gram's words"):
        Decoder(Decoding(beam=4, lm=str(models / "words.arpa")), CharTokenizer(["<blank>", " ", *"XYZ"], TextConfig()))
    with pytest.raises(ModelError, match="nowhere"):
        Decoder(Decoding(beam=4, lm=str(tmp_path / "nowhere")), TOKENIZER)
    with pytest.raises(DecodeError, match=r"MÜLLER.*Ü"):
        Decoder(Decoding(beam=4, hotwords={"MÜLLER": 2.0}), TOKENIZER)
    with pytest.raises(DecodeError, match=r"hot word 'CALL MÜLLER'.*Ü"):  # CALL alone would be another hot word
        Decoder(Decoding(beam=4, hotwords={"CALL MÜLLER": 2.0}), TOKENIZER)
    (tmp_path / "decoding.yaml").write_text("beam: 4\nbeem: 5\n")
    with pytest.raises(ConfigError, match=r"decoding\.yaml.*beem"):
        load_options(tmp_path)


def word_posteriors(tokenizer, words, other, share=0.0):
    """A frame for each word and a blank behind it; ``share`` of it goes to the word of ``other`` in its place."""
    rows = np.full((2 * len(words), tokenizer.vocab_size), 1e-3)
    rows[1::2, 0] = 1.0
    for at, (word, second) in enumerate(zip(words, other, strict=True)):
        rows[2 * at, tokenizer.symbols.index(word)] += 1 - share
        rows[2 * at, tokenizer.symbols.index(second)] += share
    return torch.from_numpy(np.log(rows / rows.sum(axis=1, keepdims=True)))[None], torch.tensor([len(rows)])


@pytest.mark.parametrize(
    "options", [{"lm": "words.arpa"}, {"lexicon": "words.txt"}, {"hotwords": {"GORDON": 2.0}}, {"word_bonus": 1.0}]
)
def test_what_needs_spaces_is_refused_for_tokens_that_are_words_and_what_works_is_named(models, options):
    tokenizer = WordTokenizer.from_texts(TEXTS, TextConfig(tokenizer="word"))
    (models / "words.txt").write_text("GORDON\n")
    places = {name: str(models / value) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(
        DecodeError, match=f"{next(iter(options))}.* whole words. These work: a recurrent .* text.tokenizer=word"
    ):
        Decoder(Decoding(beam=4, **places), tokenizer)


def test_what_is_named_for_tokens_that_are_words_works(models, tmp_path):
    tokenizer = WordTokenizer.from_texts(TEXTS, TextConfig(tokenizer="word"))
    (tmp_path / "tokens.txt").write_bytes(tokenizer.symbol_list())
    tree = {
        "text": {"tokenizer": "word"},
        "model": {"hidden": 16, "embedding": 8, "dropout": 0.0},
        "data": {"train": str(models / "text"), "tokens": str(tmp_path / "tokens.txt"), "batch": 4},
        "optim": {"learning_rate": 0.02},
        "train": {"output": str(tmp_path / "rnn"), "epochs": 20, "threads": 1, "device": "cpu"},
    }
    language_task.train_language(loader.from_dict(LanguageConfig, tree))
    matrix = word_posteriors(tokenizer, ["CALL", "CALLED"], ["CALL", "GORDON"], 0.45)
    (tmp_path / "phrases").write_text("CALL GORDON\nGORDON CALLED\n")
    assert (
        Decoder(Decoding(beam=4), tokenizer).text(Decoder(Decoding(), tokenizer).decode(*matrix)[0].tokens)
        == "CALL CALLED"
    )
    for options in (
        {"beam": 4, "lm": str(tmp_path / "rnn")},
        {"beam": 4, "rescore": str(tmp_path / "rnn")},
        {"beam": 4, "rescore": str(models / "words.arpa")},
        {"phrases": str(tmp_path / "phrases")},
    ):
        decoder = Decoder(Decoding(**options), tokenizer)
        assert decoder.text(decoder.decode(*matrix)[0].tokens) == "CALL GORDON", options


def test_saved_options_come_back_with_their_models(models, tmp_path):
    (models / "words.txt").write_text("GORDON\nCALLED\n")
    options = Decoding(
        beam=8, lm=str(models / "rnn"), lm_weight=0.8, word_bonus=0.5, lexicon=str(models / "words.txt"),
        rescore=str(models / "words.arpa"), hotwords={"GORDON": 1.0},
    )  # fmt: skip
    (tmp_path / "model").mkdir()
    save_options(tmp_path / "model", options)
    found = load_options(tmp_path / "model")
    assert {Path(getattr(found, name)).parent for name in ("lm", "lexicon", "rescore")} == {tmp_path / "model" / "lm"}
    assert dataclasses.replace(found, lm=options.lm, lexicon=options.lexicon, rescore=options.rescore) == options
    assert Decoder(found, TOKENIZER).decode(*MISHEARD) == Decoder(options, TOKENIZER).decode(*MISHEARD)
    save_options(tmp_path / "model", found)  # in place
    assert load_options(tmp_path / "model") == found


# With an acoustic model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=6)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    acoustic_task.train_acoustic(make_config(corpus, train={"output": str(folder), "epochs": 12}))
    text = folder.parent / "text"
    text.write_text("".join(f"{u.text}\n" for u in manifest.read_manifest(corpus / "train.jsonl")))
    train_ngram(text, folder.parent / "words.arpa", order=2)
    return folder


def errors_of(model, manifest_path, report, *options):
    """Word errors by ``asr evaluate``."""
    command = ["evaluate", str(manifest_path), "--model", str(model), "--json", str(report), *options]
    assert main.run_command(command) == 0
    return json.loads(report.read_text())["errors"]


def test_tuning_that_only_looks_changes_no_model(trained, corpus, tmp_path):
    command = ["tune", str(corpus / "valid.jsonl"), "--model", str(trained), "--lm", str(trained.parent / "words.arpa")]
    assert main.run_command([*command, "--dry-run", "--json", str(tmp_path / "trials.json")]) == 0
    assert not (trained / "decoding.yaml").exists()
    report = json.loads((tmp_path / "trials.json").read_text())
    assert report["best"]["errors"] == min(trial["errors"] for trial in report["trials"])


def test_tuning_finds_the_best_of_its_trials_and_the_model_then_decodes_so(trained, corpus, tmp_path, capsys):
    valid = corpus / "valid.jsonl"
    before = errors_of(trained, valid, tmp_path / "before.json")
    capsys.readouterr()
    arpa = str(trained.parent / "words.arpa")
    assert main.run_command(["tune", str(valid), "--model", str(trained), "--lm", arpa]) == 0
    lines = capsys.readouterr().out.splitlines()
    trials = [line for line in lines if line.startswith(("lm_weight", tuning.GREEDY))]
    errors = [int(line.rpartition("(")[2].partition("/")[0]) for line in trials]
    assert len(errors) > 25
    assert f"({min(errors)}/" in next(line for line in lines if line.startswith("best:"))
    assert errors_of(trained, valid, tmp_path / "after.json") == min(errors) <= before
    assert errors_of(trained, valid, tmp_path / "again.json", "--beam", "1") == before


def test_tuning_in_python_gives_a_result_for_each_trial(trained, corpus):
    recognizer = asr.load(trained, device="cpu")
    found = tuning.tune_decoding(corpus / "valid.jsonl", recognizer, recognizer.decoder.options, beams=(4,))
    assert found[0].words > 0


def test_several_language_models_on_the_command_line(trained, corpus, tmp_path, capsys):
    arpa = str(trained.parent / "words.arpa")
    command = ["evaluate", str(corpus / "valid.jsonl"), "--model", str(trained), "--beam", "8"]
    lms = ["--lm", arpa, "--lm", arpa, "--lm-weight", "0.3", "--lm-weight", "0.2"]
    texts = []
    for options in (["--lm", arpa, "--lm-weight", "0.5"], lms):
        assert main.run_command([*command, *options, "--json", str(tmp_path / f"{len(texts)}.json")]) == 0
        report = json.loads((tmp_path / f"{len(texts)}.json").read_text())
        texts.append([utterance["hypothesis"] for utterance in report["utterances"]])
    assert texts[0] == texts[1]
    capsys.readouterr()
    assert main.run_command([*command, *lms, "--verbose"]) == 0
    assert f"{arpa}, {arpa}  (command line)" in capsys.readouterr().err
    assert main.run_command([*command, *lms, "--lm-weight", "0.1"]) == 2
    assert "lm_weight: expected 2, one for each lm, got 3" in capsys.readouterr().err
    assert main.run_command(["tune", str(corpus / "valid.jsonl"), "--model", str(trained), *lms]) == 2
    assert "expected one language model to tune, got 2" in capsys.readouterr().err


def test_tuning_tries_greedy_decoding_and_the_present_setting(trained, corpus):
    recognizer = asr.load(trained, device="cpu", beam=1)
    present = Decoding(beam=4, word_bonus=9.0)
    options = Decoding(beam=16)
    trials = tuning.tune_decoding(corpus / "valid.jsonl", recognizer, options, present=present, beams=())
    assert [(t.name, t.options) for t in trials[:2]] == [(tuning.GREEDY, Decoding()), (tuning.PRESENT, present)]
    assert {t.name for t in trials[2:]} == {""}
    assert [
        t.name
        for t in tuning.tune_decoding(corpus / "valid.jsonl", recognizer, options, present=Decoding(), beams=())[:2]
    ] == [
        tuning.GREEDY,
        "",
    ]


def test_tuning_searches_weights_at_the_beam_that_is_asked_for(trained, corpus):
    """With a large n-gram a narrow beam wants other weights than a wide one."""
    recognizer = asr.load(trained, device="cpu", beam=1)
    _, *trials = tuning.tune_decoding(corpus / "valid.jsonl", recognizer, Decoding(beam=24))
    beams = [trial.options.beam for trial in trials if not trial.options.blank_penalty]
    assert beams[-2:] == [12, 48]
    assert set(beams[:-2]) == {24}


def test_tuning_tries_penalties_of_blank_with_the_best_weights(trained, corpus):
    recognizer = asr.load(trained, device="cpu", beam=1)
    _, *trials = tuning.tune_decoding(corpus / "valid.jsonl", recognizer, Decoding(beam=8), beams=())
    weights, penalties = trials[:-3], trials[-3:]
    best = tuning.best_of(weights).options
    assert [trial.options for trial in penalties] == [
        dataclasses.replace(best, blank_penalty=penalty) for penalty in (0.5, 1.0, 1.5)
    ]
    assert {trial.options.blank_penalty for trial in weights} == {0.0}
    assert "blank_penalty 0.5" in str(penalties[0])
    assert penalties[0].to_dict()["blank_penalty"] == 0.5


def test_tuning_keeps_the_language_where_greedy_decoding_wins(trained, corpus):
    recognizer = asr.load(trained, device="cpu", beam=1)
    (greedy, *_) = tuning.tune_decoding(corpus / "valid.jsonl", recognizer, Decoding(beam=16, language="de"), beams=())
    assert (greedy.name, greedy.options) == (tuning.GREEDY, Decoding(language="de"))


def test_a_directory_that_holds_phrases_can_be_tuned(trained, corpus, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    (tmp_path / "phrases").write_text("A B\n")
    save_options(model, Decoding(phrases=str(tmp_path / "phrases")))
    assert main.run_command(["tune", str(corpus / "valid.jsonl"), "--model", str(model), "--dry-run"]) == 0
    assert f"beam {tuning.SEARCH_BEAM} " in capsys.readouterr().out


def test_tuning_takes_malformed_alternatives_for_words(trained, corpus, tmp_path):
    utterances = manifest.read_manifest(corpus / "valid.jsonl")
    manifest.write_manifest(
        tmp_path / "m.jsonl", [dataclasses.replace(utterances[0], text="A { B / C"), *utterances[1:]]
    )
    recognizer = asr.load(trained, device="cpu", beam=1)
    (greedy, *_) = tuning.tune_decoding(tmp_path / "m.jsonl", recognizer, Decoding(beam=16), beams=())
    assert greedy.errors > 0


def trial(errors, beam=16, name=""):
    return tuning.Trial(Decoding(beam=beam), errors, 100, errors, name)


def test_of_equal_settings_the_present_one_then_the_narrowest_is_best():
    greedy, present = trial(5, 1, tuning.GREEDY), trial(5, 32, tuning.PRESENT)
    assert tuning.best_of([greedy, present, trial(5, 8)]) == present
    assert tuning.best_of([greedy, trial(5, 8)]) == greedy
    assert tuning.best_of([greedy, present, trial(4, 64)]) == trial(4, 64)


def test_tuning_leaves_the_word_bonus_alone_for_tokens_that_are_words(tmp_path, monkeypatch):
    tokenizer = WordTokenizer.from_texts(TEXTS, TextConfig(tokenizer="word"))
    matrix, frames = word_posteriors(tokenizer, ["CALL", "CALLED"], ["CALL", "GORDON"], 0.45)
    monkeypatch.setattr(tuning, "held_out", lambda *_: ([(["u"], matrix, frames)], {"u": "CALL GORDON"}))
    recognizer = make_recognizer(tmp_path, tokenizer=tokenizer)
    options = Decoding(lm=str(untrained_lm(tmp_path / "lm", tokenizer)), beam=16)
    trials = tuning.tune_decoding("", recognizer, options)
    assert {t.options.word_bonus for t in trials} == {0.0}
    assert len({t.options.lm_weight for t in trials}) > 5


def test_tuning_saves_nothing_where_nothing_is_better(trained, corpus, tmp_path, capsys, monkeypatch):
    kept = Decoding(beam=4, word_bonus=9.0)
    save_options(tmp_path, kept)
    command = ["tune", str(corpus / "valid.jsonl"), "--model", str(trained), "--save-to", str(tmp_path), "--force"]
    trials = [trial(7, 1, tuning.GREEDY), tuning.Trial(kept, 6, 100, 6, tuning.PRESENT), trial(6)]
    monkeypatch.setattr(tuning, "tune_decoding", lambda *_, present, **__: trials if present == kept else [])
    before = (tmp_path / "decoding.yaml").read_bytes()
    assert main.run_command(command) == 0
    assert "nothing was better" in capsys.readouterr().out
    assert (tmp_path / "decoding.yaml").read_bytes() == before
    trials[2] = trial(5)
    assert main.run_command(command) == 0
    assert load_options(tmp_path) == Decoding(beam=16)


def untrained_lm(folder, tokenizer):
    """A recurrent language model over a tokenizer's tokens, with random weights."""
    config = loader.from_dict(
        LanguageConfig, {"text": loader.to_dict(tokenizer.config), "model": {"hidden": 8, "embedding": 8}}
    )
    lm_directory.save_lm_description(folder, config, tokenizer)
    model_directory.save_weights(folder, LanguageNetwork(config.model, tokenizer.vocab_size), {"name": "lm"})
    return folder


def test_a_saved_language_model_of_pieces_or_phones_is_whole(alike, tmp_path):
    pieces = BpeTokenizer.from_texts(TEXTS, TextConfig(tokenizer="bpe", bpe_size=40))
    for tokenizer in (pieces, alike[0], TOKENIZER):  # one in the place of the other
        source = untrained_lm(tmp_path / tokenizer.config.tokenizer, tokenizer)
        for name in ("lm", "rescore"):
            save_options(tmp_path / "model", Decoding(beam=4, **{name: str(source)}))
            saved = load_options(tmp_path / "model")
            copied = Decoder(saved, tokenizer)
            assert copied.fusion or copied.rescorer
            folder = Path(saved.lm or saved.rescore)
            assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
                f.name: f.read_bytes() for f in lm_directory.files(source)
            }


def test_the_commands_take_hot_words_and_refuse_bad_ones(trained, corpus, capsys):
    audio = manifest.read_manifest(corpus / "valid.jsonl")[0].audio
    command = ["transcribe", audio, "--model", str(trained)]
    assert main.run_command([*command, "--hotword", "A B:30", "--beam", "8"]) == 0
    assert "A B" in capsys.readouterr().out
    for bad, message in (
        ("A", "expected WORD:BOOST"),
        ("Z9:3", "Z"),
    ):
        assert main.run_command([*command, "--hotword", bad]) == 2
        assert message in capsys.readouterr().err


def test_a_kenlm_binary_rescores_like_its_arpa_file(models, tmp_path):
    pytest.importorskip("kenlm")
    # kenlm reads ARPA files by the same call as its binaries, which only its compiled tools can write.
    binary, arpa = KenlmNgram(models / "words.arpa"), lm_directory.load_language_model(models / "words.arpa")
    for text in ("GORDON CALLED", "CALL CALL SMITH", ""):
        assert binary.score(text.split()) == pytest.approx(arpa.score(text.split()), abs=1e-4)
    assert (binary.knows("GORDON"), binary.knows("NOBODY"), binary.order) == (True, False, 3)
    assert dataclasses.astuple(perplexities.perplexity(binary, TEXTS)) == pytest.approx(
        dataclasses.astuple(perplexities.perplexity(arpa, TEXTS)), rel=1e-4
    )
    decoder = Decoder(Decoding(beam=8, rescore=str(models / "words.arpa"), rescore_weight=2.0), TOKENIZER)
    same = Decoder(Decoding(beam=8), TOKENIZER)
    same.rescorer, same.options = Rescorer(binary, decoder._models), decoder.options
    matrix = posteriors("GORDEN CALLED", "GORDON CALLED", 0.4)
    ours, theirs = (d.decode(*matrix)[0] for d in (decoder, same))
    assert ours.tokens == theirs.tokens
    assert TOKENIZER.decode(ours.tokens) == "GORDON CALLED"


def test_a_kenlm_binary_is_told_by_its_first_bytes(models, tmp_path, monkeypatch):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(KENLM_MAGIC + b" format version 5\n\0" + bytes(100))
    assert is_kenlm(broken)
    assert not is_kenlm(models / "words.arpa")
    with pytest.raises(ModelError, match=r"broken\.bin: kenlm cannot read it"):
        lm_directory.load_language_model(broken)
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ModelError, match=r"broken\.bin: .*pip install kenlm"):
        lm_directory.load_language_model(broken)


def test_a_kenlm_binary_in_the_search_is_refused(models, monkeypatch):
    pytest.importorskip("kenlm")
    monkeypatch.setattr(lm_directory, "load_language_model", lambda path: KenlmNgram(models / "words.arpa"))
    with pytest.raises(DecodeError, match="can rescore only; the search needs its ARPA"):
        Decoder(Decoding(beam=8, lm=str(models / "words.arpa")), TOKENIZER)


def test_the_model_learns_from_what_is_recognised(models):
    """A name it has never seen becomes likelier each time it is heard clearly, and is then preferred."""
    options = Decoding(beam=8, lm=str(models / "rnn"), lm_weight=0.4)
    clear, unclear = posteriors("ZELDA CALLED"), posteriors("GORDON CALLED", "ZELDA  CALLED", 0.7)
    batch = [clear[0][0]] * 30 + [unclear[0][0]]
    matrix = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    lengths = torch.tensor([len(m) for m in batch])
    texts = {}
    for rate in (0.0, 0.3):
        decoder = Decoder(dataclasses.replace(options, lm_adapt=rate), TOKENIZER)
        found = decoder.decode(matrix, lengths)
        assert {TOKENIZER.decode(h.tokens) for h in found[:-1]} == {"ZELDA CALLED"}
        texts[rate] = TOKENIZER.decode(found[-1].tokens)
        lms = [h.lm_score for h in found[:-1]]
        assert (lms[-1] > lms[0] + 1) == bool(rate)
        # A search that is fed frame by frame learns in the same way.
        live = Decoder(dataclasses.replace(options, lm_adapt=rate), TOKENIZER)
        search = live.search()
        for row in range(3):
            live.accept([search], [batch[row]])
            assert live.finish(search)[0].lm_score == pytest.approx(found[row].lm_score, abs=1e-4)
    assert texts[0.0].startswith("GORDON")
    assert texts[0.3].startswith("ZELDA")
    # The model that was loaded is not touched.
    again = Decoder(options, TOKENIZER).decode(*clear)[0]
    assert again.lm_score == pytest.approx(Decoder(options, TOKENIZER).decode(*clear)[0].lm_score)


def test_learning_lowers_the_perplexity_of_a_text_that_repeats_itself(models, capsys):
    directory = lm_directory.load_language_model(models / "rnn")
    text = ["ZELDA AND MAX SING"] * 20
    plain, adapted = (perplexities.perplexity(directory, text, adapt=rate).token for rate in (0.0, 0.1))
    assert adapted < 0.7 * plain
    assert perplexities.perplexity(directory, text).token == plain
    path = models / "text"
    assert main.run_command(["perplexity", str(models / "rnn"), str(path), "--adapt", "0.1"]) == 0
    assert "perplexity per token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lm": "words.arpa", "lm_adapt": 0.1}, DecodeError, "expected a recurrent language model"),
        ({"lm_adapt": 0.1}, DecodeError, "expected a recurrent language model"),
        ({"lm": "rnn", "lm_adapt": -1.0}, ConfigError, "lm_adapt: expected 0 or more"),
    ],
)
def test_what_cannot_learn_is_said(models, options, error, message):
    places = {name: str(models / value) if name == "lm" else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        Decoder(Decoding(beam=8, **places), TOKENIZER)
    with pytest.raises(ConfigError, match="adapt"):
        perplexities.perplexity(lm_directory.load_language_model(models / "words.arpa"), TEXTS, adapt=0.1)


@pytest.mark.parametrize("name", ["lm", "lexicon", "rescore", "phrases"])
@pytest.mark.parametrize("value", ["/etc/passwd", "../words.txt", "lm/../../x", "C:\\\\x", "..\\\\x", "/dev/zero"])
def test_a_model_directory_names_no_file_outside_itself(tmp_path, name, value):
    (tmp_path / "decoding.yaml").write_text(f'beam: {1 if name == "phrases" else 8}\n{name}: "{value}"\n')
    with pytest.raises(ConfigError, match=rf"decoding\.yaml: {name}: expected a file or folder inside the model"):
        load_options(tmp_path)


def test_links_out_of_a_model_directory_are_followed_but_not_to_devices(tmp_path):
    (tmp_path / "cache").write_text("ONE\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "words.txt").symlink_to(tmp_path / "cache")
    (model / "decoding.yaml").write_text("beam: 8\nlexicon: words.txt\n")
    assert load_options(model).lexicon == str(model / "words.txt")
    (model / "words.txt").unlink()
    (model / "words.txt").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"lexicon: .* is a device or a pipe"):
        load_options(model)
