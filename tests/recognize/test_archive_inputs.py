"""asr transcribe, label, evaluate and check with archives: what becomes a recording, its id, faults, processes."""

from __future__ import annotations

import io
import json
import os
import pickle
import re

import pytest
import soundfile
from archives import KINDS, make_archive
from cloud_services import s3_environment
from object_server import random_errors

from asr.cli.main import run_command
from asr.data.archived_utterances import read_utterances, scan_utterances
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.shard_check import check_set
from asr.data.shard_writer import write_shards
from asr.errors import ManifestError
from asr.evaluation.model_scores import evaluate_model, evaluate_stream
from asr.recognize import fetched_chunks
from asr.recognize.archive import transcribe_archive
from asr.recognize.batch import transcribe_files
from asr.recognize.batch_inputs import find_jobs
from asr.recognize.result_parts import read_results
from asr.train.pseudo_labels import label_recordings

COUNT = 9
QUICK = ("zip", "tar", "tar.gz")


pytestmark = pytest.mark.usefixtures("quick_waits")


def flac(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="FLAC")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sounds(bursts):
    return {f"day {n % 2}/{n}.flac": flac(bursts(0.5 + 0.1 * n, seed=n)) for n in range(COUNT)}


@pytest.fixture(scope="module")
def texts(sounds, recognizer):
    """What the model makes of each, read from memory."""
    return {name: recognizer.transcribe(io.BytesIO(data)).text for name, data in sounds.items()}


@pytest.fixture
def put(tmp_path):
    def write(name, files):
        kind = name.partition(".")[2]
        (tmp_path / name).write_bytes(files if isinstance(files, bytes) else make_archive(kind, files))
        return str(tmp_path / name)

    return write


def found(folder):
    results = list(read_results(folder))
    assert len({result["id"] for result in results}) == len(results)
    return {result["id"]: result["text"] for result in results}


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_of_an_archive_become_files_named_by_their_paths(kind, put, sounds, texts, model_dir, tmp_path):
    archive = put(f"calls.{kind}", sounds | {"notes.md": b"no audio", "._1.wav": b"of another system"})
    out = tmp_path / "out"
    assert run_command(["transcribe", archive, "--output-dir", str(out), "--model", str(model_dir)]) == 0
    written = {path.relative_to(out).as_posix(): path.read_text().strip() for path in out.rglob("*.txt")}
    assert written == {name.replace(".flac", ".txt"): text for name, text in texts.items()}


def test_processes_share_the_recordings_of_archives(put, sounds, texts, model_dir, tmp_path, monkeypatch):
    half = COUNT // 2
    monkeypatch.setattr(fetched_chunks, "_LARGEST_BYTES", 20_000)  # some go as bytes, some as temporary files
    archives = [put("a.tar.gz", dict(list(sounds.items())[:half])), put("b.zip", dict(list(sounds.items())[half:]))]
    outcome = transcribe_archive(archives, tmp_path / "out", jobs=2, model=str(model_dir), device="cpu")
    assert outcome.failures == []
    assert found(tmp_path / "out") == texts


@pytest.mark.parametrize("kind", QUICK)
def test_members_are_handed_to_processes_as_bytes_or_files_that_go(kind, put, sounds, monkeypatch):
    monkeypatch.setattr(fetched_chunks, "_LARGEST_BYTES", 20_000)
    jobs, _ = find_jobs([put(f"calls.{kind}", sounds)])
    chunks = fetched_chunks.FetchedChunks([job.item for job in jobs], 4)
    copies = set()
    for index in range(len(chunks)):
        for item, job in zip(chunks.get(index), jobs[4 * index :], strict=False):
            again = pickle.loads(pickle.dumps(item))
            assert again.samples(16000).tobytes() == job.item.samples(16000).tobytes()
            copies.add(getattr(getattr(item.source, "member", None), "copy", ""))
        chunks.drop(index)
        assert not any(map(os.path.exists, copies))
    chunks.close()
    assert (len(copies) > 1) == (kind == "tar.gz")


@pytest.mark.parametrize("kind", QUICK)
def test_archives_at_urls_are_read_through_errors(kind, web, sounds, texts, model_dir, tmp_path):
    web.files["bucket/calls." + kind] = make_archive(kind, sounds)
    web.fault = random_errors(0.1)
    with s3_environment(web.url):
        url = f"s3://bucket/calls.{kind}"
        outcome = transcribe_archive([url], tmp_path / "out", model=str(model_dir), device="cpu")
    assert outcome.failures == []
    assert found(tmp_path / "out") == texts
    assert "calls." in next(read_results(tmp_path / "out"))["source"]


