"""Language models that rescore: over the search's tokens or over their own, beside the search's models or instead."""

import argparse
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from small import make_recognizer, sound

from asr.cli import shared_options
from asr.config import loader
from asr.config.language import LanguageConfig
from asr.config.sections import TextConfig
from asr.decode import Hypothesis, fusion
from asr.decode.endpoint import Endpoint
from asr.errors import ConfigError, DecodeError
from asr.evaluation import tuning
from asr.lm import lm_directory
from asr.lm.ngram_training import train_ngram
from asr.lm.recurrent import LanguageNetwork, RecurrentLM
from asr.models import model_directory
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.recognize.rescoring import UNSPELT, Rescorer, ScoredList, TextModel, for_rescoring
from asr.recognize.stream import Stream
from asr.text.bpe import BpeTokenizer
from asr.text.tokenizer import CharTokenizer
from asr.text.word_tokens import WordTokenizer
from asr.train import language_task

LETTERS = CharTokenizer(["<blank>", " ", *"ABCDE"], TextConfig())
TEXTS = ["ABE BADE", "BEAD ACE", "ACE ABED", "DEAD BEE", "BADE ABE ACE", "CAB BED"] * 5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A recurrent model over pieces, one over letters and a word trigram of the same sentences."""
    folder = tmp_path_factory.mktemp("rescoring")
    (folder / "text").write_text("\n".join(TEXTS) + "\n")
    (folder / "tokens.txt").write_bytes(LETTERS.symbol_list())
    for name, text, tokens in (
        ("pieces", {"tokenizer": "bpe", "bpe_size": 14}, ""),
        ("letters", {}, str(folder / "tokens.txt")),
        ("small", {"case": "lower"}, ""),
    ):
        tree = {
            "text": text,
            "model": {"hidden": 16, "embedding": 8, "dropout": 0.0},
            "data": {"train": str(folder / "text"), "tokens": tokens, "batch": 8},
            "train": {"output": str(folder / name), "epochs": 4, "threads": 1, "device": "cpu"},
        }
        language_task.train_language(loader.from_dict(LanguageConfig, tree))
    train_ngram(folder / "text", folder / "words.arpa", order=3)
    return folder


@pytest.fixture(scope="module")
def matrix():
    """Log-probabilities of random frames, little of them blank, so that many texts compete; and their number."""
    logits = torch.randn(1, 24, LETTERS.vocab_size, generator=torch.Generator().manual_seed(3)) * 2
    logits[..., 0] -= 1
    return logits.log_softmax(-1), torch.tensor([24])


def slow_score(model, tokens):
    """Log-probability of one sequence, a token at a time."""
    total, state = 0.0, model.start(1)
    for token, following in itertools.pairwise([0, *tokens, 0]):
        log_probs, state = model.advance(state, np.array([token]))
        total += float(log_probs[0, following])
    return total


def test_sequences_that_begin_alike_have_the_scores_that_each_has_alone(models):
    model = lm_directory.load_recurrent(models / "letters").model
    texts = ["", "A", "AB", "ABE", "ABE BAD", "ABE BADE", "BEAD", "ABE BADE", "C", "ACE ABED"]
    sequences = [LETTERS.encode(text) for text in texts]
    expected = [slow_score(model, sequence) for sequence in sequences]
    assert fusion.score_sequences(model, sequences) == pytest.approx(expected, abs=1e-4)


def test_each_beginning_of_a_list_is_evaluated_once():
    class Counting(RecurrentLM):
        rows = 0

        def advance(self, state, tokens):
            self.rows += len(tokens)
            return super().advance(state, tokens)

    config = loader.from_dict(LanguageConfig, {"model": {"hidden": 8, "embedding": 4}}).model
    model = Counting(LanguageNetwork(config, LETTERS.vocab_size))
    sequences = [LETTERS.encode(text) for text in ("ABE BADE", "ABE BAD", "ABE BEE", "ABE BADE")]
    fusion.score_sequences(model, sequences)
    assert model.rows == len({tuple(sequence[:end]) for sequence in sequences for end in range(len(sequence) + 1)})


@pytest.mark.parametrize("name", ["pieces", "small"])
def test_a_model_over_tokens_of_its_own_scores_the_words(models, matrix, name):
    """Against brute force: the score of each hypothesis' text, spelt by the language model, a token at a time."""
    options = Decoding(beam=32, rescore=str(models / name), rescore_weight=0.7, nbest=12)
    plain = Decoder(dataclasses.replace(options, rescore=""), LETTERS)
    found = Decoder(options, LETTERS).nbest(*matrix, count=12)[0]
    searched = {h.tokens: h for h in plain.nbest(*matrix, count=12)[0]}
    assert {h.tokens for h in found} == searched.keys()
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    directory = lm_directory.load_recurrent(models / name)
    for hypothesis in found:
        spelt = directory.tokenizer.encode(plain.text(hypothesis.tokens))
        added = 0.7 * slow_score(directory.model, spelt)
        before = searched[hypothesis.tokens]
        assert hypothesis.score == pytest.approx(before.score + added, abs=1e-3)
        assert hypothesis.lm_score == pytest.approx(before.lm_score + added, abs=1e-3)


