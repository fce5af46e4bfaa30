"""``asr learn``: fine-tunes a model on its user's corrections, and refuses where that would not help or would hurt."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.audio import read
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, AudioError, DecodeError, ModelError, OutputError, TextError, TrainingError
from asr.files import file_sha256
from asr.models import model_directory
from asr.models.bundled import locate_model, model_file
from asr.models.features import LogMel
from asr.models.model_directory import Model
from asr.recognize.decoder import Decoder
from asr.recognize.options import load_options
from asr.text.tokenizer import min_frames
from asr.text.user_words import whole_reading
from asr.train import cross_validation, learnt_model
from asr.train.adaptation import Adaptation, Lesson, Strength, make_lessons
from asr.train.corrections import read_corrections
from asr.train.cross_validation import Grid, plan_grid
from asr.train.learning_gate import check_forgetting, judge_learning
from asr.train.learning_report import LearningReport, Misfit
from asr.train.model_card import training_checksum
from asr.train.process import alone
from asr.train.rehearsal import MOST_SENTENCES, StoredSentence, load_rehearsal
from asr.train.search_weights import decode_rows, shares_to_try
from asr.train.text_check import text_fit

LEAST_CORRECTIONS = 5
"""Fewer say too little: with 4, all get better by chance once in 16 times."""
LONGEST_CORRECTION_S = 30.0
WORKING = ".learning"
"""What the name of the working folder ends in, beside the output."""


@dataclass(frozen=True)
class LearnOptions:
    """``rehearse``: manifest of other speech, learnt beside the corrections and checked for forgetting. ``language``:
    of the texts, as ``asr transcribe`` takes it; empty: as the model directory says. ``store``: whether the new model
    keeps features of the corrections for the next learning. ``dry_run``: decide, and write nothing. ``grid``: what
    cross-validation tries; None: by the amount of speech (``plan_grid``)."""

    rehearse: str = ""
    language: str = ""
    store: bool = True
    dry_run: bool = False
    seed: int = 1
    grid: Grid | None = None


@dataclass(frozen=True)
class _Correction:
    """An utterance with its features ``(T, D)`` and its text as the model spells it."""

    utterance: Utterance
    text: str
    tokens: tuple[int, ...]
    features: Tensor


def learn(
    model: str | Path, inputs: Sequence[str | Path], output: str | Path, options: LearnOptions | None = None
) -> LearningReport:
    """Fine-tune ``model`` on corrections and write it to ``output``, if that makes it better.

    Args:
        model: a model directory or a bundled model; it is not changed.
        inputs: corrections, as ``asr.train.corrections.read_corrections`` takes them.
        output: the new model directory, which must not be there yet. A run that was killed goes on from the folder
            ``OUTPUT.learning`` when it is started again.
        options: see ``LearnOptions``.

    Returns:
        What was found. ``learnt`` says whether a model was written (with ``dry_run``: would be); ``refusal`` why not.

    Raises:
        ManifestError: an input that cannot be read.
        ModelError: a model that cannot be loaded or fine-tuned, such as an export.
        OutputError: ``output`` is there already or cannot be written.
    """
    options, target = options or LearnOptions(), Path(output)
    source = _load(model)
    if os.path.lexists(target):
        raise OutputError(f"{target}: expected a new folder for the model, got one that is there; choose another name")
    torch.manual_seed(options.seed)
    with _working_folder(target, dry_run=options.dry_run) as folder:
        report, corrections = _usable(source, inputs, folder, options)
        if not report.refusal:
            report = _tune(source, corrections, report, folder, target, options)
    if not options.dry_run:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _load(model: str | Path) -> Model:
    place = locate_model(model)
    if place.suffix == ".onnx" or os.path.isfile(place / "export.json"):
        raise ModelError(f"{model}: expected a model directory, got an ONNX export, whose weights cannot be changed; "
                         "give the model directory that it was exported from")  # fmt: skip
    return model_directory.load_model(model)


@contextmanager
def _working_folder(target: Path, *, dry_run: bool) -> Iterator[Path]:
    """A folder beside the output, which stays when the run is killed; of a dry run one that goes in any case."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="asr-learn-") as temporary:
            yield Path(temporary)
        return
    folder = target.with_name(target.name + WORKING)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror or error}") from error
    with alone(folder):
        try:
            yield folder
        except AsrError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _usable(
    source: Model, inputs: Sequence[str | Path], folder: Path, options: LearnOptions
) -> tuple[LearningReport, list[_Correction]]:
    """The corrections whose text can be spelt and fits the audio."""
    found = read_corrections(inputs, folder / "unpacked")
    report = LearningReport(model=str(source.path), corrections=len(found.utterances) + len(found.left_out))
    report.left_out |= found.left_out
    good = _latest(_featured(source, found.utterances, options.language, report.left_out), report.left_out)
    kept = []
    for one in good:
        with torch.inference_mode():
            rows, _ = source.network(one.features[None], torch.tensor([len(one.features)]))
        try:
            fit = text_fit(rows[0].numpy(), one.tokens, source.tokenizer.space_id)
        except DecodeError as error:
            report.left_out[one.utterance.id] = str(error)
            continue
        if fit.wrong:
            report.misfits.append(Misfit(one.utterance.id, one.text, fit.ratio))
        else:
            kept.append(one)
    report.used = len(kept)
    report.refusal = _too_few(report, len(good))
    return report, kept


