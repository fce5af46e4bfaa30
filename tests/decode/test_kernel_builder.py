"""The kernels as a library (asr/decode/kernel_builder.py, built_kernels.py): the same results as numba's."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_fusion import Table
from test_lexicon import TOKENS

from asr.decode import built_kernels, kernel, phrase_kernel, pools
from asr.decode.beam import BeamSearch, beam_search
from asr.decode.built_kernels import built_kernel, find_library, why_no_library
from asr.decode.fusion import Fusion
from asr.decode.kernel_builder import can_build
from asr.decode.lexicon import make_words
from asr.decode.ngram import Ngram
from asr.decode.phrase_graph import GraphSearch

ROOT = Path(__file__).parents[2]
NGRAM = Ngram(2, {("<s>",): (-99, -0.2), ("A",): (-0.7, -0.3), ("AB",): (-0.9, 0.0), ("</s>",): (-1.1, 0.0),
                  ("<unk>",): (-2.0, 0.0), ("A", "AB"): (-0.2, 0.0)})  # fmt: skip
COLUMNS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The library and its description, beside copies of the sources."""
    if not can_build():
        pytest.skip("building the library needs Linux, numba and a C compiler")
    if find_library() is not None:
        pytest.skip("this tree has the library of the kernels, so that nothing here runs by numba")
    folder = tmp_path_factory.mktemp("library")
    command = [sys.executable, "-m", "asr.decode.kernel_builder", folder]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    for name in built_kernels.SOURCES:
        shutil.copy(ROOT / "asr" / "decode" / name, folder)
    return folder


@pytest.fixture
def use_library(folder, monkeypatch):
    """A function after whose call the search runs by the library."""

    def use():
        library = find_library(folder)
        for module in (kernel, pools, phrase_kernel):
            for name in set(library.kernels) & set(vars(module)):
                monkeypatch.setattr(module, name, built_kernel(library, name))

    return use


def matrices(count=6, frames=40, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, frames, COLUMNS)) * 2
    return values - np.log(np.exp(values).sum(axis=2, keepdims=True))


def words(**options):
    return make_words(TOKENS.spellings, TOKENS.vocab_size, TOKENS.space_id, **options)


def streamed(matrix, made):
    search = BeamSearch(beam=7, words=made)
    found = []
    for at in range(0, len(matrix), 3):
        search.accept(matrix[at : at + 3])
        found.append(search.partial())
        search.settle(20)
    search._make_room()
    return [*found, search.finish(3)]


def phrases():
    """The search of a graph of the phrases A B and B, with more candidates than the beam holds."""
    column = [np.array(values, np.int32) for values in ([0, 2, 3, 3], [2, 3, 3], [1, 2, 2], [-1] * 3, [2, 1, 0])]
    zero = np.zeros(1, np.int32)
    graph = phrase_kernel.GraphArrays(
        *column[:4], ends=np.array([False, False, True]), rest=column[4], roots=zero, parent=zero, back=zero,
        calls=np.ones(1, np.int32), frame_rest=zero, vocabulary=COLUMNS,
    )  # fmt: skip
    search = GraphSearch(graph, beam=2)
    return [search.run(np.exp(matrix)) for matrix in matrices()], [search.places(1)]


CASES = {
    "no language model": lambda: beam_search(matrices(), beam=7, nbest=3),
    "lexicon, n-gram, hot words": lambda: beam_search(
        matrices(), beam=7, nbest=3,
        words=words(lexicon=["A", "AB", "BA"], ngram=NGRAM, weight=0.7, unknown_penalty=-3.0, hotwords={"BA": 2.0}),
    ),
    "stream": lambda: streamed(matrices(1)[0], None),
    "stream with a lexicon": lambda: streamed(matrices(1)[0], words(lexicon=["A", "AB"], unknown_penalty=-2.0)),
    "a long recording, whose pools are emptied": lambda: beam_search(matrices(1, 9000), beam=40),
    "scores of sentences": lambda: [NGRAM.score(text) for text in ("A AB A", "B", "")],
    "graph of phrases": phrases,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_library_finds_exactly_what_numba_finds(case, use_library):
    wanted = CASES[case]()
    use_library()
    assert CASES[case]() == wanted


def test_a_language_model_over_tokens_pauses_the_library_as_it_pauses_numba(use_library):
    lm = Fusion(Table(COLUMNS), 0.5)
    wanted = beam_search(matrices(), beam=5, lm=lm)
    use_library()
    assert beam_search(matrices(), beam=5, lm=lm) == wanted


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda search: pickle.loads(pickle.dumps(search))])
def test_a_copy_of_a_search_has_memory_of_its_own(copied, use_library):
    use_library()
    first, second = matrices(2)
    search = BeamSearch(beam=5)
    search.accept(first)
    branch = copied(search)
    branch.accept(second)
    assert search.finish() == beam_search(first, beam=5)[0]
    assert branch.finish() == beam_search(np.concatenate([first, second]), beam=5)[0]


@pytest.mark.parametrize(
    "wrong", [np.zeros(3, np.float32), np.zeros((3, 1)), np.zeros(6)[::2], "no array"], ids=lambda x: str(type(x))
)
def test_an_array_of_another_kind_is_refused_and_not_read(wrong, folder):
    call = built_kernel(find_library(folder), "compact")
    with pytest.raises(TypeError, match="kernel compact: expected"):
        call(BeamSearch(beam=2)._state, wrong)


def test_a_library_of_other_sources_is_not_used(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert find_library(tmp_path) is not None
    find_library.cache_clear()
    with (tmp_path / "pools.py").open("a") as file:
        file.write("\n")
    assert find_library(tmp_path) is None
    assert "was made of other sources; pip install the package again" in why_no_library(tmp_path)


def test_a_damaged_library_is_not_used(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / built_kernels.LIBRARY).write_bytes(b"not a library")
    assert find_library(tmp_path) is None
    assert "cannot be loaded: " in why_no_library(tmp_path)


def test_the_environment_may_ask_for_numba(monkeypatch, folder):
    monkeypatch.setenv("ASR_KERNELS", "numba")
    find_library.cache_clear()
    assert find_library(folder) is None
    assert not can_build()
    find_library.cache_clear()


def test_without_library_and_numba_the_message_says_what_to_install():
    code = "import sys; sys.modules['numba'] = None; from asr.decode import kernel"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ASR_KERNELS": "numba"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "pip install numba" in ran.stderr.splitlines()[-1]
    assert "ASR_KERNELS=numba asks for it" in ran.stderr.splitlines()[-1]
