"""Simulates transcription and training on a cluster, and says what binds.

    python tools/simulate_cluster.py measure FILE… --model english --output tools/cluster_measured.json
    python tools/simulate_cluster.py run --machines 40 --gpus 1 --hours 100000 [--engine torchrun] [--slow 0.05,2] …
    python tools/simulate_cluster.py tables          # the tables of docs/scaling.md

``measure`` writes what each batch of recordings cost here, in seconds of a processor for each second of audio.
``cluster_assumptions.json`` has prices, limits of a bucket and speeds of GPUs: change them there. The model is in
``cluster_model.py``: a simulation of some minutes of steady work, from which the whole is computed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from cluster_model import ENGINES, Bucket, Costs, Machines, Simulated, Training, TranscriptionModel, Work

from asr.config.arguments import number, numbers, whole

if TYPE_CHECKING:
    from asr.recognize.ray_stages import RayResult

HERE = Path(__file__).parent
MEASURED, ASSUMPTIONS = HERE / "cluster_measured.json", HERE / "cluster_assumptions.json"
STEADY_S = 1800.0
"""Seconds of work of each actor in a simulation: the first blocks and the last are then a small part of it."""
MOST_BLOCKS = 100_000
MOST_VALUES = 200


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("files", nargs="+", help="recordings, or manifests")
    measuring.add_argument("--model", default="english")
    measuring.add_argument("--output", type=Path, default=MEASURED)
    measuring.set_defaults(run=lambda args: measure(args.files, args.model, args.output))
    running = commands.add_parser("run")
    running.add_argument("--hours", type=number(0, above=True), default=100_000.0)
    running.add_argument("--machines", type=whole(1, 100_000), default=10)
    running.add_argument("--processors", type=whole(1, 1024), default=16, help="of a machine")
    running.add_argument("--gpus", type=whole(0, 64), default=0, help="of a machine; 0: processors recognise")
    running.add_argument("--engine", choices=ENGINES, default="ray")
    running.add_argument("--slow", type=_slow_machines, metavar="SHARE,FACTOR", help="of machines, such as 0.05,2")
    running.add_argument("--failures", type=number(0), help="of a machine in a day")
    running.add_argument("--latency-ms", type=number(0), help="of the bucket")
    running.add_argument("--requests", type=number(0, above=True), help="that the bucket answers in a second")
    running.add_argument("--gigabytes", type=number(0, above=True), help="that the bucket sends in a second")
    running.add_argument("--recording-s", type=number(0.1, 86400), help="length of a recording")
    running.add_argument("--seed", type=whole(0), default=0)
    running.set_defaults(run=run)
    commands.add_parser("tables").set_defaults(run=lambda args: print(tables()))
    args = parser.parse_args(arguments)
    args.run(args)
    return 0


def measure(files: list[str], model: str, output: Path) -> None:
    """Write costs of recordings with one thread on this machine."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from asr.recognize import recognizer
    from asr.recognize.batch_inputs import find_jobs
    from asr.recognize.pipeline import cut_batches
    from asr.recognize.ray_stages import LINE, RayResult, result_line

    jobs, failures = find_jobs(files)
    if failures:
        raise SystemExit("\n".join(failures))
    loaded = recognizer.load(model, device="cpu")
    loaded.transcribe(jobs[0].item)  # compiled and warm
    waveforms, decode, size = {}, [], 0
    for index, job in enumerate(jobs):
        started = time.process_time()
        waveforms[index] = loaded.reader.samples(job.item)
        decode.append((time.process_time() - started) / (len(waveforms[index]) / loaded.sample_rate_hz))
        size += os.path.getsize(job.item.source) if job.item.end_s is None else 0
    network, search, results = [], [], []
    for batch in cut_batches(waveforms, lambda: loaded.batch_s * loaded.sample_rate_hz):
        part = [waveforms[index] for index in batch]
        seconds = sum(map(len, part)) / loaded.sample_rate_hz
        times = [time.process_time()]
        posteriors = loaded.log_probs(part)
        times.append(time.process_time())
        made = loaded._decode(part, [jobs[index].id for index in batch], *posteriors)
        times.append(time.process_time())
        for index, one in zip(batch, made, strict=True):
            results.append(RayResult(index, LINE, result_line(jobs[index].id, jobs[index].item, one), 0.0, ""))
        times.append(time.process_time())
        network.append((times[1] - times[0]) / seconds)
        search.append((times[3] - times[1]) / seconds)  # with the line of JSON, which the actor makes
    audio_s = sum(map(len, waveforms.values())) / loaded.sample_rate_hz
    found = {
        "model": model, "recordings": len(jobs), "audio_s": round(audio_s, 1),
        "bytes_per_s": round(size / audio_s) or 32000, "driver_s": driver_seconds(results),
        "decode": _spread(decode), "network": _spread(network), "search": _spread(search),
    }  # fmt: skip
    output.write_text(json.dumps(found, indent=1) + "\n")
    means = {name: f"{statistics.mean(found[name]):.5f}" for name in ("decode", "network", "search")}
    print(f"{output}: processor seconds for a second of audio: {means}")


