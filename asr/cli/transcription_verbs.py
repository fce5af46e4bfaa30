"""Commands that turn speech into text and times: transcribe, stream, align."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from asr import formats
from asr.cli import printing
from asr.cli import shared_options as shared
from asr.cli.shared_options import OK
from asr.config.arguments import local_path, number, whole
from asr.errors import AsrError


def add_transcription_commands(commands: Any) -> None:
    """Add the commands to the parser's subparsers."""
    _add_transcribe(commands)
    _add_stream(commands)
    _add_align(commands)


def _add_transcribe(commands: Any) -> None:
    transcribe = commands.add_parser(
        "transcribe", help="transcribe files, folders or standard input to text or subtitles"
    )
    transcribe.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE",
        help="audio file, folder, manifest or archive (zip, tar), here or at a URL, or -",
    )
    transcribe.add_argument(
        "--jobs",
        type=whole(1, 4096),
        metavar="N",
        help="processes that share the recordings (default: 1; with --engine ray one for each GPU, or else each "
        "processor)",
    )
    transcribe.add_argument(
        "--resume", action="store_true", help="skip recordings with a transcript in --output-dir or --output"
    )
    transcribe.add_argument("--channels", default="mix", choices=("mix", "split"), help="one text, or one per channel")
    transcribe.add_argument(
        "--raw-rate", type=whole(1), metavar="HZ", help="sample rate of raw samples on - (16 bits, mono)"
    )
    transcribe.add_argument(
        "--max-duration", type=number(0, above=True, off=None), metavar="S", help="refuse longer recordings"
    )
    transcribe.add_argument("--format", default="txt", choices=tuple(formats.FORMATS))
    transcribe.add_argument(
        "--output-dir", type=local_path, metavar="DIR", help="one file per recording, instead of stdout"
    )
    transcribe.add_argument(
        "--output",
        metavar="DIR",
        help="folder of results in parts, each recording once by its id: for archives, see docs/scaling.md",
    )
    transcribe.add_argument(
        "--parts", choices=("jsonl", "parquet"), help="format of the parts of --output (default: jsonl)"
    )
    transcribe.add_argument(
        "--part-recordings",
        type=whole(1),
        metavar="N",
        help="most recordings in a part of --output (default: 1000, or the work of 60 seconds)",
    )
    shared.add_engine(transcribe)
    _add_written(transcribe)
    transcribe.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help="numeric precision of the network (default: fp32); half precision is for GPUs",
    )
    transcribe.add_argument(
        "--batch-s",
        type=number(0, above=True),
        metavar="S",
        help="seconds of audio in a batch (default: 90 on a CPU, 800 on a GPU)",
    )
    transcribe.add_argument(
        "--readers",
        type=whole(0, 256),
        metavar="N",
        help="processes that read files ahead, 0 for threads (default: on a GPU one for each CPU but one, on a CPU 0)",
    )
    shared.add_force(transcribe)
    shared.add_cache(transcribe)
    shared.add_also(transcribe)
    shared.add_model(transcribe)
    transcribe.set_defaults(run=_transcribe, extends="inputs")


def _add_stream(commands: Any) -> None:
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
    _add_written(stream)
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
    stream.add_argument(
        "--settle-s",
        type=number(0, 3600),
        metavar="S",
        help="make words final this many seconds after their end",
    )
    shared.add_chunks(stream)
    stream.add_argument("--microphone", metavar="DEVICE", help="number or name of a microphone")
    stream.add_argument("--devices", action="store_true", help="list the microphones and stop")
    shared.add_model(stream)
    stream.set_defaults(run=_stream)


def _add_align(commands: Any) -> None:
    align = commands.add_parser("align", help="find the times of known words in a recording")
    align.add_argument("audio", metavar="AUDIO", help="audio file, or - for standard input")
    align.add_argument("words", metavar="TEXT", help="the words, or a file that holds them")
    shared.add_language(align)
    align.add_argument("--format", default="ctm", choices=_timed_formats())
    shared.add_model(align, decoding=False)
    align.set_defaults(run=_align)


def _add_written(command: argparse.ArgumentParser) -> None:
    help = "text with case, punctuation and digits in txt, srt and vtt; JSON always has both"
    command.add_argument("--written", action="store_true", help=help)


def _timed_formats() -> tuple[str, ...]:
    return tuple(name for name, format in formats.FORMATS.items() if format.timed)