def test_what_the_search_s_models_gave_is_kept_in_part_and_bonuses_whole(models, matrix):
    """Against brute force: acoustic score, bonus, a part of the trigram's score, the new score."""
    options = Decoding(
        beam=32, lm=str(models / "words.arpa"), lm_weight=0.9, word_bonus=1.5, rescore=str(models / "pieces"),
        rescore_weight=0.6, rescore_keep=0.25, nbest=8,
    )  # fmt: skip
    decoder = Decoder(options, LETTERS)
    ngram = lm_directory.load_language_model(models / "words.arpa")
    directory = lm_directory.load_recurrent(models / "pieces")
    plain = Decoder(dataclasses.replace(options, rescore="", rescore_keep=1.0), LETTERS)
    acoustic = {h.tokens: h.score - h.lm_score for h in plain.nbest(*matrix, count=8)[0]}
    found = decoder.nbest(*matrix, count=8)[0]
    assert {h.tokens for h in found} == acoustic.keys()
    assert len(found) > 3
    for hypothesis in found:
        words = decoder.text(hypothesis.tokens).split()
        new = slow_score(directory.model, directory.tokenizer.encode(" ".join(words)))
        expected = 1.5 * len(words) + 0.25 * 0.9 * ngram.score(words) + 0.6 * new
        assert hypothesis.lm_score == pytest.approx(expected, abs=1e-3)
        assert hypothesis.score == pytest.approx(acoustic[hypothesis.tokens] + expected, abs=1e-3)


def test_a_recurrent_model_of_the_search_is_kept_in_part_too(models, matrix):
    options = Decoding(
        beam=16, lm=str(models / "letters"), lm_weight=0.8, rescore=str(models / "pieces"), rescore_weight=0.5,
        rescore_keep=0.5, nbest=6,
    )  # fmt: skip
    letters, pieces = (lm_directory.load_recurrent(models / name) for name in ("letters", "pieces"))
    for h in Decoder(options, LETTERS).nbest(*matrix, count=6)[0]:
        text = LETTERS.decode(h.tokens)
        expected = 0.4 * slow_score(letters.model, h.tokens)
        expected += 0.5 * slow_score(pieces.model, pieces.tokenizer.encode(text))
        assert h.lm_score == pytest.approx(expected, abs=1e-3)


def test_a_list_keeps_its_members_at_any_weights():
    hypotheses = [Hypothesis(tokens=(n,), score=-float(n)) for n in range(1, 6)]
    scored = ScoredList(hypotheses, np.array([-5.0, -4, -3, -2, -1]), np.array([-1.0, -1, -2, -2, -3]))
    for weight, keep in itertools.product((0.0, 0.3, 3.0), (0.0, 0.5, 1.0)):
        found = scored.ordered(weight, keep)
        assert sorted(h.tokens for h in found) == [h.tokens for h in hypotheses]
        expected = [h.score + weight * new + (keep - 1) * own for h, new, own in
                    zip(hypotheses, scored.new, scored.own, strict=True)]  # fmt: skip
        assert [h.score for h in found] == pytest.approx(sorted(expected, reverse=True))
    assert scored.ordered(0.0) == hypotheses
    assert scored.ordered(3.0)[0].tokens == (5,)


def untrained(folder, tokens, **text):
    """A language model with tokens of its own and random weights."""
    config = loader.from_dict(LanguageConfig, {"text": text, "model": {"hidden": 8, "embedding": 4}})
    lm_directory.save_lm_description(folder, config, tokens)
    torch.manual_seed(1)
    model_directory.save_weights(folder, LanguageNetwork(config.model, tokens.vocab_size), {})
    return str(folder)