def driver_seconds(results: list[RayResult]) -> float:
    """Seconds of the command that started Ray for each result: it reads a table, and writes parts."""
    from asr.recognize.ray_stages import RESULT_COLUMNS, as_table, results_of
    from asr.recognize.result_parts import Parts

    table = as_table(RESULT_COLUMNS, results * (20_000 // len(results) + 1))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        with Parts(folder, {}) as parts:
            for count, result in enumerate(results_of(table)):
                parts.add(str(count), result.body)
        return (time.process_time() - started) / table.num_rows


def _spread(values: list[float]) -> list[float]:
    """Quantiles of a distribution, all equally likely."""
    ordered = sorted(values)
    step = max(1, len(ordered) / MOST_VALUES)
    return [float(f"{ordered[int(index * step)]:.6g}") for index in range(int(len(ordered) / step))]


def read_costs(gpu: bool) -> tuple[Costs, float]:
    """Measured costs, and seconds of the driver for a result. ``gpu``: network and search of the assumptions."""
    measured, assumed = json.loads(MEASURED.read_text()), json.loads(ASSUMPTIONS.read_text())
    network, search = measured["network"], measured["search"]
    if gpu:
        network, search = [1 / assumed["gpu"]["transcription_speed"]], [0.0]
    return Costs(measured["decode"], network, search, measured["bytes_per_s"]), measured["driver_s"]


def simulate(
    count: int, processors: int, gpus: int, *, engine: str = "ray", seed: int = 0, **changes: Any
) -> Simulated:
    """Some minutes of steady work of ``count`` machines. ``changes``: keys of bucket and faults of the assumptions."""
    assumed = json.loads(ASSUMPTIONS.read_text())
    bucket = {**assumed["bucket"], **{key: changes[key] for key in assumed["bucket"].keys() & changes.keys()}}
    faults = {**assumed["faults"], **{key: changes[key] for key in assumed["faults"].keys() & changes.keys()}}
    costs, driver_s = read_costs(gpus > 0)
    actors = gpus or processors
    # asr.recognize.ray_cluster: an actor holds 0.9 of a processor, and a task that reads 0.1.
    readers = max(1, round((processors - 0.9 * actors) / 0.1))
    shape = Machines(
        count, actors, readers, processors, 0.0, faults["slow_share"], faults["slow_factor"],
        faults["failures_per_machine_day"] / 24,
    )  # fmt: skip
    block_s = 3200.0 if gpus else 360.0
    blocks = min(MOST_BLOCKS, max(1, round(STEADY_S * costs.speed() / block_s)) * actors * count)
    work = Work(blocks, block_s, changes.get("recording_s", assumed["recording_s"]), driver_s)
    return TranscriptionModel(work, costs, shape, Bucket(**bucket), engine, seed).run()


def _slow_machines(text: str) -> tuple[float, float]:
    """A type for argparse: a share of the machines and how many times as slow they are."""
    values = numbers(text)
    if len(values) != 2 or not 0 <= values[0] <= 1 or values[1] < 1:
        raise argparse.ArgumentTypeError(f"expected SHARE,FACTOR with 0 to 1 and 1 or more, got {text!r}")
    return values[0], values[1]


def run(args: argparse.Namespace) -> None:
    """Print one scenario."""
    slow = args.slow or (None, None)
    changes = {
        "slow_share": slow[0], "slow_factor": slow[1], "failures_per_machine_day": args.failures,
        "latency_s": None if args.latency_ms is None else args.latency_ms / 1000, "requests_per_s": args.requests,
        "bytes_per_s": None if args.gigabytes is None else args.gigabytes * 1e9, "recording_s": args.recording_s,
    }  # fmt: skip
    given = {key: value for key, value in changes.items() if value is not None}
    found = simulate(args.machines, args.processors, args.gpus, engine=args.engine, seed=args.seed, **given)
    days = args.hours / found.speed / 24
    print(f"{found.speed:,.0f} x real time, {args.hours:,.0f} h in {days:.2f} days; {found.lost} blocks done again")
    for name, share in found.bottlenecks():
        print(f"{name:>16}: busy {share:.1%}")
    print(describe(found))


def describe(found: Simulated) -> str:
    """What binds, and what is next."""
    (first, busy), (second, next_busy) = found.bottlenecks()[:2]
    room = busy / next_busy if next_busy else math.inf
    return f"{first} bind; next {second}, at {room:.1f} times the speed"


def tables() -> str:
    """The tables of docs/scaling.md, as Markdown."""
    assumed = json.loads(ASSUMPTIONS.read_text())
    lines = [
        "| audio | machines | speed of one | efficiency | days | machine hours | money | what binds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan in assumed["plans"]:
        lines += [transcription_row(plan, name, machine) for name, machine in assumed["machines"].items()]
    lines += [
        "",
        "| audio | epochs | machines | speed of one | efficiency | days | machine hours | money |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan in assumed["plans"]:
        lines += [training_row(plan, name, machine, assumed) for name, machine in assumed["machines"].items()]
    return "\n".join(lines)


def transcription_row(plan: dict[str, Any], name: str, machine: dict[str, Any]) -> str:
    """As many machines as transcribe the plan's hours in its days, if they were as fast as one."""
    costs, _ = read_costs(machine["gpus"] > 0)
    alone = costs.speed() * (machine["gpus"] or machine["processors"])
    count = max(1, math.ceil(plan["hours"] / (alone * 24 * plan["transcription_days"])))
    found = simulate(count, machine["processors"], machine["gpus"])
    hours = plan["hours"] / found.speed
    cells = [f"{plan['hours']:,} h", f"{count:,} x {name}", f"{alone:,.0f} x", f"{found.speed / alone / count:.0%}"]
    cells += [_short(hours / 24), _short(hours * count), _short(hours * count * machine["price_per_h"])]
    return f"| {' | '.join([*cells, describe(found)])} |"


def _short(value: float) -> str:
    """Two digits for small numbers, whole ones for large."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def training_row(plan: dict[str, Any], name: str, machine: dict[str, Any], assumed: dict[str, Any]) -> str:
    """As many machines as train on the plan's hours in its days, if they were as fast as one."""
    unit = assumed["gpu" if machine["gpus"] else "processor"]
    each = machine["gpus"] or machine["processors"]
    heard = plan["hours"] * plan["epochs"]
    alone = unit["training_speed"] * each
    count = max(1, math.ceil(heard / (alone * 24 * plan["training_days"])))
    faults = assumed["faults"]["failures_per_machine_day"] / 24 / each
    made = Training(
        count * each, unit["training_speed"], unit["training_batch_s"], unit["parameters"],
        failures_per_h=faults, **assumed["network"],
    )  # fmt: skip
    hours = heard / made.total_speed() if made.kept() else math.inf
    cells = [f"{plan['hours']:,} h", str(plan["epochs"]), f"{count:,} x {name}", f"{alone:,.0f} x"]
    cells += [f"{made.total_speed() / alone / count:.0%}"]
    cells += [_short(hours / 24), _short(hours * count), _short(hours * count * machine["price_per_h"])]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
