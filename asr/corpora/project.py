"""Makes manifests and a training configuration from a folder of recordings and transcripts (``asr init``)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from asr.audio import read
from asr.config import loader
from asr.config.sections import Config, FeatureConfig, ModelConfig, TextConfig
from asr.config.training_sections import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from asr.corpora import detection, layouts
from asr.corpora.detection import Detection
from asr.corpora.layouts import Clip
from asr.data import manifest, preflight
from asr.data.findings import ERROR, CheckReport
from asr.data.manifest import Utterance
from asr.errors import AudioError, ManifestError, OutputError, TextError
from asr.files import write_together
from asr.models.bundled import default_model
from asr.models.description import read_description
from asr.text.normalisation import normalise
from asr.text.written_out import language_code, spoken

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
LEAST_SPEAKERS = 5
"""Speakers from which sets are split by speaker; fewer cannot be spared."""
LEAST_UTTERANCES = 10
SIZES = (
    # hours up to, layers, hidden, seconds a batch, epochs
    (0.3, 2, 128, 20, 80),
    (3.0, 3, 256, 45, 60),
    (20.0, 4, 320, 90, 50),
    (100.0, 4, 512, 200, 40),
    (math.inf, 5, 640, 400, 25),
)
"""What recipes of such corpora use."""
FINE_TUNING = ((0.3, 20), (1.0, 15), (3.0, 10), (20.0, 6), (math.inf, 4))
"""Hours up to, and epochs from a trained model: one hour takes half an hour on one core (docs/own_data.md)."""
PATIENCE = 5
"""Validations without a better one that end a fine-tuning."""
WORD_VOCABULARY = 60
"""Up to so many different words in transcripts of one or two words each, a token is a word."""
PIECES_HOURS = 100.0
"""From here on there is text enough to learn pieces of words from."""
FAST_FILL = 0.45
"""Share of the frames that the labels of fast speech may need before frames become shorter (docs/experiments.md)."""
PROBED = 50
LEAST_SPELT = 0.99
"""Share of the utterances that the default model must be able to spell for a training to start from it."""
LEAST_HOURS, ENOUGH_HOURS = 0.3, 100.0
"""Below the first there is too little speech for any text; from the second on there is enough for all of them."""
TEXTS, LEFT_OUT = detection.PROJECT[-2:]
"""Id, text as written and text as spoken of each utterance whose text changed; what is left out, and why."""
ALWAYS = {"model": ("cell", "bidirectional", "layers", "hidden", "dropout"), "data": ("batch_s",), "train": ("epochs",)}
"""Keys that the configuration names even where they are the default."""


@dataclass(frozen=True)
class Project:
    """What ``start_project`` wrote and why; ``lines`` is the summary. ``reports`` are the preflight's, by set.

    ``init``: the model that the training starts from; empty for random weights.
    """

    config: Path
    sets: dict[str, list[Utterance]]
    found: Detection
    reports: dict[str, CheckReport]
    lines: tuple[str, ...]
    init: str = ""

    @property
    def left_out(self) -> dict[str, str]:
        return self.found.left_out


def speech_advice(project: Project) -> str:
    """How far the project's speech for training goes, in words; empty where there is nothing to say."""
    hours = manifest.statistics(project.sets["train"]).hours
    if project.init or hours >= ENOUGH_HOURS:
        return ""
    text = f"{hours:.2f} h of speech to train on, from random weights: "
    if hours < LEAST_HOURS:
        return (
            f"{text}enough for a few different words at most. Record more, or start from a trained model "
            "(--init MODEL), which needs only minutes of speech"
        )
    return f"{text}enough for letters, digits, names or commands (recipe an4: 0.7 h); free speech takes 100 h and more"


