"""The command line. Heavy imports wait until a command needs them, so that --help is instant."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import math
import os
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import asr
from asr import files, formats, terminal
from asr.cli import corpus_verbs, language_verbs
from asr.config import cpus
from asr.config.arguments import Parser, number, whole
from asr.errors import AsrError
from asr.files import check_output

if TYPE_CHECKING:
    from asr.scoring import wer

# Exit status: everything worked; some inputs failed, the others are done; nothing was done.
OK, SOME_FAILED, FAILED = 0, 1, 2
MOST_LEFT_OUT = 5
"""Different words of a text that are named as left out."""
UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 some inputs failed, 2 not done, 130 and 143 interrupted."""
    _open_standard_streams()
    with terminal.shown(), _terminable():
        return _guarded(argv)


def _guarded(argv: Sequence[str] | None) -> int:
    """Run the command; what a user can act on becomes a message and a status."""
    try:
        return run_verb(argv)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupt:
        stopped = isinstance(interrupt, terminal.Terminated)
        reason = f": {interrupt}" if str(interrupt) else ""
        print(f"{'terminated' if stopped else 'interrupted'}{reason}", file=sys.stderr)
        return 143 if stopped else 130
    except BrokenPipeError:  # The reader of a pipe (head, say) has had enough: not an error of ours.
        _drop_output()
        return OK
    except OSError as error:  # of a file whose reader or writer expected none, or of standard output
        _drop_output()
        place = error.filename or ("standard output" if error.errno in UNWRITTEN else "")
        print(f"error: {place}{': ' if place else ''}{error.strerror or error}", file=sys.stderr)
        return FAILED


def run_verb(argv: Sequence[str] | None = None) -> int:
    """As ``run_command``, but that errors are raised."""
    try:
        args = parse_arguments(argv)
    except SystemExit:  # --help, or wrong arguments
        print(end="", flush=True)
        raise
    cpus.settle(awake=args.awake)
    status: int = args.run(args)
    print(end="", flush=True)  # so that a closed pipe or a full disk is noticed here
    return status