def _transcribe(args: argparse.Namespace) -> int:
    from asr.recognize.batch import transcribe_files
    from asr.recognize.recognizer import load

    options = {"model": args.model, "device": args.device, "max_duration_s": args.max_duration, "also": args.also}
    options |= {"precision": args.precision, "batch_s": args.batch_s}
    options |= shared.decoding_options(args)
    _check_output(args)
    shared.announce(args)
    if args.output is not None:
        return _transcribe_archive(args, options)
    jobs = args.jobs or 1
    outcome = transcribe_files(
        load(**options) if jobs == 1 else options,
        args.inputs,
        format=args.format,
        output_dir=args.output_dir,
        jobs=jobs,
        resume=args.resume,
        force=args.force,
        split_channels=args.channels == "split",
        raw_rate_hz=args.raw_rate,
        written=args.written,
        readers=args.readers,
    )
    printing.print_warnings(outcome.doubts)
    return printing.report_failures(outcome.failures)


def _check_output(args: argparse.Namespace) -> None:
    """Refuse options of the two kinds of output that do not go together."""
    shared.check_engine(args)
    if args.output is None:
        if args.engine == "ray":
            raise AsrError("--engine ray: expected --output DIR, the folder of the results, got none; give it")
        for name, given in (("--parts", args.parts), ("--part-recordings", args.part_recordings)):
            if given is not None:
                raise AsrError(f"{name}: expected --output DIR as well; give it, or leave {name} out")
        return
    for name, given in (
        ("--output-dir", args.output_dir is not None),
        ("--format", args.format != "txt"),
        ("--written", args.written),
        ("--raw-rate", args.raw_rate is not None),
    ):
        if given:
            raise AsrError(f"--output: expected no {name}, since parts have ids, texts, written texts and words of "
                           "files; leave one of the two out")  # fmt: skip


def _transcribe_archive(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from asr.recognize.archive import transcribe_archive

    outcome = transcribe_archive(
        args.inputs,
        args.output,
        engine=args.engine,
        jobs=args.jobs,
        ray_address=args.ray_address,
        parts=args.parts or "jsonl",
        part_recordings=args.part_recordings or 1000,
        resume=args.resume,
        force=args.force,
        split_channels=args.channels == "split",
        readers=args.readers,
        **options,
    )
    printing.print_warnings(outcome.doubts)
    printing.show(
        f"{args.output}: {outcome.done} recordings transcribed, {outcome.skipped} were there, "
        f"{len(outcome.failures)} failed; {outcome.audio_s / 3600:.2f} h in {outcome.seconds:.1f} s"
    )
    return printing.report_failures(outcome.failures)


def _stream(args: argparse.Namespace) -> int:
    from asr.audio import pipes, sources
    from asr.cli import live_display

    if args.devices:
        print(sources.devices())
        return OK
    if args.input is None:
        raise AsrError("expected FILE, - (standard input) or mic; name one")
    from asr.decode.endpoint import Endpoint
    from asr.recognize.readable_model import missing_tagger
    from asr.recognize.recognizer import load
    from asr.recognize.stream import Stream

    shared.announce(args)
    recognizer = load(args.model, device=args.device, **shared.decoding_options(args))
    if args.written and recognizer.readable is None:
        raise AsrError(missing_tagger(recognizer.model.path))
    if args.input == "mic":
        rate_hz = 16000 if args.rate is None else args.rate
        blocks = sources.microphone_blocks(args.microphone, rate_hz, args.block_s)
    elif args.input == "-":
        rate_hz, blocks = sources.pipe_blocks(pipes.standard_input(), args.rate, args.block_s)
    else:
        rate_hz, blocks = sources.file_blocks(args.input, args.block_s)
    if args.realtime:
        blocks = sources.paced(rate_hz, blocks)
    endpoint = None if args.no_endpoints else Endpoint(args.endpoint_s, args.longest_s)
    options = {
        "endpoint": endpoint,
        "chunk_s": args.chunk_s,
        "right_s": args.right_s,
        "settle_s": args.settle_s,
        "source": args.input,
    }
    live_display.run_live(
        Stream(recognizer, sample_rate_hz=rate_hz, **options),
        blocks,
        live_display.Display(sys.stdout, as_json=args.json, written=args.written),
    )
    return OK


def _align(args: argparse.Namespace) -> int:
    from asr.audio import pipes
    from asr.decode.alignment import MISMATCH
    from asr.recognize.recognizer import load

    words = shared.given_words(args.words)
    source = pipes.standard_input() if args.audio == "-" else args.audio
    result = load(args.model, device=args.device, language=args.language).align(source, words)
    sys.stdout.write(formats.FORMATS[args.format].write(result))
    if result.mismatch is not None and result.mismatch > MISMATCH:
        print(
            f"warning: {args.audio}: the text does not seem to match the recording: it is {result.mismatch:.1f} "
            f"nats per token less likely than the model's own transcript, usually at most {MISMATCH:g}; "
            "check the text",
            file=sys.stderr,
        )
    return printing.report_left_out(args.audio, result.left_out)