def start_project(
    folder: str | Path, out: str | Path, *, language: str = "en", init: str | None = None, force: bool = False
) -> Project:
    """Understand ``folder`` and write ``out/{train,valid,test}.jsonl`` and ``out/train.yaml``, all of it or nothing;
    besides ``out/left_out.txt`` (what and why) and ``out/spoken.tsv`` (texts before and after), where there is any.

    ``language``: whose rules write numbers and abbreviations out (``asr.text.written_out``), empty to keep the texts
    as they are.
    ``init``: a trained model to start from; the configuration then has its features and its network. Empty: random
    weights. None: the default model where it fits (see ``fitting_model``), else random weights.
    ``force``: also where ``out`` has files of these names that an earlier ``start_project`` did not write;
    ``OutputError`` otherwise, and always for files that the layout was read from. Raises ``ManifestError`` where the
    layout is not understood or no utterance can be used, ``ConfigError`` for what is no language.
    """
    folder, out = Path(folder), Path(out)
    if language:
        language_code(language)
    again = detection.is_project(out)
    _check_output(out, again or force)
    found = detection.detect_layout(folder, without=out)
    _check_sources(out, found)
    lines = [f"{folder}: {found.kind}", *found.remarks]
    sets = {name: _measured(items, found) for name, items in found.sets.items()}
    before = {(name, u.id): u.text for name, utterances in sets.items() for u in utterances}
    sets = {name: _spoken(utterances, language, found) for name, utterances in sets.items()}
    changed = [
        (u.id, before[name, u.id], u.text)
        for name, utterances in sets.items()
        for u in utterances
        if u.text != before[name, u.id]
    ]
    if changed:
        _, written, said = changed[0]
        lines.append(f"texts are written as they are spoken ({language}): {written!r} is {said!r}")
        lines.append(f"{out / TEXTS}: the {len(changed)} texts that changed, before and after")
    if not any(sets.values()):
        reason = next(iter(found.left_out.items()), ("", ""))
        raise ManifestError(f"{folder}: no utterance can be used; the first, {reason[0]}: {reason[1]}")
    sets = _split(sets, found, lines)
    if init is None:
        init = fitting_model(sets["train"], language, lines)
    chosen = choose_model_size(sets["train"], out, init=init, valid="valid" in sets, lines=lines)
    sets, reports = _checked(sets, chosen, out, found, lines)
    path = out / "train.yaml"
    texts = {out / f"{name}.jsonl": "".join(manifest.records(out / f"{name}.jsonl", u)) for name, u in sets.items()}
    texts[path] = _yaml(chosen)
    if changed:
        rows = [("id", "as written", "as spoken"), *changed]
        texts[out / TEXTS] = "".join("\t".join(row) + "\n" for row in rows)
    if found.left_out:
        texts[out / LEFT_OUT] = "".join(f"{line}\n" for line in layouts.left_out_lines(found.left_out))
    write_together(texts)
    # What is left of an earlier project would be taken for a part of this one.
    for name in detection.PROJECT if again else ():
        if out / name not in texts:
            (out / name).unlink(missing_ok=True)
    return Project(path, sets, found, reports, tuple(lines), init)


def _check_output(out: Path, replace: bool) -> None:
    """Refuse what is there already and not ours. Cheap, before any work."""
    there = [name for name in (*detection.PROJECT, "train.yaml") if os.path.lexists(out / name)]
    if there and not replace:
        raise OutputError(
            f"{out}: expected an empty folder or a project of asr init, got {', '.join(there)}, which asr init "
            "did not write; choose another folder with --output, or replace them with --force"
        )


def _check_sources(out: Path, found: Detection) -> None:
    """Refuse to replace a file of the corpus."""
    written = {os.path.realpath(out / name) for name in detection.PROJECT}
    for path in found.files:
        if path.name in detection.PROJECT and os.path.realpath(path) in written:
            raise OutputError(
                f"{path}: is one of the recordings' own files and would be replaced; choose "
                "another folder with --output"
            )


def _checked(
    sets: dict[str, list[Utterance]], chosen: Config, out: Path, found: Detection, lines: list[str]
) -> tuple[dict[str, list[Utterance]], dict[str, CheckReport]]:
    """The sets without the utterances that the preflight calls errors, and its reports."""
    good, reports = {}, {}
    training = [u.text for u in sets["train"]]
    for name, utterances in sets.items():
        path = out / f"{name}.jsonl"
        report = preflight.check_utterances(str(path), utterances, chosen, training)
        bad = {f.id: f.message for f in report.findings if report.severity(f.kind) == ERROR}
        kept = [u for u in utterances if u.id not in bad]
        found.left_out.update(bad)
        if not kept:
            raise ManifestError(f"{path}: no utterance can be used; the first, {next(iter(bad.items()))}")
        good[name], reports[name] = kept, report
        lines.append(f"{path}: {manifest.statistics(kept)}")
        if name == "train":
            training = [u.text for u in kept]
    return good, reports


def _measured(items: list[Clip], found: Detection) -> list[Utterance]:
    utterances, failures = layouts.measure_durations(items)
    found.left_out.update(failures)
    return utterances


