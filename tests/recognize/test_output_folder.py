"""A folder of transcripts: names of files, what is ours, what is done."""

from pathlib import PurePath

import pytest

from asr.errors import ConfigError, OutputError
from asr.recognize import output_folder


def named(*recordings, suffix="txt"):
    paths = output_folder.names([(PurePath(recording), recording) for recording in recordings], suffix)
    return [path.as_posix() for path in paths]


def test_names_follow_the_full_name_where_stems_collide():
    assert named("a/film.mp4", "a/film.wav", "film.wav", "b.wav") == [
        "a/film.mp4.txt", "a/film.wav.txt", "film.txt", "b.txt",
    ]  # fmt: skip


def test_a_full_name_that_is_another_ones_short_name_is_lengthened_too():
    assert named("film.mp4", "film.wav", "film.mp4.wav") == ["film.mp4.txt", "film.wav.txt", "film.mp4.wav.txt"]


def test_the_same_name_twice_is_refused():
    with pytest.raises(ConfigError, match=r"a\.wav and a\.wav would both be written to a\.wav\.txt"):
        named("a.wav", "a.wav")


def recording(name, source=None):
    return output_folder.SourceEntry(PurePath(name), source)


def work(*stems):
    """Recordings of these names and their files."""
    return [(recording(f"{stem}.wav"), PurePath(f"{stem}.txt")) for stem in stems]


@pytest.fixture
def written(tmp_path):
    """A folder into which one transcript has been written."""
    output_folder.Folder(tmp_path).write(recording("a.wav"), PurePath("a.txt"), "ONE\n")
    return tmp_path


def test_what_an_earlier_run_wrote_may_be_replaced(written):
    output_folder.Folder(written).check(work("a", "new"), "summary.json")


@pytest.mark.parametrize("name", ["a.txt", "b.txt"])
def test_what_was_changed_or_is_of_somebody_else_is_refused(written, name):
    (written / name).write_text("CORRECTED\n")
    with pytest.raises(OutputError, match=rf"{name}: expected no transcript.*--resume.*--force"):
        output_folder.Folder(written).check(work("a", "b"), "summary.json")


def test_a_record_that_was_cut_short_harms_no_other_line(written):
    record = written / output_folder.RECORD
    record.write_bytes(record.read_bytes() + b'\n{"file": "b.t')
    output_folder.Folder(written).write(recording("c.wav"), PurePath("c.txt"), "TWO\n")
    output_folder.Folder(written).check(work("a", "c"), "summary.json")


def test_somebody_elses_summary_is_refused(written):
    (written / "summary.json").write_text('{"total": 3}')
    with pytest.raises(OutputError, match=r"summary\.json: expected the summary"):
        output_folder.Folder(written).check([], "summary.json")


def test_resuming_finds_both_forms_of_a_name(written):
    folder = output_folder.Folder(written)
    # a.mp4 has come since: both have full names now, and a.txt is that of a.wav.
    assert folder.done(recording("a.wav"), PurePath("a.wav.txt"), "txt")
    assert not folder.done(recording("a.mp4"), PurePath("a.mp4.txt"), "txt")
    folder.write(recording("b.wav"), PurePath("b.wav.txt"), "ONE\n")
    # b.mp4 has gone since.
    assert folder.done(recording("b.wav"), PurePath("b.txt"), "txt")
    assert not folder.done(recording("c.wav"), PurePath("c.txt"), "txt")


@pytest.mark.parametrize(("name", "source"), [("a.flac", "in/a.flac"), ("a.wav", "elsewhere/a.wav")])
def test_another_recordings_transcript_is_neither_replaced_nor_counted(tmp_path, name, source):
    out, path = tmp_path / "out", PurePath("a.txt")
    first = recording("a.wav", tmp_path / "in/a.wav")
    output_folder.Folder(out).write(first, path, "ONE\n")
    folder, second = output_folder.Folder(out), recording(name, tmp_path / source)
    assert folder.done(first, path, "txt")
    assert not folder.done(second, path, "txt")
    folder.check([(first, path)], "summary.json")
    with pytest.raises(OutputError, match=rf"a\.txt: expected .*{source}, got that of \.\./in/a\.wav; .*--force"):
        folder.check([(second, path)], "summary.json")


def test_after_force_the_file_is_the_other_recordings(tmp_path):
    path, first, second = PurePath("a.txt"), recording("a.wav"), recording("a.flac")
    for one, body in ((first, "ONE\n"), (second, "TWO\n")):
        output_folder.Folder(tmp_path).write(one, path, body)
    folder = output_folder.Folder(tmp_path)
    assert folder.done(second, path, "txt")
    assert not folder.done(first, path, "txt")
    # Killed between the record and the file: the older transcript is still there.
    (tmp_path / path).write_text("ONE\n")
    assert folder.done(first, path, "txt")
    assert not folder.done(second, path, "txt")


def test_a_record_without_places_is_of_the_recording_of_that_name(written):
    folder = output_folder.Folder(written)
    folder.check([(recording("a.wav", written / "in/a.wav"), PurePath("a.txt"))], "summary.json")
    assert folder.done(recording("a.wav", written / "in/a.wav"), PurePath("a.txt"), "txt")


def test_a_kill_between_the_record_and_the_file_leaves_the_older_transcript_ours(written, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(output_folder, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        output_folder.Folder(written).write(recording("a.wav"), PurePath("a.txt"), "CHANGED\n")
    output_folder.Folder(written).check(work("a"), "summary.json")


def test_a_folder_of_an_older_version_is_called_so(tmp_path):
    (tmp_path / "a.txt").write_text("ONE\n")
    (tmp_path / "summary.json").write_text('{"done": 1, "skipped": 0, "failures": [], "real_time_factor": 0.1}')
    with pytest.raises(OutputError, match=r"an older version .* without a record.*--resume.*--force"):
        output_folder.Folder(tmp_path).check(work("a"), "summary.json")
