"""A folder of transcripts: names of files, what is ours, what is done."""

from pathlib import PurePath

import pytest

from asr import outputs
from asr.errors import ConfigError, OutputError


def named(*recordings, suffix="txt"):
    paths = outputs.names([(PurePath(recording), recording) for recording in recordings], suffix)
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


@pytest.fixture
def written(tmp_path):
    """A folder into which one transcript has been written."""
    outputs.Folder(tmp_path).write(PurePath("a.wav"), PurePath("a.txt"), "ONE\n")
    return tmp_path


def test_what_an_earlier_run_wrote_may_be_replaced(written):
    outputs.Folder(written).check([PurePath("a.txt"), PurePath("new.txt")], "summary.json")


@pytest.mark.parametrize("name", ["a.txt", "b.txt"])
def test_what_was_changed_or_is_of_somebody_else_is_refused(written, name):
    (written / name).write_text("CORRECTED\n")
    with pytest.raises(OutputError, match=rf"{name}: expected no transcript.*--resume.*--force"):
        outputs.Folder(written).check([PurePath("a.txt"), PurePath("b.txt")], "summary.json")


def test_a_record_that_was_cut_short_harms_no_other_line(written):
    record = written / outputs.RECORD
    record.write_bytes(record.read_bytes() + b'\n{"file": "b.t')
    outputs.Folder(written).write(PurePath("c.wav"), PurePath("c.txt"), "TWO\n")
    outputs.Folder(written).check([PurePath("a.txt"), PurePath("c.txt")], "summary.json")


def test_somebody_elses_summary_is_refused(written):
    (written / "summary.json").write_text('{"total": 3}')
    with pytest.raises(OutputError, match=r"summary\.json: expected the summary"):
        outputs.Folder(written).check([], "summary.json")


def test_resuming_finds_both_forms_of_a_name(written):
    folder = outputs.Folder(written)
    # a.mp4 has come since: both have full names now, and a.txt is that of a.wav.
    assert folder.done(PurePath("a.wav"), PurePath("a.wav.txt"), "txt")
    assert not folder.done(PurePath("a.mp4"), PurePath("a.mp4.txt"), "txt")
    folder.write(PurePath("b.wav"), PurePath("b.wav.txt"), "ONE\n")
    # b.mp4 has gone since.
    assert folder.done(PurePath("b.wav"), PurePath("b.txt"), "txt")
    assert not folder.done(PurePath("c.wav"), PurePath("c.txt"), "txt")