def test_a_model_of_another_alphabet_is_refused_and_what_it_lacks_is_named(tmp_path):
    latin = untrained(tmp_path / "latin", CharTokenizer(["<blank>", " ", *"ABC"], TextConfig()))
    with pytest.raises(DecodeError, match=r"latin: the language model cannot spell 'D', 'E', which the acoustic model"):
        Decoder(Decoding(beam=4, rescore=latin), LETTERS)
    greek = BpeTokenizer.from_texts(["ΑΒΓ ΔΕΖ ΑΔ"], TextConfig(tokenizer="bpe", bpe_size=10))
    with pytest.raises(DecodeError, match="greek: the language model cannot spell 'A', 'B', 'C', 'D', 'E'"):
        Decoder(Decoding(beam=4, rescore=untrained(tmp_path / "greek", greek, tokenizer="bpe", bpe_size=10)), LETTERS)
    words = WordTokenizer.from_texts(["ABE BADE"], TextConfig(tokenizer="word"))
    with pytest.raises(DecodeError, match=r"over characters or over pieces of words .* got one over other word tokens"):
        Decoder(Decoding(beam=4, rescore=untrained(tmp_path / "words", words, tokenizer="word")), LETTERS)


def test_tokens_of_its_own_are_refused_in_the_search_and_rescoring_is_named(models):
    with pytest.raises(DecodeError, match=r"pieces: the language model's tokens are .* let it rescore \(rescore\)"):
        Decoder(Decoding(beam=4, lm=str(models / "pieces")), LETTERS)


def test_a_word_that_cannot_be_spelt_costs_as_one_that_an_n_gram_lacks(models):
    directory = lm_directory.load_recurrent(models / "pieces")
    model = TextModel(directory.model, directory.tokenizer)
    known, unknown = model.scores([["ABE", "BADE"], ["ABE", "K-AE", "BADE"]])
    assert unknown == pytest.approx(known + UNSPELT)
    assert pytest.approx(math.log(1e-100)) == UNSPELT


def test_words_of_word_tokens_are_rescored_by_pieces(models):
    words = WordTokenizer.from_texts(TEXTS, TextConfig(tokenizer="word"))
    scorer = for_rescoring(str(models / "pieces"), words)
    decoder = Decoder(Decoding(beam=4, rescore=str(models / "pieces")), words)
    hypotheses = [Hypothesis(tokens=tuple(words.encode(text))) for text in TEXTS[:3]]
    scored = Rescorer(scorer, decoder._models).scored([hypotheses], decoder.vocabulary)[0]
    directory = lm_directory.load_recurrent(models / "pieces")
    expected = [slow_score(directory.model, directory.tokenizer.encode(text)) for text in TEXTS[:3]]
    assert scored.new == pytest.approx(expected, abs=1e-3)