def _open_standard_streams() -> None:
    """Fill the places of streams that the caller has closed, so that no file of ours gets their numbers.

    What is written to a closed standard output is an error, as everywhere; messages and input go to and come from
    nowhere. Names that are no text in the terminal's encoding come out escaped.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (place := os.open(os.devnull, os.O_RDONLY)) < 3:
            pass
        os.close(place)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (for reading alone: to write is an error)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what standard output could not take nowhere, so that Python does not try once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises ``terminal.Terminated`` here, so that files are finished and processes of ours are ended."""

    def handle(number: int, frame: object) -> None:
        raise terminal.Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parsed arguments; leaves the process with status 2 when they are wrong."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one run only; those behind an option (train CONF --resume a=b) come back.
    if rest and ("extends" not in args or any(r.startswith("-") and r != "-" for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(args, args.extends).extend(rest)
    return args


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="asr", description="Recurrent speech recognition with CTC.")
    parser.add_argument("--version", action="version", version=f"asr {asr.__version__}")
    parser.set_defaults(awake=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    transcribe = commands.add_parser(
        "transcribe", help="transcribe files, folders or standard input to text or subtitles"
    )
    transcribe.add_argument("inputs", nargs="+", metavar="FILE", help="audio file, folder, or - for standard input")
    transcribe.add_argument(
        "--jobs", type=whole(1, 4096), default=1, metavar="N", help="processes that share the recordings"
    )
    transcribe.add_argument("--resume", action="store_true", help="skip recordings with a transcript in --output-dir")
    transcribe.add_argument("--channels", default="mix", choices=("mix", "split"), help="one text, or one per channel")
    transcribe.add_argument(
        "--raw-rate", type=whole(1), metavar="HZ", help="sample rate of raw samples on - (16 bits, mono)"
    )
    transcribe.add_argument(
        "--max-duration", type=number(0, above=True, off=None), metavar="S", help="refuse longer recordings"
    )
    transcribe.add_argument("--format", default="txt", choices=tuple(formats.FORMATS))
    transcribe.add_argument("--output-dir", type=Path, metavar="DIR", help="one file per recording, instead of stdout")
    language_verbs.add_force(transcribe)
    _add_also(transcribe)
    _add_model(transcribe)
    transcribe.set_defaults(run=_transcribe, extends="inputs")

    stream = commands.add_parser(
        "stream",
        help="transcribe a file, standard input or a microphone live",
        description="Utterances end at pauses. On a terminal the text grows as you speak; elsewhere each "
        "utterance is a line.",
    )
    stream.add_argument(
        "input",
        metavar="FILE|-|mic",
        nargs="?",
        help="- is standard input: an audio file or, with --rate, raw 16-bit little-endian mono samples",
    )
    stream.add_argument("--json", action="store_true", help="JSON lines: partial and final texts with times")
    stream.add_argument("--realtime", action="store_true", help="read FILE or - at the speed of the recording")
    stream.add_argument(
        "--block-s",
        type=number(0, 3600, above=True),
        default=0.1,
        metavar="S",
        help="length of a block in seconds (default: 0.1)",
    )
    stream.add_argument(
        "--rate",
        "--raw-rate",
        type=whole(1),
        metavar="HZ",
        help="sample rate: required for raw samples on -; for mic the default is 16000",
    )
    stream.add_argument(
        "--endpoint-s",
        type=number(0, above=True, off=math.inf),
        default=0.8,
        metavar="S",
        help="length of the pause that ends an utterance",
    )
    stream.add_argument(
        "--longest-s",
        type=number(0, above=True, off=math.inf),
        default=20.0,
        metavar="S",
        help="longest utterance (default: 20)",
    )
    stream.add_argument(
        "--no-endpoints", action="store_true", help="treat the whole input as one utterance, as transcribe does"
    )
    _add_chunks(stream)
    stream.add_argument("--microphone", metavar="DEVICE", help="number or name of a microphone")
    stream.add_argument("--devices", action="store_true", help="list the microphones and stop")
    _add_model(stream)
    stream.set_defaults(run=_stream)

    align = commands.add_parser("align", help="find the times of known words in a recording")
    align.add_argument("audio", metavar="AUDIO", help="audio file, or - for standard input")
    align.add_argument("words", metavar="TEXT", help="the words, or a file that holds them")
    _add_language(align)
    align.add_argument("--format", default="ctm", choices=_timed_formats())
    _add_model(align, decoding=False)
    align.set_defaults(run=_align)

    segment = commands.add_parser("segment", help="cut a long recording with its text into utterances to train on")
    segment.add_argument("audio", metavar="AUDIO", help="audio file")
    segment.add_argument("words", metavar="TEXT", help="the words, or a file that holds them")
    segment.add_argument("output", type=Path, metavar="OUT.jsonl", help="manifest to write")
    _add_language(segment)
    segment.add_argument("--speaker", default="", help="who speaks, for the manifest")
    segment.add_argument("--shortest", type=number(0), default=2.0, metavar="S", help="utterance (default: 2)")
    segment.add_argument(
        "--longest", type=number(0, above=True, off=math.inf), default=15.0, metavar="S", help="utterance (default: 15)"
    )
    segment.add_argument(
        "--least-confidence",
        type=number(0, 1),
        default=0.2,
        metavar="P",
        help="leave out utterances with a lower mean confidence (default: 0.2)",
    )
    segment.add_argument(
        "--most-mismatch",
        type=number(0, off=math.inf),
        default=2.5,
        metavar="NATS",
        help="refuse a text that is less likely than the model's own transcript by more nats per token "
        "(default: 2.5; none: off)",
    )
    language_verbs.add_force(segment)
    _add_model(segment, decoding=False)
    segment.set_defaults(run=_segment)

    label = commands.add_parser(
        "label",
        help="label recordings with a model's confident transcripts, to train on (self-training)",
        description="Adapts a model to a speaker or microphone without transcripts: asr label, then asr train "
        "with train.init.",
    )
    label.add_argument("inputs", nargs="+", metavar="FILE", help="audio file, folder or manifest")
    label.add_argument("--output", type=Path, required=True, metavar="OUT.jsonl", help="manifest to write")
    label.add_argument("--speaker", default="", help="who speaks, for the manifest")
    label.add_argument("--resume", action="store_true", help="continue an interrupted run")
    language_verbs.add_force(label)
    label.add_argument(
        "--least-confidence",
        type=number(0, 1),
        default=0.9,
        metavar="P",
        help="confidence that every word must reach (default: 0.9)",
    )
    _add_also(label)
    _add_model(label)
    label.set_defaults(run=_label, extends="inputs")

    train = commands.add_parser("train", help="train an acoustic model from a configuration file")
    train.add_argument("config", metavar="CONF", help="YAML file, such as recipes/an4/conf/blstm.yaml")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.layers=4 train.epochs=20")
    language_verbs.add_keys(train)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    train.set_defaults(run=_train, extends="overrides", awake=True)

    check = commands.add_parser(
        "check",
        help="find faults in a manifest and its audio before training",
        description="Names every bad line, file and transcript. Exit status: 0 no errors (there may be warnings), "
        "1 errors found, 2 the check could not run.",
    )
    check.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest with audio and text")
    check.add_argument(
        "--config",
        metavar="CONF",
        help="the training's YAML file: alphabet, subsampling, speeds (without it, utterances that do not fit a "
        "default model are warnings only)",
    )
    check.add_argument("--json", type=Path, metavar="OUT", help="write all findings and figures")
    check.add_argument("--plot", type=Path, metavar="PNG", help="draw a page of histograms (needs matplotlib)")
    check.add_argument("--root", metavar="DIR", help="report audio paths that lead outside this folder")
    check.add_argument(
        "--workers", type=whole(0, 4096), default=0, metavar="N", help="reading threads (default: one per CPU)"
    )
    check.set_defaults(run=_check)

    plot = commands.add_parser("plot", help="draw loss, error rates, learning rate and gradient norm of runs")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="run directory (train.output), or its log.jsonl")
    plot.add_argument("--output", type=Path, metavar="PNG", help="default: curves.png in the run's folder, or here")
    plot.set_defaults(run=_plot, extends="runs")

    evaluate = commands.add_parser("evaluate", help="transcribe a manifest and score it: WER, CER, SER")
    evaluate.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest with audio and text")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the whole report, utterances included")
    evaluate.add_argument("--root", metavar="DIR", help="refuse audio paths that lead outside this folder")
    evaluate.add_argument("--errors", action="store_true", help="print the alignment of every wrong utterance")
    evaluate.add_argument("--details", action="store_true", help="print CER without spaces, MER and WIL as well")
    evaluate.add_argument("--speakers", action="store_true", help="print a line for each known speaker")
    evaluate.add_argument(
        "--stream",
        type=number(0, 3600, above=True, off=None),
        metavar="BLOCK_S",
        help="stream the audio, in blocks such as 0.1",
    )
    _add_rules(evaluate)
    _add_chunks(evaluate)
    _add_also(evaluate)
    _add_model(evaluate)
    evaluate.set_defaults(run=_evaluate)

    corpus_verbs.add_corpus_commands(commands)
    language_verbs.add_language_commands(commands)

    score = commands.add_parser(
        "score",
        help="score a hypothesis file against a reference file",
        description="Reads manifests (JSONL), 'id words' or 'words (id)' lines, the JSON of evaluate, STM and CTM, "
        "subtitles, TextGrids, or folders of transcripts; see docs/scoring.md.",
    )
    score.add_argument("reference", metavar="REF", help="file or folder of transcripts")
    score.add_argument("hypothesis", metavar="HYP", help="the same, or the JSON that evaluate writes")
    score.add_argument("--json", type=Path, metavar="OUT", help="write the whole report, utterances included")
    score.add_argument("--errors", action="store_true", help="print the alignment of every wrong utterance")
    score.add_argument("--details", action="store_true", help="print CER without spaces, MER and WIL as well")
    score.add_argument("--speakers", action="store_true", help="print a line for each known speaker")
    score.add_argument("--plain", action="store_true", help="texts without ids: line by line")
    _add_rules(score, "by default as a report (JSON) that is read was scored")
    score.set_defaults(run=_score)

    compare = commands.add_parser(
        "compare",
        help="test whether one result is better than another: paired significance tests",
        description="Prints second minus first, with a paired bootstrap interval, a randomisation test and the "
        "matched pairs "
        "test (MAPSSWE).",
    )
    compare.add_argument("first", metavar="HYP_A", help="JSON of evaluate, or any hypothesis file that score takes")
    compare.add_argument("second", metavar="HYP_B", help="the same")
    compare.add_argument("--reference", metavar="REF", help="reference file (default: those in the JSON of evaluate)")
    compare.add_argument("--json", type=Path, metavar="OUT", help="write rates, differences and tests")
    compare.add_argument("--plain", action="store_true", help="texts without ids: line by line (with --reference)")
    _add_rules(compare, "by default as the reports (JSON) that are read were scored")
    compare.set_defaults(run=_compare)

    average = commands.add_parser(
        "average",
        help="average the weights of models, one trained from the other",
        description="Writes the mean of the models' weights. Everything else comes from the last model. Tuned "
        "decoding options are not copied.",
    )
    average.add_argument("models", nargs="+", metavar="MODEL", help="directories or bundled names, two or more")
    average.add_argument("--output", required=True, metavar="DIR", help="model directory to write")
    average.add_argument(
        "--weights", type=number(), nargs="+", metavar="W", help="weight of each model (default: equal)"
    )
    language_verbs.add_force(average)
    average.set_defaults(run=_average)

    info = commands.add_parser("info", help="show a model's size, training data and accuracy")
    info.add_argument("model", nargs="?", metavar="MODEL", help="directory or bundled name (default: the bundled one)")
    info.set_defaults(run=_info)

    warm = commands.add_parser(
        "warm-up",
        help="compile the beam search for this machine now, instead of at the first transcription",
        description="Compiles what the bundled models need, once for each installation, and says where it is kept. "
        "Where all is there it does nothing.",
    )
    warm.set_defaults(run=_warm_up)
    return parser


