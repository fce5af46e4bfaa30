"""Parts of results: whole or not at all, every recording once."""

from __future__ import annotations

import json
import os

import pytest

from asr.errors import ConfigError, OutputError
from asr.recognize import result_parts
from asr.recognize.result_parts import Parts, read_results

RUN = {"models": ["m"], "decoding": {}}


def line(id, text="A"):
    return json.dumps({"id": id, "text": text, "duration_s": 1.0, "words": []}).encode() + b"\n"


def write(folder, ids, **options):
    with Parts(folder, RUN, **options) as parts:
        for id in ids:
            parts.add(id, line(id))


def ids(folder):
    return sorted(result["id"] for result in read_results(folder))


@pytest.mark.parametrize("format", result_parts.PART_FORMATS)
def test_results_come_back_and_parts_hold_as_many_as_asked(tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: ray)")
    names = [f'id {number} ö"/\\' for number in range(7)]
    write(tmp_path, names, format=format, part_recordings=3)
    assert ids(tmp_path) == sorted(names)
    assert len([name for name in os.listdir(tmp_path) if name.startswith("part-")]) == 3
    with Parts(tmp_path, RUN, format=format, resume=True) as parts:
        assert parts.done == set(names)
        assert not parts.add(names[0], line(names[0]))


def test_a_part_is_written_after_a_while(tmp_path):
    with Parts(tmp_path, RUN, part_s=0.0) as parts:
        parts.add("a", line("a"))
        assert len(parts.names()) == 1


def test_results_at_a_url_are_resumed_and_mended():
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra: cloud)")
    url = "memory://results/one"
    write(url, ["a", "b", "c"], part_recordings=2)
    write("memory://results/two", ["c", "d"])
    import fsspec

    store = fsspec.filesystem("memory")
    for name in store.ls("/results/two", detail=False):
        if "part-" in name:
            store.copy(name, name.replace("two", "one"))
    assert ids(url) == ["a", "b", "c", "c", "d"]
    with pytest.raises(OutputError, match="memory://results/one/: expected a new folder"):
        Parts(url, RUN)
    write(url, ["d", "e"], resume=True)
    assert ids(url) == ["a", "b", "c", "d", "e"]


def test_a_web_server_is_no_place_for_results():
    with pytest.raises(ConfigError, match="https://host/out: expected a folder that can be written"):
        Parts("https://user:password@host/out", RUN)


def test_the_same_part_written_twice_is_one_file(tmp_path):
    write(tmp_path, ["a", "b"])
    os.rename(tmp_path, other := tmp_path.with_name("other"))
    write(tmp_path, ["b", "a"])
    assert {n for n in os.listdir(tmp_path) if "part" in n} == {n for n in os.listdir(other) if "part" in n}


def test_what_two_runs_wrote_twice_is_removed_on_resume(tmp_path):
    write(tmp_path, ["a", "b", "c"])
    for pair in (["b", "c"], ["c", "d"]):
        write(tmp_path.with_name("second"), pair, resume=True)
    for name in os.listdir(tmp_path.with_name("second")):
        os.replace(tmp_path.with_name("second") / name, tmp_path / name)
    assert ids(tmp_path) == ["a", "b", "b", "c", "c", "d"]
    with Parts(tmp_path, RUN, resume=True) as parts:
        assert parts.done == {"a", "b", "c", "d"}
    assert ids(tmp_path) == ["a", "b", "c", "d"]


def test_mending_that_was_killed_half_way_loses_nothing(tmp_path):
    """It had written the rest of a part, and not yet removed the part."""
    for number in range(30):  # names are checksums: the parts come in any order
        folder, ids_there = tmp_path / str(number), [f"{number} {name}" for name in "ab"]
        for other, some in enumerate(([0], [1], [0, 1])):
            write(folder / str(other), [ids_there[index] for index in some])
        for other in (1, 2):
            for part in (folder / str(other)).glob("part-*"):
                os.replace(part, folder / "0" / part.name)
        for _ in range(2):
            with Parts(folder / "0", RUN, resume=True) as parts:
                assert parts.done == set(ids_there)
            assert ids(folder / "0") == ids_there


