"""The layout of the package: who may import whom, and names that mean one thing only."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import asr

ROOT = Path(__file__).parents[1]
ORDER = """
errors terminal files transcript subtitles formats plotting
cloud: addresses retries filesystems remote_objects range_reader inputs input_cache
config: arguments child_processes cpus ranks loader ranges keys training_sections sections language
audio: headers pyav tar_headers archive_index archive_members find samples pipes plain_wav sound_files
audio: read levels noise sources
text: normalisation language_tables written_out number_words written_tags prose tokenizer bpe word_tokens phones
text: user_words tokenizer_files templates
scoring: alternatives rules bootstrap score_report transcript_files pairing wer comparison
data: block_convolution distort manifest splice sample_cache remote_files remote_shards shard_members shard_index
data: shard_set source_shares shard_shares
data: archived_utterances
data: shard_writer
data: manifest_lines manifest_table
data: batch_maker labels crew_child crew batch_plan batches sharded_batches feeding
data: findings preflight shard_check
data: voices kokoro synth
models: framing
models: weight_shapes bundled onnx_files device mel scan subsample tensors description cells inference acoustic features
models: pace onnx_sessions staged_runs onnx_backend torch_backend model_directory averaging storage spec_augment
corpora: download text_files layouts speech_gate kaldi_nemo turns unpack tabular detection project recipe
decode: built_kernels compiled kernel_parts compilation
decode: posteriors judgement confidence hypothesis kenlm_child endpoint kernel ngram_arrays lexicon_tree ngram
decode: arpa ngram_file ngram_cache pools fusion phrase_bigram
decode: mixtures mixture_cache greedy_search alignment kenlm_binary lexicon phrase_search phrase_kernel phrase_graph
decode: search_memory beam warming kernel_builder
lm: ngram_counts kneser_ney lmplz recurrent onnx_lm lm_directory pruning generation
lm: lm_texts ngram_training added_words lm_conversion perplexities tagger_description tagger
export: onnx_writer graph_builder cell_graphs acoustic_parts acoustic_graphs staged_graphs lm_graph stored_weights
recognize: loading language_models long_audio output_folder recording reader_child readers segmentation vocabulary
recognize: rescoring options option_sources decoder phrase_lists readable_model readable engine known_words
recognize: waiting_samples stream stream_batch pipeline phrase_answers recognizer
recognize: gradual batch_inputs fetched_chunks batch run_identity result_places result_parts ray_stages ray_cluster
recognize: ray_engine archive
export: int8_graphs onnx_folder sherpa_graphs sherpa_runs sherpa_text sherpa_folder verification export_description
evaluation: evaluation_file model_scores tuning calibration judge_fitting
evaluation: report_statistics report_media report_page report
train: log curves checkpoint_writer distributed finetune loss_scale losses model_card optimiser process
train: second_opinions pseudo_labels rehearsal
train: step_results task shard_training training_features training_warnings weight_average resume schedule steps loop
train: language_task readable_task objective acoustic_task
train: adaptation text_check cross_validation search_weights corrections learnt_model learning_report
train: learning_gate learning
server: problems settings messages samples_in catalogue wire computing_turns live_engine file_engine worker_child
server: learner_child learning_folder
server: admission metrics workers teaching live_streams file_jobs services
server: api_errors form_fields transcription_bodies uploads access health rest
server: client_messages web_sockets vosk_replies vosk realtime_settings realtime_items realtime
server: wyoming_frames wyoming_announcement wyoming_service
server: page_audio correction_zip raw_bodies page_data teach_requests page app http_connections running
cli: shared_options printing live_display transcription_verbs corpus_verbs export_verb training_verbs language_verbs
cli: held_out_verbs learn_verb synth_verb shard_verb serve_verb scoring_verbs report_verb model_verbs main
"""
"""Every module of the package. A module imports only from modules before its own; ``package:`` begins a package."""

EXCEPTIONS: dict[str, str] = {}
"""Public names that may be defined in two modules, with the reason."""


def modules() -> list[str]:
    """The dotted names of ``ORDER``; a package itself stands behind its modules."""
    names: list[str] = []
    for line in ORDER.split("\n"):
        package, colon, rest = line.rpartition(":")
        prefix = f"asr.{package}." if colon else "asr."
        names += [prefix + name for name in rest.split()]
        names += [prefix[:-1]] if colon else []
    return names


FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted((ROOT / "asr").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
RANK = {name: rank for rank, name in enumerate(modules())}


def imported(tree: ast.AST, homes: dict[str, str] | None = None) -> list[tuple[str, int]]:
    """(module, line) of everything from ``asr`` that a file imports, types-only imports included.

    A public name, as in ``from asr import load``, counts as the module that it comes from.
    """
    homes = {f"asr.{name}": home for name, home in asr._HOMES.items()} if homes is None else homes
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = homes.get(name, name).split(".")
            known = [".".join(parts[:end]) for end in range(len(parts), 1, -1)]
            found += [(module, node.lineno) for module in known if module in FILES][:1]
    return found


def defined(tree: ast.Module) -> dict[str, type[ast.AST]]:
    """Names that a module defines at its top, and the kind of each definition."""
    names: dict[str, type[ast.AST]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = type(node)
        elif isinstance(node, ast.Assign):
            names |= {target.id: ast.Assign for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = ast.AnnAssign
    return names


def test_every_module_has_its_place():
    assert set(RANK) == set(FILES) - {"asr", "asr.cli.__main__"}


@pytest.mark.parametrize("module", sorted(RANK))
def test_a_module_imports_only_from_modules_before_it(module):
    for other, line in imported(TREES[module]):
        if module == "asr.decode" and other.startswith("asr.decode."):
            continue
        assert RANK[other] < RANK[module], f"{FILES[module]}:{line}: {other} stands behind {module}"


def test_public_names_count_as_their_modules():
    tree = ast.parse("from asr import __version__, load\nimport asr.errors\n")
    assert imported(tree) == [("asr.recognize.recognizer", 1), ("asr.errors", 2)]


def test_no_module_has_the_name_of_a_function_in_it():
    for module, tree in TREES.items():
        assert defined(tree).get(module.rpartition(".")[2]) not in (ast.FunctionDef, ast.AsyncFunctionDef), module


def test_a_public_name_is_defined_in_one_module_only():
    homes = defaultdict(list)
    for module, tree in TREES.items():
        for name in defined(tree):
            if not name.startswith("_"):
                homes[name].append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1 and name not in EXCEPTIONS} == {}


def test_no_two_modules_share_a_file_name():
    places = defaultdict(list)
    for path in FILES.values():
        if not path.name.startswith("__"):
            places[path.name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_module_paths_in_markdown_exist():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/*/README.md")]:
        for path in re.findall(r"(?<![\w/.-])(?:asr|tools|tests|egs)/[\w/]+\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{page}: {path}"


def test_the_package_does_not_import_recipes_examples_or_tools():
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"recipes", "egs", "tools", "tests"}, module