def _add_model(parser: argparse.ArgumentParser, *, decoding: bool = True) -> None:
    parser.add_argument("--model", metavar="DIR|NAME", help="model directory or bundled name (default: bundled)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    if decoding:
        language_verbs.add_decoding(parser)


def _add_language(parser: argparse.ArgumentParser) -> None:
    help = "of the text: writes numbers and abbreviations out (default: as the model directory says, else en; or none)"
    parser.add_argument("--language", metavar="CODE", help=help)


def _timed_formats() -> tuple[str, ...]:
    return tuple(name for name, format in formats.FORMATS.items() if format.timed)


def _add_rules(parser: argparse.ArgumentParser, description: str = "") -> None:
    group = parser.add_argument_group("what counts as an error", description)
    group.add_argument("--ignore-case", action="store_true", help="score case-folded texts")
    group.add_argument("--ignore-punctuation", action="store_true", help="leave punctuation out on both sides")
    group.add_argument("--optional", action="store_true", help="(word) in references may be missing, as in STM files")
    group.add_argument("--literal", action="store_true", help="{ a / b } in references are words, not alternatives")
    group.add_argument(
        "--costs", choices=("levenshtein", "sclite"), help="costs that the alignment minimises (default: levenshtein)"
    )


def _rules(args: argparse.Namespace) -> wer.Rules | None:
    """What the options say; None where there are none, and a report that is read brings its own."""
    from asr.scoring import alternatives, wer

    if not any((args.ignore_case, args.ignore_punctuation, args.optional, args.literal, args.costs)):
        return None

    costs = alternatives.SCLITE if args.costs == "sclite" else alternatives.LEVENSHTEIN
    return wer.Rules(args.ignore_case, args.ignore_punctuation, not args.literal, args.optional, costs)


def _add_also(parser: argparse.ArgumentParser) -> None:
    help = "a further model that judges the --phrases (may be given several times)"
    parser.add_argument("--also", action="append", default=[], metavar="DIR|NAME", help=help)


def _add_chunks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chunk-s",
        type=number(0, 3600, above=True, off=None),
        metavar="S",
        help="chunk length of a bidirectional model, such as 0.64",
    )
    parser.add_argument(
        "--right-s", type=number(0, 3600), default=0.0, metavar="S", help="right context of each chunk, such as 0.64"
    )