def _spoken(utterances: list[Utterance], language: str, found: Detection) -> list[Utterance]:
    """Texts as they are said; those that are not understood are left out."""
    if not language:
        return utterances
    said = []
    for utterance in utterances:
        try:
            text = spoken(utterance.text, language)
        except TextError as error:
            found.left_out[utterance.id] = str(error)
            continue
        if not text:
            found.left_out[utterance.id] = f"no words in {utterance.text!r}"
            continue
        said.append(dataclasses.replace(utterance, text=text))
    return said


def _split(sets: dict[str, list[Utterance]], found: Detection, lines: list[str]) -> dict[str, list[Utterance]]:
    """Train, valid and test: those of the folder, or by speaker, or by utterance."""
    sets = {name: utterances for name, utterances in sets.items() if utterances}
    rest = sets.pop("", [])
    if "train" in sets or not rest:
        if rest:
            sets["train"] = sets.get("train", []) + rest
        if "train" not in sets:
            first = next(iter(found.left_out.items()), None)
            reason = f"; of {len(found.left_out)} left out the first, {first[0]}: {first[1]}" if first else ""
            raise ManifestError(f"expected training data, got only {', '.join(sorted(sets))}{reason}")
        lines.append(f"sets as the folder names them: {', '.join(name for name in SHARES if sets.get(name))}")
        named = {name: sets[name] for name in SHARES if sets.get(name)}
        if "valid" in named:
            return named
        drawn = _draw(named["train"], {"train": 0.9, "valid": 0.1}, lines)
        return {**drawn, **({"test": named["test"]} if "test" in named else {})}
    missing = {name: share for name, share in SHARES.items() if name not in sets}
    return {**_draw(rest, missing, lines), **sets}


def _draw(utterances: list[Utterance], shares: dict[str, float], lines: list[str]) -> dict[str, list[Utterance]]:
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    if len(utterances) < LEAST_UTTERANCES:
        lines.append(f"{len(utterances)} utterances are too few to hold any out: nothing will be measured")
        return {"train": utterances}
    if len(speakers) >= LEAST_SPEAKERS and all(u.speaker for u in utterances):
        taken: dict[str, str] = {}
        rest = utterances
        for name in [name for name in shares if name != "train"]:
            count = max(1, round(shares[name] * len(speakers)))
            rest, held = manifest.split_by_speaker(rest, count, seed=1)
            taken |= {u.speaker: name for u in held}
        lines.append(f"sets by speaker: {len(speakers)} speakers, none in two sets")
        return {name: [u for u in utterances if taken.get(u.speaker, "train") == name] for name in shares}
    known = f"{len(speakers)} speakers are too few to be kept apart" if speakers else "no speakers are known"
    lines.append(f"sets by utterance ({known}): the error rate will be that of speakers who are in the training set")
    order = sorted(utterances, key=lambda u: layouts.content_checksum(u.id))
    bounds: dict[str, str] = {}
    for name in [name for name in shares if name != "train"]:
        count = max(1, round(shares[name] * len(utterances)))
        bounds |= {u.id: name for u in order[:count]}
        order = order[count:]
    return {name: [u for u in utterances if bounds.get(u.id, "train") == name] for name in shares}


def fitting_model(train: list[Utterance], language: str, lines: list[str]) -> str:
    """The name of the default model if a training on these utterances should start from it, else nothing.

    It should for English of less than ``ENOUGH_HOURS`` if the model can spell ``LEAST_SPELT`` of the utterances. The
    preflight names the others. The reason goes to ``lines``.
    """
    if language.replace("-", "_").partition("_")[0] != "en" or sum(u.duration_s for u in train) / 3600 >= ENOUGH_HOURS:
        return ""
    name = default_model()
    source = read_description(name)
    if source.config.text.tokenizer != "char":
        return ""
    known = set(source.tokenizer.symbols)
    texts = (normalise(u.text, source.config.text) for u in train)
    spelt = sum(known.issuperset(text) for text in texts) / len(train)
    if spelt < LEAST_SPELT:
        lines.append(f"{name} can spell only {spelt:.0%} of the utterances: random weights")
        return ""
    lines.append(f"English that {name} can spell: the training starts from it (--init none: from random weights)")
    return name


