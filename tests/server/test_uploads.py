"""Forms with a file, in whatever pieces they arrive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.server.api_errors import ApiError
from asr.server.settings import ServerLimits
from asr.server.uploads import received_form, safe_name

KIND = "multipart/form-data; boundary=----edge"
CONTENT = b"RIFF\r\n------edg\r\n-- \x00\xff" * 50


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    head = f'------edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = b"------edge--\r\n"
FORM = part("model", b"an4") + part("file", CONTENT, "a.wav") + part("keywords[]", "ÄRGER".encode()) + END


def receive(data: bytes, step: int = 7, kind: str = KIND, limits: ServerLimits | None = None, stall: bool = False):
    """The fields, name and content of a form that arrives ``step`` bytes at a time; the path of its file, now gone."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), step):
            yield data[start : start + step]
        if stall:
            await asyncio.sleep(60)

    async def run():
        async with received_form(kind, chunks(), limits or ServerLimits()) as form:
            with open(form.path, "rb") as file:
                content = file.read()
            assert len(content) == form.size
        return form.fields, form.name, content, form.path

    return asyncio.run(run())


def refusal(*args, **kwargs) -> ApiError:
    with pytest.raises(ApiError) as caught:
        receive(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10**6])
def test_pieces_of_any_size_give_the_same_form(step):
    fields, name, content, _ = receive(FORM, step)
    assert fields == [("model", "an4"), ("keywords[]", "ÄRGER")]
    assert (name, content) == ("a.wav", CONTENT)


def test_the_temporary_file_is_removed():
    assert not os.path.exists(receive(FORM)[3])


def test_the_temporary_file_of_a_refused_form_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refusal(FORM[:-20])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [1, 60, 200, len(FORM) - 40, len(FORM) - 8])
def test_a_truncated_form_is_refused(length):
    error = refusal(FORM[:length])
    assert (error.status, error.code) == (400, "truncated_upload")


def test_a_file_beyond_the_limit_is_refused():
    error = refusal(FORM, limits=ServerLimits(file_bytes=len(CONTENT) - 1))
    assert (error.status, error.param) == (413, "file")


def test_a_file_at_the_limit_is_taken():
    assert receive(FORM, limits=ServerLimits(file_bytes=len(CONTENT)))[2] == CONTENT


def test_an_empty_file_is_refused():
    error = refusal(part("file", b"", "a.wav") + END)
    assert (error.status, error.param) == (400, "file")
    assert "got an empty file" in error.message


def test_a_form_without_a_file_is_refused():
    assert refusal(part("model", b"an4") + END).param == "file"


def test_a_file_without_a_name_is_told_apart_from_none():
    error = refusal(part("file", CONTENT[:9]) + END)
    assert (error.status, error.param) == (400, "file")
    assert error.message == "file: expected a part with a file name, got a text field"


def test_several_files_are_refused():
    assert "expected one file" in refusal(part("file", b"1", "a") + part("file", b"2", "b") + END).message


def test_a_file_in_another_field_is_refused():
    assert refusal(part("model", b"1", "a.wav") + END).param == "model"


def test_an_unknown_field_is_refused_before_the_file_is_read():
    error = refusal(part("speaker", b"1") + part("file", CONTENT, "a.wav"))
    assert (error.param, error.code) == ("speaker", "unknown_parameter")


@pytest.mark.parametrize("kind", ["application/json", "audio/wav", "", "multipart/mixed; boundary=a"])
def test_what_is_no_form_is_refused(kind):
    assert refusal(FORM, kind=kind).status == 415


def test_a_form_without_a_boundary_is_refused():
    assert refusal(FORM, kind="multipart/form-data").status == 400


def test_a_damaged_form_is_refused_and_leaves_the_log_empty(caplog):
    assert "got a damaged one" in refusal(b"no form at all").message
    assert caplog.records == []


def test_a_long_text_field_is_refused():
    assert refusal(part("prompt", b"x" * 70_000) + END, 4096).param == "prompt"


def test_too_many_fields_are_refused():
    limits = ServerLimits(hot_words=1)
    assert "at most 65 fields" in refusal(part("keywords[]", b"x") * 66 + END, 4096, limits=limits).message


def test_text_that_is_no_utf_8_is_refused():
    error = refusal(part("prompt", b"Ann\xff\xfe") + END)
    assert (error.param, error.message) == ("prompt", "prompt: expected text in UTF-8, got byte 0xff at 3")


def test_an_upload_that_pauses_too_long_is_refused():
    assert refusal(FORM[:-20], limits=ServerLimits(idle_s=0.05), stall=True).status == 408


def test_an_upload_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("asr.server.uploads.UPLOAD_S", 0.05)
    error = refusal(FORM[:-20], stall=True)
    assert (error.status, "whole upload" in error.message) == (408, True)


def test_a_full_disk_is_told(monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.server.uploads._write", full)
    error = refusal(FORM)
    assert (error.status, "No space left" in error.message) == (507, True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\voice.wav", "voice.wav"),
        ("/", "audio"),
        ("..", "audio"),
        ("a\x00b\nc.wav", "a_b_c.wav"),
        ("x" * 300 + ".wav", "x" * 116 + ".wav"),
    ],
)
def test_a_name_never_leads_to_another_folder(name, expected):
    assert safe_name(name) == expected


def test_an_encoded_file_name_is_understood():
    head = b"------edge\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''na%C3%AFve.wav\r\n\r\n"
    assert receive(head + CONTENT + b"\r\n" + END)[1] == "naïve.wav"


@given(st.lists(st.tuples(st.integers(0, len(FORM) - 1), st.binary(max_size=3)), min_size=1, max_size=4), st.data())
def test_a_damaged_form_is_understood_or_refused(damages, data):
    damaged = bytearray(FORM)
    for place, replacement in damages:
        damaged[place : place + data.draw(st.integers(0, 40))] = replacement
    refused = None
    try:
        _, name, content, _ = receive(bytes(damaged), 100)
    except ApiError as error:
        refused = error
    assert refused.status in (400, 413) if refused else content and "/" not in name