def _transcribe(args: argparse.Namespace) -> int:
    from asr.recognize.batch import transcribe_files
    from asr.recognize.recognizer import load

    options = {"model": args.model, "device": args.device, "max_duration_s": args.max_duration, "also": args.also}
    options |= language_verbs.decoding_options(args)
    language_verbs.announce(args)
    outcome = transcribe_files(
        load(**options) if args.jobs == 1 else options,
        args.inputs,
        format=args.format,
        output_dir=args.output_dir,
        jobs=args.jobs,
        resume=args.resume,
        force=args.force,
        split_channels=args.channels == "split",
        raw_rate_hz=args.raw_rate,
    )
    _warn(outcome.doubts)
    return _report_failures(outcome.failures)


def _stream(args: argparse.Namespace) -> int:
    from asr.audio import read, sources
    from asr.cli import live_display

    if args.devices:
        print(sources.devices())
        return OK
    if args.input is None:
        raise AsrError("expected FILE, - (standard input) or mic; name one")
    from asr.decode.endpoint import Endpoint
    from asr.recognize.recognizer import load
    from asr.recognize.stream import Stream

    args.model = args.model or "stream"
    language_verbs.announce(args)
    recognizer = load(args.model, device=args.device, **language_verbs.decoding_options(args))
    if args.input == "mic":
        rate_hz = 16000 if args.rate is None else args.rate
        blocks = sources.microphone_blocks(args.microphone, rate_hz, args.block_s)
    elif args.input == "-":
        rate_hz, blocks = sources.pipe_blocks(read.standard_input(), args.rate, args.block_s)
    else:
        rate_hz, blocks = sources.file_blocks(args.input, args.block_s)
    if args.realtime:
        blocks = sources.paced(rate_hz, blocks)
    endpoint = None if args.no_endpoints else Endpoint(args.endpoint_s, args.longest_s)
    options = {"endpoint": endpoint, "chunk_s": args.chunk_s, "right_s": args.right_s, "source": args.input}
    live_display.run_live(
        Stream(recognizer, sample_rate_hz=rate_hz, **options),
        blocks,
        live_display.Display(sys.stdout, as_json=args.json),
    )
    return OK