def choose_model_size(
    train: list[Utterance], out: Path, *, init: str = "", valid: bool = True, lines: list[str]
) -> Config:
    """Tokenizer, features, model size and schedule for these training utterances; the reasons go to ``lines``."""
    hours = sum(u.duration_s for u in train) / 3600
    layers, hidden, batch_s, epochs = next(size[1:] for size in SIZES if hours <= size[0])
    if valid_path := (out / "valid.jsonl" if valid else None):
        lines.append(f"{valid_path} chooses the weights to keep")
    data = DataConfig(train=str(out / "train.jsonl"), valid=str(valid_path or ""), batch_s=float(batch_s))
    training = TrainConfig(output=str(out / "model"), consistency=0.2, epochs=epochs, ema=0.998, init=init)
    augmentation = AugmentConfig(warp=0.12, tilt_db=4.0, time_masks=4)
    if init:
        source = read_description(init)
        epochs = next(count for most, count in FINE_TUNING if hours <= most)
        lines.append(f"training starts from {init}: its features, its network, {source.config.text.tokenizer} tokens")
        lines.append(
            f"{hours:.2f} h to train on: at most {epochs} epochs"
            + (f", fewer once {PATIENCE} of them in a row bring no gain" if valid else "")
        )
        return Config(
            text=source.config.text,
            features=source.config.features,
            augment=augmentation,
            model=source.config.model,
            data=data,
            optim=OptimConfig(learning_rate=3e-4, layer_decay=0.85),
            # One view of each utterance: two cost twice the time.
            train=dataclasses.replace(
                training, consistency=0.0, epochs=epochs, ema=0.99, patience=PATIENCE if valid else 0
            ),
        )
    text = _text(train, hours, lines)
    features = _features(train, text, lines)
    model = ModelConfig(layers=layers, hidden=hidden)
    lines.append(f"{hours:.2f} h to train on: {layers} x {hidden} bidirectional LSTM, {epochs} epochs")
    return Config(text=text, features=features, augment=augmentation, model=model, data=data, train=training)


def _text(train: list[Utterance], hours: float, lines: list[str]) -> TextConfig:
    words = Counter(word for u in train for word in u.text.split())
    shouting = all(u.text == u.text.upper() for u in train)
    case = "upper" if shouting else "lower"
    mean = sum(words.values()) / len(train)
    if len(words) <= WORD_VOCABULARY and mean <= 2 and min(words.values()) > 1:
        lines.append(f"{len(words)} different words, {mean:.1f} in an utterance: a token is a word")
        return TextConfig(tokenizer="word", case=case, unknown="space")
    letters = {c for word in words for c in (word.upper() if shouting else word.lower())}
    if hours >= PIECES_HOURS and len(letters) < 100:
        lines.append(f"{hours:.0f} h: a token is a piece of a word, 1,000 of them")
        return TextConfig(tokenizer="bpe", bpe_size=1000, case=case, unknown="space")
    lines.append(f"{len(letters)} different characters: a token is a character")
    return TextConfig(case=case, unknown="space")


def _features(train: list[Utterance], text: TextConfig, lines: list[str]) -> FeatureConfig:
    rates = []
    for utterance in train[:: max(1, len(train) // PROBED)]:
        try:
            rates.append(read.probe_audio(utterance.audio).sample_rate_hz)
        except AudioError:
            continue
    values: dict[str, float] = {}
    if rates and max(rates) < 16000:
        lines.append(f"audio of {max(rates)} Hz: so are the features")
        values = {"sample_rate_hz": max(rates), "high_hz": max(rates) / 2}
    if text.tokenizer == "char":
        fill = sorted(
            0.04 * (len(u.text) + sum(a == b for a, b in zip(u.text, u.text[1:], strict=False))) / u.duration_s
            for u in train
        )
        if fill[int(0.95 * (len(fill) - 1))] > FAST_FILL:
            lines.append("fast speech: 30 ms a label instead of 40")
            values["hop_s"] = 0.0075
    return loader.from_dict(FeatureConfig, values)


def _yaml(chosen: Config) -> str:
    """What differs from the defaults, as a recipe's configuration is written."""
    tree = {}
    for name, section in loader.to_dict(chosen).items():
        default = loader.to_dict(getattr(Config(), name))
        named = ALWAYS.get(name, ())
        changed = {key: value for key, value in section.items() if value != default[key] or key in named}
        if changed:
            tree[name] = changed
    return f"{detection.PROJECT_MARK}. asr train runs it as it is; docs/training.md explains each key.\n" + loader.dump(
        tree
    )
