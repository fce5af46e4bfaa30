"""`asr serve`."""

from __future__ import annotations

import argparse
import math
import os
from typing import Any

from asr.cli.shared_options import OK
from asr.config import cpus
from asr.config.arguments import number, whole
from asr.errors import AsrError
from asr.server.settings import Address, ServerLimits, Settings


def add_serve_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    serve = commands.add_parser(
        "serve",
        help="serve transcripts to browsers, OpenAI, Vosk and Wyoming clients",
        description="Serves the OpenAI REST and Realtime APIs, the Vosk and Wyoming protocols, and a page to record "
        "and correct. Only this machine can connect unless --host says otherwise.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    serve.add_argument("--port", type=whole(0, 65535), default=8000, help="port (default: 8000; 0: any free one)")
    serve.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME|NAME=DIR",
        help="a model to serve, by a bundled name or with a name for its directory (default: the bundled models)",
    )
    serve.add_argument(
        "--alias", action="append", default=[], metavar="NAME=MODEL", help="a further name, such as whisper-1=english"
    )
    serve.add_argument("--file-model", metavar="NAME", default="", help="model for files if a client names none")
    serve.add_argument("--live-model", metavar="NAME", default="", help="model for streams if a client names none")
    serve.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    serve.add_argument(
        "--runtime",
        choices=("auto", "torch", "onnxruntime"),
        default="auto",
        help="library that runs the models (default: torch on a GPU, else onnxruntime, which serves more streams)",
    )
    serve.add_argument(
        "--case",
        choices=("model", "lower", "written"),
        default="model",
        help="texts as the model spells them, in lower case, or with case, punctuation and digits (default: model)",
    )
    serve.add_argument(
        "--workers",
        type=whole(1, 256),
        metavar="N",
        help="processes that compute, each with all models (default: 2; 1 with one processor, less than 4 GB of memory "
        "or a GPU)",
    )
    serve.add_argument(
        "--learn",
        default="",
        metavar="DIR",
        help="let the page's Teach button store corrections in DIR, and learn from them in the background; needs "
        "--token (asr learn --rollback DIR goes back)",
    )
    _add_access(serve)
    _add_protocols(serve)
    _add_limits(serve)
    serve.set_defaults(run=_serve)


def _add_access(serve: argparse.ArgumentParser) -> None:
    group = serve.add_argument_group("access")
    group.add_argument("--token", default="", help="clients must give this token (or ASR_TOKEN in the environment)")
    group.add_argument(
        "--origin", action="append", default=[], metavar="ORIGIN", help="a further web page that may connect"
    )
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="a further name of this server"
    )
    group.add_argument("--certificate", metavar="FILE", default="", help="certificate (PEM) for HTTPS")
    group.add_argument("--key", metavar="FILE", default="", help="private key (PEM) of the certificate")


def _add_protocols(serve: argparse.ArgumentParser) -> None:
    group = serve.add_argument_group("further protocols")
    group.add_argument("--vosk-port", type=whole(0, 65535), metavar="PORT", help="a port for the Vosk protocol alone")
    group.add_argument("--wyoming", metavar="HOST:PORT", help="where to serve the Wyoming protocol (Home Assistant)")
    group.add_argument("--zeroconf", action="store_true", help="announce --wyoming on the local network")


def _add_limits(serve: argparse.ArgumentParser) -> None:
    default = ServerLimits()
    group = serve.add_argument_group("limits")
    group.add_argument(
        "--most-file-mb",
        type=number(0, above=True),
        default=default.file_bytes / 2**20,
        metavar="MB",
        help=f"largest upload (default: {default.file_bytes / 2**20:g})",
    )
    for option, value, help in (
        ("--most-file-s", default.file_s, "longest file in seconds"),
        ("--most-stream-s", default.stream_s, "longest stream in seconds of audio"),
        ("--idle-s", default.idle_s, "seconds without a message after which a connection is closed"),
        ("--grace-s", 10.0, "seconds to finish running requests at the end"),
    ):
        group.add_argument(
            option, type=number(0, above=True), default=value, metavar="S", help=f"{help} (default: {value:g})"
        )
    group.add_argument(
        "--lag-s",
        type=number(0, above=True, off=math.inf),
        default=0.3,
        metavar="S",
        help="refuse a new stream if the present ones lag longer, or would with it; none: never (default: 0.3)",
    )
    for option, whole_value, help in (
        ("--most-streams", default.streams, "streams at the same time"),
        ("--most-files", default.file_jobs, "files at the same time, including waiting files"),
        ("--most-hotwords", default.hot_words, "hot words or phrases of a request"),
    ):
        group.add_argument(
            option, type=whole(1), default=whole_value, metavar="N", help=f"{help} (default: {whole_value})"
        )


def _usual_workers(device: str) -> int:
    """Two carry more streams than one on two processors, and one goes on where the other ends."""
    gpu = device.startswith("cuda") or (device == "auto" and cpus.sees_gpu())
    return 1 if gpu or cpus.available() < 2 or 0 < cpus.memory_bytes() < 4e9 else 2


def _address(text: str | None) -> Address | None:
    if text is None:
        return None
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AsrError(f"--wyoming: expected HOST:PORT, such as 127.0.0.1:10300, got {text!r}")
    return Address(host.strip("[]") or "127.0.0.1", int(port))


def _pairs(option: str, values: list[str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not name or (equals and not rest) or name in found:
            raise AsrError(f"{option}: expected NAME=VALUE with a new name, got {value!r}")
        found[name] = rest or name
    return found


def _serve(args: argparse.Namespace) -> int:
    import asyncio

    limits = ServerLimits(
        file_bytes=round(args.most_file_mb * 2**20),
        file_s=args.most_file_s,
        stream_s=args.most_stream_s,
        idle_s=args.idle_s,
        streams=args.most_streams,
        file_jobs=args.most_files,
        hot_words=args.most_hotwords,
    )
    settings = Settings(
        host=args.host,
        port=args.port,
        models=_pairs("--model", args.model),
        aliases=_pairs("--alias", args.alias),
        file_model=args.file_model,
        live_model=args.live_model,
        device=args.device,
        runtime=args.runtime,
        case=args.case,
        workers=args.workers or _usual_workers(args.device),
        limits=limits,
        lag_s=args.lag_s,
        grace_s=args.grace_s,
        token=args.token or os.environ.get("ASR_TOKEN", ""),
        origins=tuple(args.origin),
        hosts=tuple(args.allow_host),
        certificate=args.certificate,
        key=args.key,
        wyoming=_address(args.wyoming),
        zeroconf=args.zeroconf,
        vosk_port=args.vosk_port,
        learn=args.learn,
    )
    try:
        from asr.server.running import serve
    except ImportError as error:
        raise AsrError(
            f"serve: expected the packages of the extra serve ({error}): pip install recurrent-asr[serve]"
        ) from error
    asyncio.run(serve(settings))
    return OK