def _align(args: argparse.Namespace) -> int:
    from asr.audio import read
    from asr.decode.alignment import MISMATCH
    from asr.recognize.recognizer import load

    words = _words(args.words)
    source = read.standard_input() if args.audio == "-" else args.audio
    result = load(args.model, device=args.device, language=args.language).align(source, words)
    sys.stdout.write(formats.FORMATS[args.format].write(result))
    if result.mismatch is not None and result.mismatch > MISMATCH:
        print(
            f"warning: {args.audio}: the text does not seem to match the recording: it is {result.mismatch:.1f} "
            f"nats per token less likely than the model's own transcript, usually at most {MISMATCH:g}; "
            "check the text",
            file=sys.stderr,
        )
    return _report_left_out(args.audio, result.left_out)


def _words(text: str) -> str:
    """The words themselves, or those in a file of that name."""
    try:
        return Path(text).read_text(encoding="utf-8-sig") if os.path.isfile(text) else text
    except (OSError, UnicodeDecodeError) as error:
        raise AsrError(f"{text}: cannot read the text: {error}") from error


def _segment(args: argparse.Namespace) -> int:
    if os.path.exists(args.audio) and not os.path.isfile(args.audio):
        raise AsrError(f"{args.audio}: expected an audio file, which the manifest names; got a folder, pipe or device")
    files.check_report(args.output)
    check_output(args.output, force=args.force)
    from asr.data import manifest
    from asr.recognize.recognizer import load
    from asr.recognize.segmentation import cut_segments

    aligned = load(args.model, device=args.device, language=args.language).align(args.audio, _words(args.words))
    bounds = {"shortest_s": args.shortest, "longest_s": args.longest}
    bounds |= {"least_confidence": args.least_confidence, "most_mismatch": args.most_mismatch}
    name = Path(args.audio)
    cut = cut_segments(aligned, str(name.absolute()), name.stem, speaker=args.speaker, **bounds)
    manifest.write_manifest(args.output, cut.kept)
    print(f"{args.output}: {len(cut.kept)} utterances, {sum(u.duration_s for u in cut.kept):.1f} s")
    out = [(u, "hardly heard") for u in cut.doubtful]
    out += [(u, "a word of the text there cannot be spelt") for u in cut.incomplete]
    out += [(u, f"longer than {args.longest:g} s without a pause") for u in cut.overlong]
    out.sort(key=lambda item: item[0].start_s)
    status = _report_left_out(args.audio, aligned.left_out)
    left_out = [f"{args.audio}: {u.start_s:.2f} to {u.end_s:.2f} s {reason}, left out: {u.text}" for u, reason in out]
    return _report_failures(left_out) or status