def test_a_folder_of_archives_and_a_range_stand_for_them(put, sounds, tmp_path):
    for number in range(3):
        put(f"{number:02}.zip", {f"{number}-{name}": data for name, data in sounds.items()})
    ids = [f"{number}-{name}" for number in range(3) for name in sounds]
    jobs, failures = find_jobs([str(tmp_path / "{00..02}.zip")])
    assert ([job.id for job in jobs], failures) == (ids, [])
    jobs, failures = find_jobs([str(tmp_path)])
    expected = [f"{number:02}.zip/{number}-{name}" for number in range(3) for name in sounds]
    assert ([job.id for job in jobs], failures) == (expected, [])


def test_archives_beside_recordings_are_told(put, sounds, web, tmp_path, capsys):
    put("a.zip", sounds)
    put("b.tar", {"0.flac": sounds["day 0/0.flac"], "deep/old.zip": b"1"})
    (tmp_path / "c.flac").write_bytes(sounds["day 0/0.flac"])
    web.files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for place in (str(tmp_path), f"{web.url}/"):
        jobs, failures = find_jobs([place])
        assert ([job.id for job in jobs], failures) == (["c.flac"], [])
        assert "2 archives beside the recordings left out" in capsys.readouterr().err
    find_jobs([str(tmp_path / "b.tar")])
    assert "old.zip); to read them too, unpack it" in capsys.readouterr().err
    _, failures = find_jobs([put("d.zip", {"deep/old.zip": b"1"})])
    assert "no audio file in this archive; it holds archives: unpack it" in failures[0]


def test_a_range_with_missing_archives_names_them_and_reads_the_others(put, sounds, tmp_path):
    put("00.zip", sounds)
    jobs, failures = find_jobs([str(tmp_path / "{00..02}.zip")])
    assert len(jobs) == COUNT
    assert [f"{number:02}.zip: cannot read the archive: No such file" in failures[number - 1] for number in (1, 2)]


def test_a_folder_and_a_recording_in_an_archive_are_named_by_their_path(put, sounds, tmp_path):
    archive = put("calls.tar", sounds)
    jobs, _ = find_jobs([f"{archive}/day 1/", f"{archive}/day 0/4.flac"])
    assert [job.id for job in jobs] == [f"{n}.flac" for n in (1, 3, 5, 7, 4)]
    _, failures = find_jobs([f"{archive}/none"])
    assert "no audio file in this archive below none" in failures[0]


