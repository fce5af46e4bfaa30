"""Phrases as a graph: candidates and answers are those of the full sum over all phrases."""

import itertools
import random

import numpy as np
import pytest
from small import TOKENIZER, make_recognizer, sound

from asr.cli import main
from asr.config.sections import TextConfig
from asr.decode import phrase_graph as graphs
from asr.decode import score_phrases
from asr.decode.phrase_graph import PhraseGraph
from asr.decode.phrase_search import read_phrases
from asr.errors import AudioError, ConfigError, DecodeError
from asr.recognize import decoder as decoders
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding
from asr.recognize.recognizer import Recognizer
from asr.text.phones import WORD_BOUNDARY, PhoneTokenizer
from asr.text.templates import Slot, Template, Templates, read_templates
from asr.text.tokenizer import CharTokenizer
from asr.text.word_tokens import WordTokenizer

LINES = [
    "a {b|cc|b d} d", "{who} {b|a}", "{who}", "d {list} {who}", "d {list}", "abba",
    "{who} = ab | ba c | {list} d", "{list} = c | ca | c a",
]  # fmt: skip


def random_matrix(rng, frames, vocabulary, scale=2.0):
    logits = rng.normal(scale=scale, size=(frames, vocabulary))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def expanded(templates):
    """Every phrase of the templates once, by brute force."""

    def texts(template):
        parts = [
            [item] if isinstance(item, str) else [text for t in templates.slots[item.name] for text in texts(t)]
            for item in template.items
        ]
        return [" ".join(way) for way in itertools.product(*parts)]

    return list(dict.fromkeys(text for line in templates.lines for text in texts(line)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Templates, and beside them the list of all their phrases."""
    folder = tmp_path_factory.mktemp("templates")
    write(folder / "templates.txt", *LINES)
    write(folder / "list.txt", *expanded(read_templates(folder / "templates.txt")))
    return folder


@pytest.fixture(scope="module")
def graph(folder):
    return PhraseGraph(read_templates(folder / "templates.txt"), TOKENIZER)


@pytest.mark.parametrize("frames", [0, 1, 3, 6, 10, 25])
def test_candidates_are_the_likeliest_of_the_full_sum(graph, folder, frames):
    listed = read_phrases(folder / "list.txt", TOKENIZER)
    assert len(listed) < graphs.BEAM
    for seed in range(10):
        matrix = random_matrix(np.random.default_rng(seed), frames, TOKENIZER.vocab_size)
        scores = score_phrases(matrix, listed)[0]
        ranked = [listed[i] for i in np.argsort(-scores) if scores[i] > -np.inf][:10]
        found = [graph.phrase(key) for key in graph.candidates(matrix, 10)]
        assert [phrase.text for phrase in found] == [phrase.text for phrase in ranked]
        assert [phrase.spellings for phrase in found] == [phrase.spellings for phrase in ranked]
        assert [phrase.said for phrase in found] == [phrase.said for phrase in ranked]


@pytest.mark.parametrize(
    "tokenizer",
    [
        WordTokenizer(["<blank>", "A", "B", "D", "AB", "BA", "C", "CA", "CC", "ABBA"], TextConfig(tokenizer="word")),
        PhoneTokenizer(
            ["<blank>", "x", "y", "z", WORD_BOUNDARY],
            {"A": [("x",), ("y",)], "B": [("y", "y")], "D": [("z",)], "AB": [("x", "y", "y")], "BA": [("y", "y", "x")],
             "C": [("x",)], "CA": [("x", "y")], "CC": [("z", "z")], "ABBA": [("x", "x")]},
            TextConfig(tokenizer="phone", lexicon="x", word_boundary=True),
        ),
    ],
    ids=["words", "phones"],
)  # fmt: skip
def test_other_tokens_and_several_spellings(folder, tokenizer):
    """Phones of which several phrases are made, words of which there are several spellings."""
    graph = PhraseGraph(read_templates(folder / "templates.txt"), tokenizer)
    listed = read_phrases(folder / "list.txt", tokenizer)
    for seed in range(10):
        matrix = random_matrix(np.random.default_rng(seed), 12, tokenizer.vocab_size)
        scores = score_phrases(matrix, listed)[0]
        found = {graph.phrase(key).text: graph.phrase(key) for key in graph.candidates(matrix)}
        best = listed[int(scores.argmax())]
        assert found[best.text].spellings == best.spellings


def test_a_search_that_keeps_little_finds_the_likeliest_of_a_thousand(monkeypatch):
    """200 of about 5,000 prefixes, where the audio is of one of the phrases."""
    rng = random.Random(1)
    listed = list({"".join(rng.choice("ABCD") for _ in range(rng.randint(3, 9))): 0 for _ in range(1000)})
    graph = PhraseGraph(Templates([Template((text,), "x") for text in listed]), TOKENIZER)
    monkeypatch.setattr(graphs, "BEAM", 200)
    noise = np.random.default_rng(2)
    for text in rng.sample(listed, 60):
        matrix = noise.normal(scale=1.5, size=(3 * len(text) + 4, TOKENIZER.vocab_size))
        matrix[:, 0] += 3
        for at, token in enumerate(TOKENIZER.encode(text)):
            matrix[3 * at + 2, token] += 7
        matrix -= np.log(np.exp(matrix).sum(-1, keepdims=True))
        phrases = [graph.phrase(key) for key in graph.candidates(matrix)]
        everything = score_phrases(matrix, [graph.phrase((n,)) for n in range(len(listed))])[0]
        best = phrases[int(score_phrases(matrix, phrases)[0].argmax())]
        assert best.text == graph.phrase((int(everything.argmax()),)).text


def test_a_search_that_lost_every_phrase_is_made_again(monkeypatch, graph):
    monkeypatch.setattr(graphs, "BEAM", 2)
    for seed in range(20):
        matrix = random_matrix(np.random.default_rng(seed), 12, TOKENIZER.vocab_size, scale=6.0)
        assert graph.candidates(matrix)


def test_memory_that_runs_out_is_doubled(folder, monkeypatch):
    """A long recording with a small beam, whose memory was for a few rows, gives what a wide one gives."""
    graph = PhraseGraph(read_templates(folder / "templates.txt"), TOKENIZER)
    matrix = random_matrix(np.random.default_rng(5), 400, TOKENIZER.vocab_size)
    wide = graph.candidates(matrix, 3)
    monkeypatch.setattr(graphs, "BEAM", 120)
    assert graph.candidates(matrix, 3) == wide


def test_numbers_and_dates_are_written_as_such(tmp_path):
    letters = CharTokenizer(["<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig())
    templates = read_templates(write(tmp_path / "t.txt", "wait {number 20-29} minutes", "on {date}"))
    graph = PhraseGraph(templates, letters)
    texts = {}
    for text, seed in (("WAIT TWENTY FIVE MINUTES", 0), ("ON THE THIRD OF MARCH", 1)):
        matrix = np.random.default_rng(seed).normal(size=(3 * len(text), letters.vocab_size))
        for at, token in enumerate(letters.encode(text)):
            matrix[3 * at + 1, token] += 9
            matrix[3 * at + 2, 0] += 9
        matrix -= np.log(np.exp(matrix).sum(-1, keepdims=True))
        phrase = graph.phrase(graph.candidates(matrix)[0])
        texts[phrase.text] = phrase.line
    assert texts == {"WAIT TWENTY FIVE MINUTES": "wait 25 minutes", "ON THE THIRD OF MARCH": "on March 3"}


def test_a_grammar_that_multiplies_is_refused_and_a_large_one_is_not():
    def chain(depth):
        slots = {f"s{i}": [Template((Slot(f"s{i + 1}"), Slot(f"s{i + 1}")), f"g:{i}")] for i in range(depth)}
        return Templates([Template((Slot("s0"),), "g:0")], slots | {f"s{depth}": [Template(("A",), "g:x")]})

    with pytest.raises(DecodeError, match="g:0: expected slots that can be reached in at most 1,000,000 ways"):
        PhraseGraph(chain(30), TOKENIZER)
    with pytest.raises(DecodeError, match="at most 50 slots inside each other"):
        PhraseGraph(chain(60), TOKENIZER)
    graph = PhraseGraph(chain(10), TOKENIZER)  # 1,024 words
    assert graph.candidates(random_matrix(np.random.default_rng(0), 100, TOKENIZER.vocab_size)) == []


def test_many_slots_take_no_memory_for_their_products():
    """1,000^5 phrases."""
    rng = random.Random(3)
    words = [Template(("".join(rng.choice("ABCD") for _ in range(8)),), "s") for _ in range(1000)]
    graph = PhraseGraph(Templates([Template((Slot("s"),) * 5, "g")], {"s": words}), TOKENIZER)
    assert len(graph._graph.ends) < 10_000
    matrix = random_matrix(np.random.default_rng(0), 80, TOKENIZER.vocab_size)
    found = [graph.phrase(key) for key in graph.candidates(matrix)]
    assert found
    assert all(len(phrase.text.split()) == 5 for phrase in found)


def test_a_word_that_cannot_be_spelt_is_named(tmp_path):
    with pytest.raises(DecodeError, match=r"t\.txt:2: 'XYZ'"):
        PhraseGraph(read_templates(write(tmp_path / "t.txt", "A {s}", "{s} = B | XYZ")), TOKENIZER)


def test_another_vocabulary_is_refused(graph):
    with pytest.raises(DecodeError, match="expected 6 columns"):
        graph.candidates(random_matrix(np.random.default_rng(0), 5, 9))


def test_the_words_are_those_of_all_lists(graph):
    assert graph.words() == {"A", "B", "CC", "D", "ABBA", "AB", "BA", "C", "CA"}


def test_a_recogniser_answers_as_with_the_whole_list(folder, tmp_path):
    options = {"unknown_penalty": -2.0, "speeds": (0.9, 1.0)}
    recognizers = [
        make_recognizer(tmp_path, blank=1.0, phrases=str(folder / name), **options)
        for name in ("templates.txt", "list.txt")
    ]
    assert recognizers[0].decoder.graph is not None
    assert recognizers[1].decoder.phrases
    for seed in range(8):
        found = [recognizer.transcribe(sound(1.5, seed=seed)) for recognizer in recognizers]
        assert found[0].text == found[1].text
        assert [w.start_s for w in found[0].words] == [w.start_s for w in found[1].words]
        assert [w.confidence for w in found[0].words] == pytest.approx([w.confidence for w in found[1].words], abs=0.02)


def test_several_models_judge_the_candidates_of_all(folder, tmp_path):
    answers = []
    for name in ("templates.txt", "list.txt"):
        first = make_recognizer(tmp_path, "gru", blank=1.0, phrases=str(folder / name))
        second = make_recognizer(tmp_path, blank=0.0, phrases=str(folder / name))
        both = Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[second])
        answers.append([both.transcribe(sound(1.5, seed=seed)).text for seed in range(6)])
    assert answers[0] == answers[1]


def test_a_stream_answers_as_the_whole_recording(folder, tmp_path):
    recognizer = make_recognizer(tmp_path, blank=1.0, phrases=str(folder / "templates.txt"))
    wave = sound(2.0, seed=3)
    stream = recognizer.stream()
    for block in np.split(wave, [1000, 9000, 9001]):
        stream.accept(block)
    assert stream.finish().text == recognizer.transcribe(wave).text != ""


def test_a_long_plain_list_becomes_a_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(decoders, "LONG_LIST", 3)
    lines = [write(tmp_path / f"{n}.txt", *"AB CD DC BA".split()[:n]) for n in (3, 4)]
    short, long = (Decoder(Decoding(phrases=str(path)), TOKENIZER) for path in lines)
    assert (len(short.phrases), short.graph) == (3, None)
    assert (long.phrases, long.closed) == ([], True)
    matrix = random_matrix(np.random.default_rng(0), 9, TOKENIZER.vocab_size)
    assert long.lists(matrix[None], np.array([9]))[0][0].phrase in "AB CD DC BA".split()


def test_answers_that_are_remembered_are_bounded(folder, monkeypatch):
    monkeypatch.setattr(decoders, "MOST_ANSWERS", 3)
    decoder = Decoder(Decoding(phrases=str(folder / "templates.txt")), TOKENIZER)
    for seed in range(12):
        matrix = random_matrix(np.random.default_rng(seed), 14, TOKENIZER.vocab_size)
        (best,) = decoder.lists(matrix[None], np.array([14]))[0]
        assert decoder.phrase_of[best.phrase].text == best.phrase
    assert len(decoder.phrase_of) == 3


def test_silence_and_recordings_without_room(folder, tmp_path):
    recognizer = make_recognizer(tmp_path, blank=1.0, phrases=str(folder / "templates.txt"))
    assert recognizer.transcribe(np.zeros(500, np.float32)).text in ("", "C", "AB")
    with pytest.raises(AudioError, match="expected one phrase"):
        recognizer._transcribe_long(samples_of_minutes(2))


def samples_of_minutes(minutes):
    from asr.recognize.recording import Recording

    return Recording(np.zeros(16000 * 60 * minutes, np.float32), "long")


def test_templates_on_the_command_line(folder, model_dir, tmp_path, capsys, write_wav, bursts):
    wav = write_wav(tmp_path / "a.wav", bursts(2.0))
    templates = write(tmp_path / "t.txt", "call {name}", "{name} = ann | bob")
    assert main.run_command(["transcribe", str(wav), "--model", str(model_dir), "--phrases", str(templates)]) == 0
    assert capsys.readouterr().out.strip().endswith(("call ann", "call bob"))
    write(templates, "call {nobody}")
    assert main.run_command(["transcribe", str(wav), "--model", str(model_dir), "--phrases", str(templates)]) == 2
    assert f"{templates}:1: slot {{nobody}} is not defined" in capsys.readouterr().err


def test_other_options_of_models_are_refused(folder, tmp_path):
    first = make_recognizer(tmp_path, phrases=str(folder / "templates.txt"))
    second = make_recognizer(tmp_path, phrases=str(folder / "list.txt"))
    with pytest.raises(ConfigError, match="expected the same phrases"):
        Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[second])
