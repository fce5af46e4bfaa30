"""asr transcribe, check, label and evaluate with recordings and manifests at URLs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import soundfile
from cloud_services import running_bucket, s3_environment
from object_server import Objects, random_errors, serving

from asr.cli.main import run_command
from asr.cloud import filesystems
from asr.cloud.inputs import write_whole
from asr.recognize.batch import transcribe_files
from asr.recognize.batch_inputs import find_jobs
from asr.recognize.fetched_chunks import FetchedChunks
from asr.recognize.output_folder import Folder, SourceEntry
from asr.recognize.recording import Recording

COUNT = 24


pytestmark = pytest.mark.usefixtures("quick_waits")


def flac(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="FLAC")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sounds(bursts):
    """Files of a folder: FLAC of one to two seconds by name."""
    return {f"{number:02}.flac": flac(bursts(1 + number / COUNT, seed=number)) for number in range(COUNT)}


@pytest.fixture(scope="module")
def texts(sounds, recognizer):
    """What the model makes of each, read from memory."""
    return {name: recognizer.transcribe(io.BytesIO(data)).text for name, data in sounds.items()}


def lines(sounds, folder="wav/", texts=None):
    rows = [
        {"id": name.removesuffix(".flac"), "audio": folder + name, "text": (texts or {}).get(name, "A"),
         "duration_s": round(1 + int(name[:2]) / COUNT, 4)}
        for name in sounds
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(folder):
    return {path.stem: path.read_text().strip() for path in folder.glob("*.txt")}


@pytest.fixture
def expected(texts):
    return {name.removesuffix(".flac"): text for name, text in texts.items()}


@pytest.mark.parametrize("kind", ["folder", "manifest", "manifest of urls"])
def test_a_web_folder_and_manifests_are_transcribed(kind, web, sounds, expected, model_dir, tmp_path):
    web.files = {f"set/wav/{name}": data for name, data in sounds.items()} | {"set/wav/notes.txt": b"no audio"}
    web.files["set/all.jsonl"] = lines(sounds, f"{web.url}/set/wav/" if kind == "manifest of urls" else "wav/")
    source = f"{web.url}/set/wav/" if kind == "folder" else f"{web.url}/set/all.jsonl"
    assert run_command(["transcribe", source, "--model", str(model_dir), "--output-dir", str(tmp_path / "out")]) == 0
    assert written(tmp_path / "out") == expected


def test_a_bucket_is_transcribed_as_its_folder_would_be(sounds, expected, model_dir, tmp_path):
    with running_bucket() as bucket:
        for name, data in sounds.items():
            write_whole(f"{bucket}/set/a/{name}", data)
        command = ["transcribe", f"{bucket}/set", "--model", str(model_dir), "--output-dir", str(tmp_path / "out")]
        assert run_command(command) == 0
    assert written(tmp_path / "out" / "a") == expected


def test_one_recording_is_transcribed_to_standard_output(web, sounds, texts, model_dir, capsys):
    web.files["a b.flac"] = sounds["03.flac"]
    assert run_command(["transcribe", f"{web.url}/a%20b.flac", "--model", str(model_dir)]) == 0
    assert capsys.readouterr().out.strip() == texts["03.flac"]


def test_processes_are_given_what_was_fetched(web, sounds, expected, model_dir, tmp_path):
    web.files = {f"set/{name}": data for name, data in sounds.items()}
    web.fault = random_errors(0.1)
    outcome = transcribe_files({"model": model_dir}, [f"{web.url}/set/"], output_dir=tmp_path / "out", jobs=2)
    assert (outcome.done, outcome.failures) == (COUNT, [])
    assert written(tmp_path / "out") == expected
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["done"] == COUNT


def test_errors_of_the_service_lose_no_recording(web, sounds, expected, recognizer, tmp_path):
    web.files = {f"set/{name}": data for name, data in sounds.items()}
    web.fault = random_errors(0.2)
    outcome = transcribe_files(recognizer, [f"{web.url}/set/"], output_dir=tmp_path)
    assert outcome.failures == []
    assert written(tmp_path) == expected


def test_a_bucket_that_fails_half_way_loses_nothing_that_was_done(web, sounds, expected, recognizer, tmp_path):
    web.files = {f"set/{name}": data for name, data in sounds.items()}
    web.fault = lambda request: 503 if request.path[4:6].isdigit() and int(request.path[4:6]) >= COUNT // 2 else 0
    first = transcribe_files(recognizer, [f"{web.url}/set/"], output_dir=tmp_path)
    assert first.done == COUNT // 2
    assert [failure.split(": ")[0] for failure in first.failures] == [
        f"{web.url}/set/{number:02}.flac" for number in range(COUNT // 2, COUNT)
    ]
    assert all("tries)" in failure for failure in first.failures)
    web.fault = lambda request: 0
    web.requests.clear()
    second = transcribe_files(recognizer, [f"{web.url}/set/"], output_dir=tmp_path, resume=True)
    assert (second.skipped, second.done, second.failures) == (COUNT // 2, COUNT - COUNT // 2, [])
    assert written(tmp_path) == expected
    assert not any(request.path == "set/00.flac" for request in web.requests)


def test_a_bucket_that_lists_and_does_not_read_fails_file_by_file(web, sounds, recognizer, tmp_path):
    web.files = {f"set/{name}": data for name, data in list(sounds.items())[:4]}
    web.fault = lambda request: 403 if request.path == "set/02.flac" else 0
    outcome = transcribe_files(recognizer, [f"{web.url}/set/"], output_dir=tmp_path)
    assert outcome.done == 3
    (failure,) = outcome.failures
    assert failure.startswith(f"{web.url}/set/02.flac: access denied")


def test_a_recording_that_changes_while_it_is_read_is_named(web, bursts, recognizer):
    long = flac(bursts(120, seed=1))
    web.files["long.flac"] = long

    def change(request):
        if not request.span.startswith("bytes=0-"):
            web.files["long.flac"] = long + b"\0"
        return 0

    web.fault = change
    assert len(long) > 1 << 20
    outcome = transcribe_files(recognizer, [f"{web.url}/long.flac"], out=io.StringIO())
    (failure,) = outcome.failures
    assert "long.flac: the object changed while it was read" in failure


def test_a_missing_recording_a_missing_folder_and_a_page_are_named(web, recognizer, tmp_path):
    web.files = {"empty/notes.txt": b"x", "page.wav": b"<!doctype html><p>log in</p>"}
    names = [f"{web.url}/none.wav", f"{web.url}/none/", f"{web.url}/empty/", f"{web.url}/page.wav", "ftp://h/a.wav"]
    outcome = transcribe_files(recognizer, names, output_dir=tmp_path)
    assert outcome.done == 0
    found = sorted(outcome.failures)
    assert [failure.split(": ", 1)[1].partition(",")[0].partition(";")[0] for failure in found] == [
        "expected one of s3://",
        "no audio file in this folder",
        "no such object",
        "no such object",
        "holds a web page in place of the audio",
    ]


SECRETS = ("geheimnis", "alice", "qwertzuiop", "Signature")


@pytest.fixture
def web_with_secrets(web, sounds):
    """The address of a service that asks for a user and password, with them in it."""
    web.user = "alice:geheimnis"
    web.files = {f"set/{name}": data for name, data in list(sounds.items())[:3]} | {"set/bad.wav": b"no sound"}
    url = web.url.replace("://", "://alice:geheimnis@")
    rows = lines(list(sounds)[:3], "") + lines(["99.flac"], "") + lines(["98.flac"], f"{url}/none?X-Amz-Signature=abc")
    web.files["set/all.jsonl"] = rows
    return url


COMMANDS = {
    "transcribe a folder": ["transcribe", "{url}/set/", "--output-dir", "{out}/set", "--format", "json"],
    "transcribe a manifest": [
        "transcribe", "{url}/set/all.jsonl?sig=qwertzuiop", "--output-dir", "{out}/all", "--format", "json",
    ],
    "label": ["label", "{url}/set/", "--output", "{out}/l.jsonl", "--least-confidence", "0"],
    "evaluate": ["evaluate", "{url}/set/all.jsonl", "--json", "{out}/e.json"],
    "check": ["check", "{url}/set/all.jsonl", "--json", "{out}/c.json"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_secret_reaches_messages_or_files(web, web_with_secrets, model_dir, tmp_path, capfd, name):
    out = tmp_path / "out"
    out.mkdir()
    command = [part.format(url=web_with_secrets, out=out) for part in COMMANDS[name]]
    assert run_command([*command, *([] if name == "check" else ["--model", str(model_dir)])]) == 1
    printed = capfd.readouterr()
    files = [Path(parent, name) for parent, _, names in os.walk(out) for name in names]
    texts = [printed.out, printed.err, *(f"{path} {path.read_text()}" for path in files)]
    assert any(f"{web.url}/" in text for text in texts)
    assert [secret for secret in SECRETS if any(secret in text for text in texts)] == []


def test_label_writes_urls_that_can_be_read_again(web, sounds, texts, model_dir, tmp_path):
    web.files = {f"set/{name}": data for name, data in list(sounds.items())[:4]}
    label = ["label", f"{web.url}/set/", "--model", str(model_dir), "--output", str(tmp_path / "l.jsonl")]
    assert run_command([*label, "--least-confidence", "0"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert {row["audio"]: row["text"] for row in rows} == {
        f"{web.url}/set/{name}": texts[name] for name in list(sounds)[:4] if texts[name]
    }
    assert run_command(["check", str(tmp_path / "l.jsonl")]) in (0, 1)
    evaluate = ["evaluate", str(tmp_path / "l.jsonl"), "--model", str(model_dir), "--json", str(tmp_path / "e.json")]
    assert run_command(evaluate) == 0
    assert json.loads((tmp_path / "e.json").read_text())["wer"] == 0


def test_check_reads_a_manifest_and_its_audio_at_a_url(web, sounds, tmp_path, capsys):
    web.files = {f"set/wav/{name}": data for name, data in sounds.items() if name != "05.flac"}
    web.files["set/all.jsonl"] = lines(sounds)
    report = tmp_path / "report.json"
    assert run_command(["check", f"{web.url}/set/all.jsonl", "--json", str(report)]) == 1
    findings = json.loads(report.read_text())["findings"]
    unreadable = [finding for finding in findings if finding["kind"] == "unreadable"]
    assert [(finding["id"], finding["message"]) for finding in unreadable] == [
        ("05", f"{web.url}/set/wav/05.flac: no such object")
    ]
    assert f"{web.url}/set/all.jsonl: {COUNT} utterances" in capsys.readouterr().out


def test_a_root_at_a_url_holds_all_audio(web, sounds, model_dir, capsys):
    web.files = {f"set/wav/{name}": data for name, data in sounds.items()}
    web.files["set/all.jsonl"] = lines(sounds)
    web.files["set/out.jsonl"] = lines(sounds, "../other/")
    web.files["set/url.jsonl"] = lines(sounds, "memory://secret/")
    evaluate = ["evaluate", "--model", str(model_dir), "--root", f"{web.url}/set"]
    assert run_command([*evaluate, f"{web.url}/set/all.jsonl"]) == 0
    for name in ("out", "url"):
        assert run_command([*evaluate, f"{web.url}/set/{name}.jsonl"]) == 2
        assert f"set/{name}.jsonl:1: audio" in (message := capsys.readouterr().err)
        assert "lies outside the root" in message


def test_outputs_at_urls_are_refused(capsys):
    for command in (["transcribe", "a.wav", "--output-dir", "s3://b/out"], ["label", "a.wav", "--output", "s3://b/l"]):
        with pytest.raises(SystemExit):
            run_command(command)
        assert "expected a path of this machine, got the URL s3://b/" in capsys.readouterr().err


def test_the_option_of_the_cache_keeps_recordings(web, sounds, model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ASR_CACHE_GB", "0")
    web.files = {f"set/{name}": data for name, data in list(sounds.items())[:3]}
    command = ["transcribe", f"{web.url}/set/", "--model", str(model_dir), "--cache-gb", "1", "--output-dir"]
    for out in ("one", "two"):
        assert run_command([*command, str(tmp_path / out)]) == 0
    assert sum(request.span == "bytes=0-0" for request in web.requests) == 6
    assert sum(request.path.endswith(".flac") for request in web.requests) == 9
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_objects_whose_names_lead_out_of_the_folder_are_left_out(sounds):
    objects = Objects({"bucket/set/../../evil.flac": sounds["00.flac"], "bucket/set/good.flac": sounds["00.flac"]})
    with serving(objects), s3_environment(objects.url):
        jobs, failures = find_jobs(["s3://bucket/set"])
    assert [str(job.output) for job in jobs] == ["good.flac"]
    (failure,) = failures
    assert "s3://bucket/set/../../evil.flac: left out: expected a path below the folder" in failure


def test_chunks_hold_short_recordings_and_leave_long_ones_at_their_urls(web):
    web.files = {"short": b"12", "long": b"x" * (5 << 20)}
    items = [Recording(f"{web.url}/{name}", name) for name in ("short", "long", "none")] + [Recording("local.wav")]
    chunks = FetchedChunks(items, 3)
    assert len(chunks) == 2
    short, long, missing = chunks.get(0)
    assert (short.source.getvalue(), short.source.name) == (b"12", f"{web.url}/short")
    assert (long.source, missing.source) == (f"{web.url}/long", f"{web.url}/none")
    assert chunks.get(0)[0] is short
    assert chunks.get(1) == [Recording("local.wav")]
    chunks.drop(0)
    chunks.close()


def test_names_of_objects_lead_out_of_no_output_folder(bursts):
    with running_bucket("names") as bucket:
        service = filesystems.locate(f"{bucket}/x").service
        for name in ("a.wav", "/tmp/b.wav", "../../c.wav", "in/../../../d.wav"):
            service.call_s3("put_object", Bucket="names", Key=f"set/{name}", Body=b"RIFF")
        jobs, failures = find_jobs([f"{bucket}/set/"])
    assert [str(job.output) for job in jobs] == ["a.wav"]
    assert len(failures) == 3
    assert all("expected a path below the folder" in failure for failure in failures)


def test_a_transcript_of_another_query_is_not_taken_for_this_one(tmp_path):
    folder = Folder(tmp_path)
    first, second = (SourceEntry(Path("get"), f"https://h/get?key={name}") for name in "ab")
    folder.write(first, Path("get.txt"), "A")
    assert folder.done(first, Path("get.txt"), "txt")
    assert not folder.done(second, Path("get.txt"), "txt")


@pytest.mark.parametrize("name", ["calls.rar", "https://h/calls.7z?sig=secret", "s3://b/calls.tar.zst"])
def test_a_kind_of_archive_that_is_not_read_is_refused_by_name_before_it_is_fetched(name):
    jobs, failures = find_jobs([name])
    assert not jobs
    assert "got another kind of archive; unpack it" in failures[0]
    assert "secret" not in failures[0]