def _label(args: argparse.Namespace) -> int:
    files.check_report(args.output)
    from asr.recognize.recognizer import load
    from asr.train.pseudo_labels import label_recordings

    language_verbs.announce(args)
    recognizer = load(args.model, device=args.device, also=args.also, **language_verbs.decoding_options(args))
    options = {"least_confidence": args.least_confidence, "speaker": args.speaker, "resume": args.resume}
    options["force"] = args.force
    found = label_recordings(args.inputs, recognizer, args.output, **options)
    hours = sum(u.duration_s for u in found.kept) / 3600
    _show(f"{args.output}: {len(found.kept)} utterances, {hours:.2f} h; {len(found.doubtful)} left out as not sure")
    _warn(found.doubts)
    return _report_failures(found.failures)


def _train(args: argparse.Namespace) -> int:
    from asr.config import sections

    if args.keys or args.schema:
        return language_verbs.show_keys(args, sections.Config, "train")
    from asr.models.device import processes
    from asr.train import acoustic_task, distributed

    settings = sections.load_config(args.config, args.overrides)
    progress = acoustic_task.train_acoustic(settings, resume=args.resume)
    best = f"best validation WER {100 * progress.best:.2f} %" if settings.data.valid else "not validated"
    if processes()[0] == 0:  # under torchrun the first process speaks
        print(f"{settings.train.output}: {best}, epoch {progress.epoch} done")
    if distributed.together():
        # All is written. Seen once in hundreds of runs: a thread of the communication library that outlives the
        # interpreter aborts the process on its way out, and torchrun takes the training for failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OK)
    return OK


def _check(args: argparse.Namespace) -> int:
    for path in (args.json, args.plot):
        files.check_report(path)
    from asr import plotting
    from asr.config import sections
    from asr.data import preflight

    if args.plot:
        plotting.require()
    settings = sections.load_config(args.config) if args.config else None
    report = preflight.check_manifest(args.manifest, settings, args.root, args.workers)
    _show(report.summary())
    if args.json:
        files.write_json(args.json, report.to_dict())
    if args.plot:
        preflight.draw_findings(report, args.plot)
    return SOME_FAILED if report.count(preflight.ERROR) else OK


def _plot(args: argparse.Namespace) -> int:
    from asr.train import curves

    folder = Path(args.runs[0]) if len(args.runs) == 1 and os.path.isdir(args.runs[0]) else Path()
    output = args.output or folder / "curves.png"
    files.check_report(output)
    for log in curves.draw_curves(args.runs, output):
        _show(curves.describe_runs(log))
    _show(str(output))
    return OK


