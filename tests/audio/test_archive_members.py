"""Members of archives as files: their bytes, faults, order, and what is asked of a service."""

from __future__ import annotations

import functools
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from archives import KINDS, make_archive
from object_server import random_errors

from asr.audio import archive_members
from asr.audio.archive_index import read_index
from asr.audio.archive_members import ArchiveStream, copy_member, is_streamed, open_member
from asr.audio.read import load_audio
from asr.errors import AudioError

QUICK = ("zip", "stored.zip", "tar", "tar.gz")
RNG = np.random.default_rng(0)
FILES = {f"deep/{number}.bin": RNG.bytes(int(RNG.integers(0, 3000))) for number in range(30)}
FILES |= {"large.bin": RNG.bytes(1_200_000), "even.bin": bytes(300_000), "empty.bin": b""}


@functools.cache
def archived(kind):
    """An archive of ``FILES``."""
    return make_archive(kind, FILES)


pytestmark = pytest.mark.usefixtures("quick_waits")


@pytest.fixture(params=["local", "web"])
def put(request, tmp_path, web):
    def write(name, data):
        if request.param == "web":
            web.files[name] = data
            return f"{web.url}/{name}"
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_memory", [1 << 24, 1000])
def test_every_member_has_its_bytes_in_any_order(kind, in_memory, put, monkeypatch):
    monkeypatch.setattr(archive_members, "IN_MEMORY", in_memory)
    index = read_index(put(f"x.{kind}", archived(kind)))
    names = list(FILES)
    for order in (names, random.Random(0).sample(names, 8)):
        for name in order:
            with open_member(index.path(name)) as file:
                assert file.read() == FILES[name]
                assert file.name == index.path(name)
    with open_member(index.path("large.bin")) as file:
        assert file.seek(-10, os.SEEK_END) == len(FILES["large.bin"]) - 10
        assert file.read(100) == FILES["large.bin"][-10:]
        file.seek(5)
        assert file.read(7) == FILES["large.bin"][5:12]


@pytest.mark.parametrize("kind", QUICK)
def test_threads_open_members_together(kind, put):
    index = read_index(put(f"x.{kind}", archived(kind)))

    def content(name):
        with open_member(index.path(name)) as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content, FILES)) == list(FILES.values())


def test_members_of_a_compressed_archive_in_their_order_take_one_reading(tmp_path, monkeypatch):
    (tmp_path / "x.tar.gz").write_bytes(archived("tar.gz"))
    index = read_index(str(tmp_path / "x.tar.gz"))
    opened = []
    whole = archive_members.open_archive
    monkeypatch.setattr(archive_members, "open_archive", lambda archive: opened.append(archive) or whole(archive))
    barrier = threading.Barrier(8)

    def content(name):
        barrier.wait(300)  # eight members at a time, in any order among them
        with open_member(index.path(name)) as file:
            return file.read()

    names = list(FILES)[:32]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content, names)) == [FILES[name] for name in names]
    assert len(opened) == 1


def test_passed_members_are_kept_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_members, "_KEPT", 3)
    (tmp_path / "x.tar.gz").write_bytes(archived("tar.gz"))
    index = read_index(str(tmp_path / "x.tar.gz"))
    stream = ArchiveStream(index.archive)
    last = list(FILES)[-1]
    stream.take(index.members[last], last)
    assert len(stream._passed._contents) == 3


@pytest.mark.parametrize("in_memory", [0, 16 << 20])
def test_a_recording_that_is_opened_twice_in_a_row_does_not_begin_the_archive_anew(in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_members, "IN_MEMORY", in_memory)
    (tmp_path / "x.tar.gz").write_bytes(archived("tar.gz"))
    index = read_index(str(tmp_path / "x.tar.gz"))
    opened = []
    whole = archive_members.open_archive
    monkeypatch.setattr(archive_members, "open_archive", lambda archive: opened.append(archive) or whole(archive))
    for name in FILES:
        with open_member(index.path(name)) as left, open_member(index.path(name)) as right:  # two channels
            assert left.read(9) == FILES[name][:9]
            assert right.read() == FILES[name]
            assert left.read() == FILES[name][9:]
    assert len(opened) == 1