def _too_few(report: LearningReport, read: int) -> str:
    """Why the corrections that are left are not enough; empty where they are."""
    if 2 * len(report.misfits) > read:
        return (
            f"{len(report.misfits)} of {read} texts are not what was said in their recordings: check that each text "
            "belongs to its recording, and that the language is the model's"
        )
    if report.used < LEAST_CORRECTIONS:
        first = next((f"; the first left out, {id}: {reason}" for id, reason in report.left_out.items()), "")
        return (
            f"expected at least {LEAST_CORRECTIONS} corrections that can be used, got {report.used}: fewer say too "
            f"little about what helps; correct more{first}"
        )
    return ""


def _featured(
    source: Model, utterances: Sequence[Utterance], language: str, left_out: dict[str, str]
) -> list[_Correction]:
    """The utterances with features; what is wrong with others goes to ``left_out``."""
    config, tokenizer = source.config, source.tokenizer
    language = language or load_options(source.path).language
    log_mel = LogMel(config.features, source.stats)
    found = []
    for one in tqdm(utterances, "reading", disable=None, leave=False):
        try:
            if one.duration_s > LONGEST_CORRECTION_S:
                raise AudioError(
                    f"{one.audio}: {one.duration_s:.1f} s; cut it to parts of at most {LONGEST_CORRECTION_S:g} s"
                )
            text = whole_reading(one.text, tokenizer, language, one.id).text
            tokens = tokenizer.encode(text, one.id)
            samples = read.load_audio(
                one.audio, config.features.sample_rate_hz,
                start_s=one.start_s, end_s=one.end_s, channel=one.channel, max_duration_s=LONGEST_CORRECTION_S,
            )  # fmt: skip
            with torch.inference_mode():
                features, _ = log_mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
            room = int(source.network.count(torch.tensor(features.shape[1])))
            if min_frames(tokens) > room:
                raise TextError(f"{one.id}: {text[:60]!r} needs {min_frames(tokens)} frames, and there are {room}")
        except AsrError as error:
            left_out[one.id] = str(error)
            continue
        found.append(_Correction(one, text, tuple(tokens), features[0].clone()))
    return found


def _latest(found: Sequence[_Correction], left_out: dict[str, str]) -> list[_Correction]:
    """Of corrections of the same sound the last one: texts of one recording are no independent evidence, and a text
    that was corrected once more replaces the one before."""
    last: dict[bytes, _Correction] = {}
    for one in found:
        sound = hashlib.sha256(one.features.numpy().tobytes()).digest()
        before = last.pop(sound, None)
        last[sound] = one
        if before is not None:
            text = "with the same text" if before.text == one.text else f"with the text {one.text[:60]!r}"
            left_out[before.utterance.id] = f"the same recording comes again as {one.utterance.id}, {text}"
    return list(last.values())