def test_onnxruntime_rescores_as_torch_does(models, matrix, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from asr.recognize import loading

    options = Decoding(beam=16, rescore=str(models / "pieces"), rescore_weight=0.6, nbest=8)
    ours = Decoder(options, LETTERS).nbest(*matrix, count=8)[0]
    monkeypatch.setattr(loading, "torch_is_installed", lambda: False)
    graphs = Decoder(options, LETTERS)
    assert type(graphs.rescorer.model.model).__name__ == "OnnxLM"
    theirs = graphs.nbest(*matrix, count=8)[0]
    assert [h.tokens for h in theirs] == [h.tokens for h in ours]
    assert [h.score for h in theirs] == pytest.approx([h.score for h in ours], abs=1e-3)


def test_a_share_that_cannot_be_kept_is_refused(models):
    for options in ({"lm_carry": True}, {"lm_adapt": 0.1}):
        with pytest.raises(ConfigError, match="rescore_keep: expected 1 beside lm_carry and lm_adapt"):
            Decoding(beam=4, lm=str(models / "letters"), rescore_keep=0.5, **options)
    with pytest.raises(ConfigError, match="rescore_keep: expected 0 or more, got -1"):
        Decoding(rescore_keep=-1.0)


def test_a_model_directory_holds_the_rescoring_model_with_its_pieces(models, matrix, tmp_path):
    options = Decoding(beam=16, rescore=str(models / "pieces"), rescore_weight=0.6, rescore_keep=0.5, nbest=8)
    save_options(tmp_path, options)
    found = load_options(tmp_path)
    assert found == dataclasses.replace(options, rescore=str(tmp_path / "lm" / "rescore"))
    assert (tmp_path / "lm" / "rescore" / "tokens.model").is_file()
    assert Decoder(found, LETTERS).decode(*matrix) == Decoder(options, LETTERS).decode(*matrix)


@pytest.fixture(scope="module")
def recognizer(models, tmp_path_factory):
    """A unidirectional network with random weights, whose texts the language model over pieces rescores."""
    return make_recognizer(
        tmp_path_factory.mktemp("streams"), blank=1.0, tokenizer=LETTERS, beam=16, nbest=16,
        rescore=str(models / "pieces"), rescore_weight=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("settle_s", [None, 0.3])
def test_rescoring_at_an_endpoint_leaves_the_settled_text(recognizer, settle_s):
    samples = np.concatenate([sound(3.0, seed=5), np.zeros(24000, np.float32), sound(3.0, seed=6)])
    stream = Stream(recognizer, endpoint=Endpoint(), settle_s=settle_s)
    finals, settled, guess, changed = [], "", "", 0
    for at in range(0, len(samples), 800):
        update = stream.accept(samples[at : at + 800])
        for final in update.final:
            assert final.text.startswith(settled)
            changed += final.text != guess
            finals.append(final.text)
            settled = ""
        assert update.text.startswith(settled)
        settled, guess = update.text[: update.stable], update.text
    tail = stream.finish().text.removeprefix(" ".join(finals)).strip()
    assert tail.startswith(settled.strip())
    changed += tail != guess
    assert changed  # else rescoring had nothing to settle


def test_a_stream_that_rescores_has_the_text_of_the_whole_recording(recognizer):
    samples = sound(6.0, seed=6)
    whole = recognizer.transcribe(samples)
    plain = make_recognizer(recognizer.model.path, blank=1.0, tokenizer=LETTERS, beam=16).transcribe(samples)
    assert whole.text != plain.text
    stream = Stream(recognizer)
    for at in range(0, len(samples), 1000):
        stream.accept(samples[at : at + 1000])
    assert stream.finish().text == whole.text


def test_tuning_tries_the_weights_of_rescoring_as_decoding_uses_them(recognizer, models, tmp_path):
    utterances = []
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", sound(2.0, seed=number), 16000)
        utterances.append(
            {"id": str(number), "audio": str(tmp_path / f"{number}.wav"), "duration_s": 2.0, "text": TEXTS[number]}
        )
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(one) + "\n" for one in utterances))
    options = Decoding(beam=8, lm=str(models / "words.arpa"), rescore=str(models / "pieces"), nbest=8)
    plain = make_recognizer(tmp_path, blank=1.0, tokenizer=LETTERS)
    trials = tuning.tune_decoding(tmp_path / "valid.jsonl", plain, options, beams=[8])
    rescored = [trial for trial in trials if trial.options.rescore]
    settings = {(trial.options.rescore_weight, trial.options.rescore_keep) for trial in rescored}
    assert settings == set(itertools.product(tuning.RESCORE_WEIGHTS, tuning.RESCORE_KEEPS))
    assert len({(t.options.lm_weight, t.options.word_bonus, t.options.beam) for t in rescored}) == 1
    posteriors, references = tuning.held_out(tmp_path / "valid.jsonl", plain, None)
    for trial in rescored[:: len(rescored) // 4]:
        again = tuning._trial(trial.options, plain, posteriors, references)
        assert (again.errors, again.char_errors) == (trial.errors, trial.char_errors)
        assert f"rescore_weight {trial.options.rescore_weight:g}" in str(trial)
        assert trial.to_dict()["rescore_keep"] == trial.options.rescore_keep


def test_the_commands_take_the_options_of_rescoring(tmp_path):
    parser = argparse.ArgumentParser()
    shared_options.add_decoding(parser)
    parser.add_argument("--model")
    arguments = ["--rescore", "lm", "--rescore-weight", "0.3", "--rescore-keep", "0.4", "--nbest", "50"]
    given = shared_options.decoding_options(parser.parse_args(arguments))
    assert {name: given[name] for name in ("rescore", "rescore_weight", "rescore_keep", "nbest")} == {
        "rescore": "lm", "rescore_weight": 0.3, "rescore_keep": 0.4, "nbest": 50,
    }  # fmt: skip