def test_an_id_that_a_part_has_twice_counts_as_done(tmp_path):
    write(tmp_path, ["a", "b"])
    part = next(tmp_path.glob("part-*"))
    part.write_bytes(part.read_bytes() + line("a"))
    with Parts(tmp_path, RUN, resume=True) as parts:
        assert parts.done == {"a", "b"}
    assert ids(tmp_path) == ["a", "b"]


def test_a_source_that_is_no_utf8_has_a_place_in_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: ray)")
    tree = {"id": "a", "source": "caf\udce9\\udce9.wav", "text": "\\", "duration_s": 1.0, "words": []}
    body = json.dumps(tree, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    with Parts(tmp_path, RUN, format="parquet") as parts:
        parts.add("a", body)
    (result,) = read_results(tmp_path)
    assert result["source"] == "caf\\udce9\\udce9.wav"
    assert result["text"] == "\\"


def test_results_of_a_folder_without_any_are_refused(tmp_path):
    with pytest.raises(OutputError, match="mistyped: expected a folder of results, got none; check the path"):
        list(read_results(tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()
    with pytest.raises(OutputError, match=r"expected a folder of results, got one without run\.json"):
        list(read_results(tmp_path))


def test_results_are_kept_without_resume_and_replaced_with_force(tmp_path):
    write(tmp_path, ["a"])
    with pytest.raises(OutputError, match="got one with results; continue with --resume, replace them with --force"):
        Parts(tmp_path, RUN)
    write(tmp_path, ["b"], force=True)
    assert ids(tmp_path) == ["b"]


def test_results_of_other_options_are_refused(tmp_path):
    write(tmp_path, ["a"])
    with pytest.raises(ConfigError, match="expected results of the same models and options, got other models"):
        Parts(tmp_path, RUN | {"models": ["other"]}, resume=True)


def test_parts_of_another_command_are_refused(tmp_path):
    (tmp_path / "part-1.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match=r"got parts without run\.json"):
        Parts(tmp_path, RUN, resume=True)


def test_a_part_that_was_cut_short_is_named(tmp_path):
    write(tmp_path, ["a", "b"])
    part = next(tmp_path.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(OutputError, match=rf"{part.name}: expected a part with an id in each line.*remove the file"):
        Parts(tmp_path, RUN, resume=True)


def test_two_commands_do_not_write_to_one_folder(tmp_path):
    with Parts(tmp_path, RUN), pytest.raises(OutputError, match="another command is writing results to it"):
        Parts(tmp_path, RUN, resume=True)


def test_processes_that_share_recordings_write_to_one_folder(tmp_path):
    with Parts(tmp_path, RUN, shared=True) as one, Parts(tmp_path, RUN, shared=True) as other:
        one.add("a", line("a"))
        other.add("b", line("b"))
    assert ids(tmp_path) == ["a", "b"]


def test_an_error_in_the_middle_keeps_what_is_done(tmp_path):
    def fail_after(ids):
        with Parts(tmp_path, RUN) as parts:
            for id in ids:
                parts.add(id, line(id))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after(["a"])
    assert ids(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/out: cannot make the output folder"):
        Parts(tmp_path / "file" / "out", RUN)


@pytest.mark.parametrize("place", ["folder", "url"])
def test_processes_with_other_models_do_not_share_a_folder(place, tmp_path):
    folder = tmp_path / "out" if place == "folder" else f"memory://{tmp_path.name}"
    first = Parts(folder, {"models": ["a"]}, shared=True)
    with pytest.raises(ConfigError, match=r"run\.json: expected results of the same models .* got other models"):
        Parts(folder, {"models": ["b"]}, shared=True)
    with Parts(folder, {"models": ["a"]}, shared=True) as second:
        second.add("x", b'{"id": "x"}\n')
    with first:
        first.add("y", b'{"id": "y"}\n')
    assert {result["id"] for result in read_results(folder)} == {"x", "y"}


def test_two_processes_that_begin_at_the_same_moment_at_a_url_do_not_mix_models(tmp_path):
    url = f"memory://{tmp_path.name}"
    first = Parts(url, {"models": ["a"]}, shared=True)
    first.write_file("run.json", json.dumps({"parts": "jsonl", "models": ["b"]}))  # as another that saw none either
    first.add("x", b'{"id": "x"}\n')
    with pytest.raises(ConfigError, match="got other models"):
        first.flush()
    assert first.names() == []