def _evaluate(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    from asr.evaluation.model_scores import evaluate_model, evaluate_stream
    from asr.recognize.recognizer import load
    from asr.scoring import wer

    if args.stream is None and args.chunk_s is not None:
        raise AsrError(
            "--chunk-s: expected --stream BLOCK_S as well, since chunks exist in streams only; give "
            "it or leave --chunk-s out"
        )
    language_verbs.announce(args, confidences=False)
    recognizer = load(args.model, device=args.device, also=args.also, **language_verbs.decoding_options(args))
    rules = _rules(args) or wer.DEFAULT
    if args.stream is None:
        result = evaluate_model(args.manifest, recognizer, args.root, rules=rules)
    else:
        options = {"block_s": args.stream, "chunk_s": args.chunk_s, "right_s": args.right_s, "rules": rules}
        result = evaluate_stream(args.manifest, recognizer, args.root, **options)
    if args.json:  # first: a closed pipe ends the command at the first line it prints
        files.write_json(args.json, result.to_dict())
    _print_report(result.report, args)
    _show(result.summary())
    if args.details:
        _show(result.report.details())
    return _report_failures([f"{name}: {reason}" for name, reason in result.failures.items()])


def _score(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    from asr.scoring import transcript_files, wer

    reference = transcript_files.read(args.reference, "reference", plain=args.plain)
    hypothesis = transcript_files.read(args.hypothesis, plain=args.plain)
    pair = transcript_files.pair(reference, hypothesis)
    if pair.note:
        print(f"note: {pair.note}", file=sys.stderr)
    report = wer.score_pair(pair, _rules(args) or wer.agreed(reference, hypothesis))
    if args.json:
        files.write_json(args.json, report.to_dict())
    _print_report(report, args)
    _show(report.summary())
    if args.details:
        _show(report.details())
    return OK


def _compare(args: argparse.Namespace) -> int:
    files.check_report(args.json)
    from asr.scoring import comparison

    result = comparison.compare_files(args.first, args.second, args.reference, _rules(args), plain=args.plain)
    if args.json:
        files.write_json(args.json, result.to_dict())
    _show(result.summary())
    return OK


def _average(args: argparse.Namespace) -> int:
    from asr.models.averaging import average_models
    from asr.models.description import describe_model, read_description

    average_models(args.models, args.output, args.weights, force=args.force)
    print(describe_model(read_description(args.output)))
    return OK


def _info(args: argparse.Namespace) -> int:
    from asr.models import description
    from asr.recognize import option_sources

    model = description.read_description(args.model)
    print(description.describe_model(model))
    choice = option_sources.merge(model.path)
    table = f"{choice.describe()}\n{option_sources.confidences(model.path, choice.options).describe()}"
    print("decoding:\n" + textwrap.indent(table, "  "))
    return OK


def _warm_up(args: argparse.Namespace) -> int:
    from asr.decode.warming import warm_up

    done = warm_up()
    if done.folder is None:
        raise AsrError("what was compiled cannot be kept (see above); NUMBA_CACHE_DIR=FOLDER names another folder")
    if done.compiled:
        print(f"{done.folder}: the compiled search, made in {done.seconds:.1f} s")
    return OK


def _print_report(report: wer.Report, args: argparse.Namespace) -> None:
    from asr.scoring import wer

    for scored in report.utterances if args.errors else ():
        if scored.errors:
            _show(f"{scored.id}\n{wer.format_alignment(scored)}\n")
    if args.speakers:
        _show(report.speakers() or "no speakers are known")


def _show(text: str) -> None:
    """Print; names and texts that are no UTF-8 come out escaped."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _report_left_out(name: str, left_out: Sequence[str]) -> int:
    """Say which words of a text were left out: each once, the most frequent first, and how many there are in all."""
    counts = Counter(left_out).most_common()
    lines = [f"{name}: {line}{f' ({count} times)' if count > 1 else ''}" for line, count in counts[:MOST_LEFT_OUT]]
    if len(counts) > MOST_LEFT_OUT:
        lines.append(
            f"{name}: {len(left_out)} words left out, {len(counts)} different ones; the most frequent stand above"
        )
    _warn(lines)
    return SOME_FAILED if left_out else OK


def _warn(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)


def _report_failures(failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return SOME_FAILED if failures else OK
