"""Language models of a search: what was said before an utterance is remembered exactly, where that is asked for."""

import numpy as np
import pytest
import torch
from small import TOKENIZER, make_recognizer, sound
from test_fusion import Table, random_log_probs

from asr.decode.endpoint import Endpoint
from asr.decode.ngram import Ngram
from asr.errors import ConfigError
from asr.recognize import long_audio
from asr.recognize.decoder import Decoder
from asr.recognize.language_models import Context
from asr.recognize.options import Decoding
from asr.recognize.stream import Stream

NGRAM = Ngram(
    3,
    {
        ("<s>",): (-99.0, -0.5), ("</s>",): (-1.2, 0.0), ("a",): (-1.0, -0.7), ("b",): (-1.5, -0.2),
        ("a", "b"): (-0.4, -0.3), ("<s>", "a"): (-0.1, 0.0), ("b", "a"): (-0.9, -0.1), ("a", "b", "a"): (-0.2, 0.0),
        ("b", "</s>"): (-0.3, 0.0),
    },
)  # fmt: skip
"""Its words are in small letters, the model's in capitals."""


def utterances(count, frames=5):
    return [
        torch.from_numpy(random_log_probs(frames, TOKENIZER.vocab_size, seed=seed, sharpness=3.0))
        for seed in range(count)
    ]


def test_a_token_model_goes_on_behind_the_utterance_before():
    table = Table(TOKENIZER.vocab_size, seed=5)
    decoder = Decoder(Decoding(beam=64, lm=table, lm_weight=0.8, lm_carry=True, blank_threshold=0.0), TOKENIZER)
    context, before = Context(), []
    for rows in utterances(4):
        found, context = decoder.continued(rows, context)
        prefix, total = [*before, 0], 0.0
        for token in (*found[0].tokens, 0):
            total += table.after(prefix)[token]
            prefix.append(token)
        assert found[0].lm_score == pytest.approx(0.8 * total)
        if found[0].tokens:
            before = [*before, 0, *found[0].tokens]
        assert before == list(context.state[0])
    assert len(before) > 4


def test_an_ngram_goes_on_behind_the_words_before():
    options = Decoding(beam=64, lm=NGRAM, lm_weight=0.8, lm_carry=True, blank_threshold=0.0)
    decoder = Decoder(options, TOKENIZER)
    said: list[str] = []
    for rows in utterances(4, frames=7):
        context = Context(tuple(said[-2:]))
        found, following = decoder.continued(rows, context)
        words = [word.lower() for word in decoder.vocabulary.texts(found[0].tokens)]
        history, total = said if said else ["<s>"], 0.0
        for word in [*words, "</s>"]:
            total += NGRAM.log_prob(history, word)
            history = [*history, word]
        assert found[0].lm_score == pytest.approx(0.8 * total)
        said += words
        assert following.words == tuple(said[-2:])
    assert len(said) > 4


def test_without_being_asked_nothing_is_remembered():
    for carry in (False, True):
        options = Decoding(beam=16, lm=(Table(TOKENIZER.vocab_size), NGRAM), lm_carry=carry)
        decoder = Decoder(options, TOKENIZER)
        context = Context()
        for rows in utterances(3):
            found, context = decoder.continued(rows, context)
            alone = decoder.lists(rows[None], torch.tensor([len(rows)]))[0]
            same = found[0].lm_score == pytest.approx(alone[0].lm_score)
        assert same is not carry
        assert (context == Context()) is not carry
    with pytest.raises(ConfigError, match="lm_carry: expected a language model"):
        Decoding(lm_carry=True)


@pytest.mark.parametrize("size", [800, 5000, 10**6])
def test_a_stream_remembers_as_the_recording_does(tmp_path, size):
    lms = (Table(TOKENIZER.vocab_size, seed=1), NGRAM)
    recognizer = make_recognizer(tmp_path, blank=6.0, beam=8, lm=lms, lm_carry=True, unknown_penalty=-1.0)
    samples = np.concatenate([np.pad(sound(1.0, seed=seed), (0, 12000)) for seed in range(6)])
    live = Stream(recognizer, endpoint=Endpoint(silence_s=0.09))
    rows, texts = [], []
    note = live.note
    live.note = lambda part: (rows.append(part), note(part))
    ends = []
    end = live.end_utterance

    def ended():
        found = end()
        ends.append(sum(map(len, rows)))
        texts.append(found.text)
        return found

    live.end_utterance = ended
    for at in range(0, len(samples), size):
        live.accept(samples[at : at + size])
    live.finish()
    matrix, context, offline = np.concatenate(rows), Context(), []
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        found, context = recognizer.decoder.continued(matrix[start:stop], context)
        offline.append(recognizer.decoder.text(found[0].tokens))
    assert texts == offline
    assert sum(bool(text) for text in texts) > 2


def test_a_long_recording_remembers(tmp_path, monkeypatch):
    def cut(parts, frame_s):
        whole = np.concatenate(list(parts))
        return [(at, whole[at : at + 30]) for at in range(0, len(whole), 30)]

    monkeypatch.setattr(long_audio, "LONG_S", 1.0)
    monkeypatch.setattr(long_audio, "utterances", cut)
    table = Table(TOKENIZER.vocab_size, seed=1)
    samples = np.concatenate([np.pad(sound(1.0, seed=seed), (0, 24000)) for seed in range(3)])
    recognizer = make_recognizer(tmp_path, blank=6.0, beam=8, lm=table, lm_carry=True)
    contexts = []
    continued = recognizer.decoder.continued
    recognizer.decoder.continued = lambda rows, context, count: (
        contexts.append(context) or continued(rows, context, count)
    )
    assert recognizer.transcribe(samples).words
    assert contexts[0] == Context()
    assert len(contexts) > 3
    assert all(context.state for context in contexts[1:])