def _tune(
    source: Model,
    corrections: list[_Correction],
    report: LearningReport,
    folder: Path,
    target: Path,
    options: LearnOptions,
) -> LearningReport:
    network = source.network
    stored = load_rehearsal(source.path, source.config.features.mel_bins, source.tokenizer.vocab_size)
    stored += _rehearsal_of(source, options, report)
    learnt, checked = _split(stored, len(corrections), options.seed)
    report.rehearsal = len(checked)
    lessons = make_lessons(
        network, [c.features for c in corrections], [c.utterance.id for c in corrections],
        [c.tokens for c in corrections],
    )  # fmt: skip
    beside, forgotten = (
        make_lessons(network, [s.features for s in part], [str(i) for i in range(len(part))],
                     [s.tokens for s in part])
        for part in (learnt, checked)
    )  # fmt: skip
    texts = [c.text for c in corrections]
    frames = sum(len(lesson.features) for lesson in (*lessons, *beside))
    grid = options.grid or plan_grid(frames * source.config.features.hop_s)
    cross_validation.write_key(folder, _key(source, lessons, beside, grid, options.seed))
    choice = cross_validation.cross_validate(network, lessons, beside, texts, grid, folder)
    search = Decoder(load_options(source.path), source.tokenizer)
    references = {c.utterance.id: c.text for c in corrections}
    after = judge_learning(report, choice, search, references, [x.start for x in lessons], shares_to_try(source.card))
    if _refused(report):
        return report
    tuned = Adaptation(network, Strength(choice.rate), options.seed)
    for _ in tqdm(range(report.epochs), "fine-tuning", disable=None, leave=False):
        tuned.epoch([*lessons, *beside])
    check_forgetting(report, forgotten, tuned.log_probs(forgotten), search, after)
    if _refused(report):
        return report
    made = folder / "model"
    shutil.rmtree(made, ignore_errors=True)
    kept = stored + [StoredSentence(c.features, c.tokens) for c in corrections] if options.store else []
    report.new_words = learnt_model.write_model(
        source, tuned.network, after.options, made, texts, learnt_model.without_names(report.to_dict()), kept
    )
    made_search = Decoder(load_options(made), source.tokenizer)
    readings = decode_rows(search, [x.start for x in lessons]), decode_rows(made_search, tuned.log_probs(lessons))
    report.recognised = _newly_recognised(texts, *readings)
    report.learnt = True
    if options.dry_run:
        return report
    try:
        made.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write the model: {error.strerror or error}") from error
    report.output = str(target)
    return report


def _refused(report: LearningReport) -> bool:
    """A call, since mypy would take an attribute that was once empty as empty for good."""
    return bool(report.refusal)


def _rehearsal_of(source: Model, options: LearnOptions, report: LearningReport) -> list[StoredSentence]:
    """Sentences of ``--rehearse``, at most ``MOST_SENTENCES`` drawn with the seed."""
    if not options.rehearse:
        return []
    found = manifest.read_manifest(options.rehearse)
    order = np.random.default_rng(options.seed).permutation(len(found))[:MOST_SENTENCES]
    failures: dict[str, str] = {}
    good = _featured(source, [found[i] for i in sorted(order)], options.language, failures)
    report.left_out |= {f"{options.rehearse}: {id}": reason for id, reason in failures.items()}
    if not good:
        raise TrainingError(f"{options.rehearse}: no sentence can be used; the first: {next(iter(failures.values()))}")
    return [StoredSentence(one.features, one.tokens) for one in good]


def _split(
    stored: Sequence[StoredSentence], count: int, seed: int
) -> tuple[list[StoredSentence], list[StoredSentence]]:
    """Sentences to learn beside ``count`` corrections, at most half of all, and those that forgetting is checked on."""
    order = np.random.default_rng(seed).permutation(len(stored)).tolist()
    beside = min(count, len(stored) // 2)
    return [stored[i] for i in order[:beside]], [stored[i] for i in order[beside:]]


def _key(
    source: Model, lessons: Sequence[Lesson], beside: Sequence[Lesson], grid: Grid, seed: int
) -> dict[str, object]:
    """What the results of a fold depend on."""
    seen = [[x.id, x.tokens, len(x.start), round(float(x.features.double().sum()), 1)] for x in (*lessons, *beside)]
    return {
        "model": str(source.path), "weights": file_sha256(model_file(source.path, "model.safetensors")),
        "data": training_checksum(seen), "seed": seed,
        **cross_validation.describe_grid(grid),
    }  # fmt: skip


def _newly_recognised(texts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Words of the corrections that the start missed and the new model recognises, each sentence by itself."""
    found: dict[str, None] = {}
    for text, old, new in zip(texts, before, after, strict=True):
        found |= dict.fromkeys(w for w in text.split() if w not in old.split() and w in new.split())
    return list(found)