def test_members_of_a_replaced_archive_are_those_of_the_new_one(tmp_path):
    path = tmp_path / "x.tar.gz"
    for letter in (b"a", b"b"):
        path.write_bytes(make_archive("tar.gz", {"1.bin": letter, "2.bin": letter, "3.bin": letter}))
        os.utime(path, ns=(letter[0], letter[0]))
        index = read_index(str(path))
        with open_member(index.path("2.bin")) as second, open_member(index.path("1.bin")) as first:
            assert first.read() + second.read() == letter * 2


@pytest.mark.parametrize("kind", ["zip", "stored.zip", "tar"])
def test_a_short_member_at_a_url_takes_one_request(kind, web):
    web.files[f"x.{kind}"] = archived(kind)
    index = read_index(f"{web.url}/x.{kind}")
    web.requests.clear()
    for number in range(5):
        with open_member(index.path(f"deep/{number}.bin")) as file:
            file.read()
    assert len(web.requests) == 5


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_errors_of_the_service_are_tried_again(kind, web):
    web.files[f"x.{kind}"] = archived(kind)
    web.fault = random_errors(0.2)
    index = read_index(f"{web.url}/x.{kind}")
    for name, data in FILES.items():
        with open_member(index.path(name)) as file:
            assert file.read() == data


@pytest.mark.parametrize("kind", QUICK)
def test_an_archive_that_changes_after_it_was_listed_is_not_read_on(kind, put):
    path = put(f"x.{kind}", archived(kind))
    index = read_index(path)
    put(f"x.{kind}", make_archive(kind, {name: data[::-1] + b"1" for name, data in FILES.items()}))
    with pytest.raises(AudioError, match="changed"):
        open_member(index.path("deep/7.bin")).read()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_server_without_ranges_is_refused_for_archives_that_are_read_in_parts(kind, web):
    web.ranges = False
    web.files[f"x.{kind}"] = archived(kind)
    with pytest.raises(AudioError, match="expected a server that sends parts of a file, got the whole; download"):
        read_index(f"{web.url}/x.{kind}")


def test_a_server_without_ranges_is_refused_for_a_tar_file_that_is_only_named_compressed(web):
    web.ranges = False
    web.files["x.tgz"] = archived("tar")
    with pytest.raises(AudioError, match="expected a server that sends parts of a file"):
        read_index(f"{web.url}/x.tgz")


def test_a_server_without_ranges_sends_a_compressed_archive(web):
    web.ranges = False
    web.files["x.tgz"] = archived("tar.gz")
    with open_member(read_index(f"{web.url}/x.tgz").path("large.bin")) as file:
        assert file.read() == FILES["large.bin"]


@pytest.mark.parametrize("kind", ["zip", "stored.zip"])
def test_a_member_whose_bytes_are_damaged_fails_alone(kind, tmp_path):
    data = bytearray(archived(kind))
    at = data.index(b"large.bin") + 200
    data[at : at + 50] = bytes(50)
    (tmp_path / "x.zip").write_bytes(data)
    index = read_index(str(tmp_path / "x.zip"))
    with pytest.raises(AudioError, match=r"x\.zip/large\.bin: "):
        open_member(index.path("large.bin"))
    with open_member(index.path("deep/4.bin")) as file:
        assert file.read() == FILES["deep/4.bin"]


def test_no_more_is_unpacked_than_the_list_says(tmp_path):
    data = bytearray(make_archive("zip", {"a.bin": bytes(5_000_000)}))
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(AudioError, match="expected 1000 bytes and the listed checksum, got more"):
        open_member(read_index(str(tmp_path / "x.zip")).path("a.bin"))


def test_a_copy_is_read_in_place_of_the_archive(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(archived("tar.gz"))
    path = copy_member(read_index(str(tmp_path / "x.tar.gz")).path("large.bin"), str(tmp_path))
    (tmp_path / "x.tar.gz").unlink()
    assert not is_streamed(path)
    with open_member(path) as file:
        assert file.read() == FILES["large.bin"]


@pytest.mark.parametrize("kind", QUICK)
def test_audio_is_read_by_a_path_through_its_archive(kind, bursts, write_wav, tmp_path):
    sound = write_wav(tmp_path / "a.wav", bursts(1.0))
    (tmp_path / f"x.{kind}").write_bytes(make_archive(kind, {"deep/a.wav": sound.read_bytes()}))
    np.testing.assert_array_equal(load_audio(tmp_path / f"x.{kind}" / "deep" / "a.wav"), load_audio(sound))