@pytest.mark.parametrize("kind", QUICK)
def test_one_bad_member_and_one_broken_archive_lose_nothing_else(kind, put, sounds, texts, model_dir, tmp_path):
    whole = make_archive(kind, {f"cut {name}": data for name, data in sounds.items()})
    names = [put(f"good.{kind}", sounds | {"bad.flac": b"no audio", "../out.flac": b"1"}),
             put(f"broken.{kind}", whole[: len(whole) // 2]), str(tmp_path / "calls.rar")]  # fmt: skip
    outcome = transcribe_archive(names, tmp_path / "out", model=str(model_dir), device="cpu")
    results = found(tmp_path / "out")
    assert texts.items() <= results.items()
    assert {name.removeprefix("cut ") for name in results} == set(texts)
    reasons = "bad.flac: cannot be decoded", "'../out.flac' was left out", f"broken.{kind}: ", "calls.rar: expected"
    for part in reasons:
        assert any(part in failure for failure in outcome.failures)
    assert len(outcome.failures) == 4


def test_an_archive_without_audio_is_named(put):
    _, failures = find_jobs([put("x.zip", {"a.md": b"1"})])
    assert failures == [failures[0]]
    assert "x.zip: no audio file in this archive" in failures[0]


def test_long_recordings_of_a_compressed_archive_are_read_once(put, bursts, model_dir, tmp_path, monkeypatch):
    from asr.audio import archive_members
    from asr.recognize import long_audio

    monkeypatch.setattr(long_audio, "LONG_S", 0.7)
    opened = []
    whole = archive_members.open_archive
    monkeypatch.setattr(archive_members, "open_archive", lambda name: opened.append(name) or whole(name))
    archive = put("calls.tar.gz", {f"{n}.flac": flac(bursts(1.0, seed=n)) for n in range(5)})
    outcome = transcribe_files({"model": str(model_dir)}, [archive], output_dir=tmp_path / "out")
    assert (outcome.done, outcome.failures, len(opened)) == (5, [], 1)


def test_channels_of_recordings_in_archives_are_split(put, bursts, model_dir, tmp_path):
    import numpy as np

    stereo = flac(np.stack([bursts(1.0, seed=1), bursts(1.0, seed=2)], axis=1))
    for kind in QUICK:
        jobs, failures = find_jobs([put(f"calls.{kind}", {"a.flac": stereo})], split_channels=True)
        assert ([job.id for job in jobs], failures) == (["a.flac.ch1", "a.flac.ch2"], [])


def test_a_run_goes_on_where_it_was(put, sounds, texts, model_dir, tmp_path):
    archive = put("calls.tar.gz", sounds)
    first = put("some.tar.gz", dict(list(sounds.items())[:4]))
    transcribe_archive([first], tmp_path / "out", model=str(model_dir), device="cpu")
    outcome = transcribe_archive([archive], tmp_path / "out", resume=True, model=str(model_dir), device="cpu")
    assert (outcome.skipped, outcome.done) == (4, COUNT - 4)
    assert found(tmp_path / "out") == texts


# Archives with texts


@pytest.fixture(scope="module")
def corpus(sounds, texts, tmp_path_factory):
    """A manifest with the model's own texts, and its files by name."""
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for number, (name, data) in enumerate(sounds.items()):
        (folder / f"{number}.flac").write_bytes(data)
        duration_s = soundfile.info(io.BytesIO(data)).duration
        utterances.append(Utterance(f"talk/{number}", str(folder / f"{number}.flac"), texts[name] or "A", duration_s))
    write_manifest(folder / "all.jsonl", utterances)
    return folder


def test_shards_are_transcribed_and_scored_by_the_ids_of_their_utterances(corpus, recognizer, model_dir, tmp_path):
    write_shards(str(corpus / "all.jsonl"), str(tmp_path / "shards"), size=100_000)
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 1
    utterances = {u.id: u for u in read_manifest(corpus / "all.jsonl")}
    transcribe_archive([str(tmp_path / "shards")], tmp_path / "out", model=str(model_dir), device="cpu")
    results = found(tmp_path / "out")
    assert results.keys() == utterances.keys()
    expected = evaluate_model(corpus / "all.jsonl", recognizer)
    for run in (evaluate_model, evaluate_stream):
        assert run(tmp_path / "shards", recognizer).report.errors == run(corpus / "all.jsonl", recognizer).report.errors
    scored = evaluate_model(tmp_path / "shards", recognizer).report
    assert {u.id: u for u in scored.utterances} == {u.id: u for u in expected.report.utterances}


@pytest.mark.parametrize("kind", QUICK)
def test_texts_beside_recordings_make_utterances_in_any_archive(kind, put, corpus, web):
    files = {}
    for number, item in enumerate(read_manifest(corpus / "all.jsonl")):
        files[f"{number}.flac"] = (corpus / f"{number}.flac").read_bytes()
        if number % 2:
            files[f"{number}.txt"] = item.text.encode()
        else:
            files[f"{number}.json"] = json.dumps({"text": item.text, "speaker": "s"}).encode()
    web.files[f"x.{kind}"] = make_archive(kind, files)
    for place in (put(f"x.{kind}", files), f"{web.url}/x.{kind}"):
        utterances = read_utterances(place)
        assert [u.id for u in utterances] == [str(number) for number in range(COUNT)]
        assert [u.text for u in utterances] == [u.text for u in read_manifest(corpus / "all.jsonl")]
        lengths = [u.duration_s for u in read_manifest(corpus / "all.jsonl")]
        assert [u.duration_s for u in utterances] == pytest.approx(lengths)


@pytest.mark.parametrize("kind", QUICK)
def test_a_manifest_in_an_archive_names_its_members(kind, put, corpus, recognizer):
    names = os.listdir(corpus)
    archive = put(f"corpus.{kind}", {f"set/{name}": (corpus / name).read_bytes() for name in names})
    expected = evaluate_model(corpus / "all.jsonl", recognizer).report
    assert evaluate_model(archive, recognizer).report == expected
    assert evaluate_model(f"{archive}/set/all.jsonl", recognizer).report == expected


def test_a_manifest_in_an_archive_does_not_lead_out_of_it(put, corpus):
    lines = (corpus / "all.jsonl").read_bytes().replace(b'"0.flac"', json.dumps(str(corpus / "0.flac")).encode())
    archive = put("x.zip", {"all.jsonl": lines, "1.flac": b""})
    with pytest.raises(ManifestError, match="lies outside the root"):
        read_utterances(archive)


def test_an_id_of_two_archives_names_both_recordings(put, corpus, tmp_path):
    files = {"a.flac": b"1", "a.json": b'{"id": "one", "text": "A", "duration_s": 1}'}
    put("0.tar", files)
    put("1.tar", files)
    with pytest.raises(ManifestError, match=r"1\.tar/a\.flac: id 'one' is already that of .*0\.tar/a\.flac; give"):
        read_utterances(tmp_path)


def test_an_archive_in_place_of_a_manifest_is_named(put, sounds):
    with pytest.raises(ManifestError, match=r"x\.zip: expected a manifest, got an archive; name a manifest in it"):
        read_manifest(put("x.zip", sounds))


def test_several_manifests_in_an_archive_are_named_to_choose_from(put):
    archive = put("x.zip", {"a.jsonl": b"{}", "b/c.jsonl": b"{}"})
    with pytest.raises(ManifestError, match=r"got 2: name one of .*x\.zip/a\.jsonl, .*x\.zip/b/c\.jsonl"):
        read_utterances(archive)


def test_recordings_without_a_text_are_named_and_the_others_scored(put, corpus, recognizer):
    files = {f"{n}.flac": (corpus / f"{n}.flac").read_bytes() for n in range(4)} | {f"{n}.txt": b"A" for n in range(3)}
    archive = put("x.zip", files)
    result = evaluate_model(archive, recognizer)
    assert len(result.report.utterances) == 3
    assert list(result.failures) == [f"{archive}/3.flac"]
    found = [item for _, item in scan_utterances(archive) if isinstance(item, ManifestError)]
    assert "expected its text" in str(found[0])


@pytest.mark.parametrize("kind", QUICK)
def test_check_finds_the_faults_of_an_archive(kind, put, corpus):
    write_shards(str(corpus / "all.jsonl"), str(corpus / "shards"), size=10_000_000, force=True)
    import tarfile

    with tarfile.open(corpus / "shards" / "00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    sound = next(name for name in files if name.endswith(".flac"))
    files[sound] = files[sound][: len(files[sound]) // 2]
    report = check_set(put(f"x.{kind}", files))
    assert report.utterances == COUNT
    (fault,) = (finding for finding in report.findings if finding.kind == "unreadable")
    assert f"x.{kind}" in fault.message


def test_a_check_of_an_archive_names_places_in_it_and_no_lines(put, sounds, capsys):
    names = sorted(sounds)[:3]
    files = {name: sounds[name] for name in names} | {name.replace(".flac", ".txt"): b"a" for name in names[:2]}
    files["again.flac"], files["again.txt"] = sounds[names[0]], b"b"
    assert run_command(["check", put("calls.zip", files)]) == 1
    told = capsys.readouterr().out
    assert f"calls.zip/{names[2]}: expected its text" in told
    assert re.search(r"members that are no utterances: 1\n  utterance [1-4]: ", told)
    assert re.search(r"the same samples as utterance [1-4], ", told)
    assert "line" not in told


@pytest.mark.parametrize("kind", QUICK)
def test_labels_of_an_archive_can_be_read_again(kind, put, sounds, texts, recognizer, tmp_path):
    archive = put(f"calls.{kind}", sounds)
    labels = label_recordings([archive], recognizer, tmp_path / "labels.jsonl", least_confidence=0.0)
    utterances = read_manifest(tmp_path / "labels.jsonl")
    assert [u.id for u in labels.kept] == [u.id for u in utterances]
    assert {f"{u.id}.flac": u.text for u in utterances} == {name: text for name, text in texts.items() if text}
    scored = evaluate_model(tmp_path / "labels.jsonl", recognizer)
    assert (scored.report.errors, scored.failures) == (0, {})
