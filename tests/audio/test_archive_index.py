"""What lies where in an archive, and archives that are damaged or made to do harm."""

from __future__ import annotations

import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from archives import KINDS, add_member, make_archive

from asr.audio import archive_index
from asr.audio.archive_index import find_member, is_archive, read_index, split_archive
from asr.audio.archive_members import open_member
from asr.errors import AudioError

FILES = {"a.wav": b"first" * 100, "deep/b c.wav": os.urandom(30_000), "deep/empty.wav": b"", "ünï.wav": b"last"}


@pytest.fixture
def put(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_listed_in_its_order_with_its_size(kind, put):
    index = read_index(put(f"x.{kind}", make_archive(kind, FILES)))
    assert {name: member.size for name, member in index.members.items()} == {n: len(d) for n, d in FILES.items()}
    assert list(index.members) == list(FILES)
    assert index.problems == []


def test_an_archive_that_was_replaced_is_listed_anew(put):
    for names in (["a.wav"], ["b.wav", "c.wav"]):
        assert list(read_index(put("x.zip", make_archive("zip", dict.fromkeys(names, b"1")))).members) == names


def test_archives_whose_members_come_in_no_order_are_listed_once(put, monkeypatch):
    paths = [put(f"{number}.tar", make_archive("tar", FILES)) for number in range(12)]
    opened = []
    whole = archive_index.open_archive
    monkeypatch.setattr(archive_index, "open_archive", lambda archive: opened.append(archive) or whole(archive))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(find_member, [f"{path}/a.wav" for _ in range(3) for path in paths]))
    assert [path.member.archive for path in found] == paths * 3
    assert sorted(opened) == sorted(paths)


def test_lists_of_archives_are_kept_within_bounds(put, monkeypatch):
    monkeypatch.setattr(archive_index, "_MOST_KEPT", 40)
    indices = archive_index._Indices()
    for number in range(5):
        path = put(f"{number}.tar", make_archive("tar", FILES))
        index = indices.get(path, archive_index.archive_version(path))
        assert list(index.members) == list(FILES)
    assert len(indices._kept) == 2


def test_paths_lead_through_an_archive(put, tmp_path):
    archive = put("x.zip", make_archive("zip", FILES))
    (tmp_path / "folder.zip").mkdir()
    assert split_archive(f"{archive}/deep/b c.wav") == (archive, "deep/b c.wav")
    assert split_archive(archive) is None
    assert split_archive(str(tmp_path / "folder.zip" / "a.wav")) is None
    assert split_archive("s3://bucket/x.tar/a.wav") == ("s3://bucket/x.tar", "a.wav")
    assert split_archive("s3://bucket.zip/a.wav") is None
    assert not is_archive(str(tmp_path / "folder.zip"))
    assert find_member(f"{archive}/deep/b c.wav") == f"{archive}/deep/b c.wav"
    with pytest.raises(AudioError, match=r"x\.zip/none\.wav: no such member"):
        find_member(f"{archive}/none.wav")


def test_a_path_keeps_its_place_on_the_way_to_another_process(put):
    path = read_index(put("x.zip", make_archive("zip", FILES))).path("a.wav")
    again = pickle.loads(pickle.dumps(path))
    assert (again, again.member) == (path, path.member)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_lead_out_are_left_out_by_name(kind, put):
    files = {"../a.wav": b"1", "/etc/b.wav": b"2", "C:\\c.wav": b"3", "x/../../d.wav": b"4", "good.wav": b"5"}
    index = read_index(put(f"x.{kind}", make_archive(kind, files)))
    assert list(index.members) == ["good.wav"]
    for name in list(files)[:4]:
        assert any(repr(name) in problem for problem in index.problems)


@pytest.mark.parametrize("kind", KINDS)
def test_names_from_the_packed_folder_itself_lose_their_dot(kind, put):
    files = {"./a.wav": b"1", "./deep//b.wav": b"2", "././c.wav": b"3"}  # as of tar -C FOLDER .
    index = read_index(put(f"x.{kind}", make_archive(kind, files)))
    assert (list(index.members), index.problems) == (["a.wav", "deep/b.wav", "c.wav"], [])
    for name, data in zip(index.members, files.values(), strict=True):
        with open_member(index.path(name)) as file:
            assert file.read() == data


def test_names_in_an_old_encoding_are_no_zip_bomb(put):
    data = make_archive("stored.zip", {"M@rz@@@1.wav": b"1", "M@rz@@@2.wav": b"2"})
    data = data.replace(b"M@rz@@@", "Märzöüß".encode("cp437"))
    index = read_index(put("x.zip", data))
    assert (list(index.members), index.problems) == (["Märzöüß1.wav", "Märzöüß2.wav"], [])


def test_links_and_devices_are_left_out_by_name(put):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_member(tar, "link.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add_member(tar, "hard.wav", type=tarfile.LNKTYPE, linkname="good.wav")
        add_member(tar, "device.wav", type=tarfile.CHRTYPE)
        add_member(tar, "good.wav", b"1")
    index = read_index(put("x.tar", buffer.getvalue()))
    assert list(index.members) == ["good.wav"]
    assert [problem.split("'")[1] for problem in index.problems] == ["link.wav", "hard.wav", "device.wav"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.wav")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.wav", b"1")
    index = read_index(put("y.zip", buffer.getvalue()))
    assert list(index.members) == ["good.wav"]
    assert "link.wav" in index.problems[0]


def test_a_name_that_comes_twice_is_told(put):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_member(tar, "a.wav", b"1")
        add_member(tar, "a.wav", b"22")
    index = read_index(put("x.tar", buffer.getvalue()))
    assert index.members["a.wav"].size == 1
    assert "a.wav: is there twice" in index.problems[0]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
def test_an_archive_that_is_cut_short_keeps_what_is_whole_and_is_named(kind, put):
    files = {f"{number}.wav": os.urandom(100_000) for number in range(8)}
    data = make_archive(kind, files)
    index = read_index(put(f"x.{kind}", data[: len(data) * 5 // 8]))
    assert list(index.members) == list(files)[: len(index.members)]
    assert len(index.members) in (4, 5)
    assert len(index.problems) == 1
    assert f"x.{kind}: " in index.problems[0]


def test_a_tar_file_cut_between_two_members_is_named(put):
    data = make_archive("tar", {"a.wav": bytes(512), "b.wav": bytes(512)})
    index = read_index(put("x.tar", data[:1024]))
    assert list(index.members) == ["a.wav"]
    assert "cut short or damaged behind 'a.wav'" in index.problems[0]


def test_a_checksum_of_the_compression_that_is_wrong_is_told(put):
    data = bytearray(make_archive("tar.gz", FILES))
    data[-6] ^= 1
    assert "CRC check failed" in read_index(put("x.tar.gz", bytes(data))).problems[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"no archive", bytes(2000)])
def test_what_is_no_archive_is_named(kind, content, put):
    path = put(f"x.{kind}", content)
    if kind.startswith("tar") and not content.strip(b"\0"):
        assert not content or read_index(path).members == {}  # a tar file of zeros holds nothing
        if content:
            return
    with pytest.raises(AudioError, match=rf"x\.{kind}: "):
        read_index(path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.bz2"])
def test_the_content_says_what_an_archive_is(kind, name, put):
    index = read_index(put(name, make_archive(kind, FILES)))
    assert (list(index.members), index.problems) == (list(FILES), [])
    for member, data in FILES.items():
        with open_member(index.path(member)) as file:
            assert file.read() == data


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_second_tar_file_behind_the_first_is_told(kind, put):
    data = make_archive(kind, {"a.wav": b"1"}) + make_archive(kind, {"b.wav": b"2"})
    index = read_index(put(f"x.{kind}", data))
    assert list(index.members) == ["a.wav"]
    assert "got more bytes behind its end, which are not read" in index.problems[0]


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"none\.zip: cannot read the archive: No such file"):
        read_index(str(tmp_path / "none.zip"))


def test_a_compressed_archive_that_unpacks_to_far_more_than_its_size_is_refused(put, monkeypatch):
    monkeypatch.setattr(archive_index, "MOST_UNPACKED", 100_000)
    files = {f"{number}.wav": bytes(90_000) for number in range(200)}
    with pytest.raises(AudioError, match=r"bomb\.zip: expected at most 200 times its size"):
        read_index(put("bomb.zip", make_archive("zip", files)))
    index = read_index(put("bomb.tar.gz", make_archive("tar.gz", files)))
    assert "bomb.tar.gz: expected at most 200 times its size" in index.problems[0]
    assert len(index.members) < 100


def test_a_member_that_unpacks_to_too_much_is_left_out(put, monkeypatch):
    monkeypatch.setattr(archive_index, "MOST_UNPACKED", 100_000)
    noise = os.urandom(200_000)
    for kind in ("zip", "tar.gz"):
        index = read_index(put(f"x.{kind}", make_archive(kind, {"large.wav": noise, "a.wav": b"1"})))
        assert list(index.members) == ["a.wav"]
        assert "'large.wav' was left out" in index.problems[0]


def test_members_of_a_zip_file_that_lie_over_each_other_are_refused(put):
    data = bytearray(make_archive("stored.zip", {"a.wav": bytes(1000), "b.wav": bytes(1000)}))
    directory = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, directory + 42, 0)  # the second header is said to be the first
    with pytest.raises(AudioError, match="reaches into the next"):
        read_index(put("x.zip", bytes(data)))


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_texts_that_would_fill_the_memory_are_refused(kind, put, monkeypatch):
    monkeypatch.setattr(archive_index, "MOST_TEXTS", 100_000)
    files = {f"{number}.json": bytes(30_000) for number in range(10)}
    index = read_index(put(f"x.{kind}", make_archive(kind, files)))
    assert "MB of texts (.json, .txt) in an archive, got more" in index.problems[0]
    assert sum(map(len, index.texts.values())) <= 100_000


def test_a_stored_member_of_two_sizes_is_left_out(put):
    data = bytearray(make_archive("stored.zip", {"a.wav": bytes(100), "b.wav": b"2"}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 20, 99)  # its size in the archive
    index = read_index(put("x.zip", bytes(data)))
    assert list(index.members) == ["b.wav"]
    assert "'a.wav' was left out: damaged: expected 100 bytes, got 99" in index.problems[0]


def test_an_encrypted_member_is_left_out_by_name(put):
    data = bytearray(make_archive("zip", {"a.wav": b"1", "b.wav": b"2"}))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    index = read_index(put("x.zip", bytes(data)))
    assert list(index.members) == ["b.wav"]
    assert "'a.wav' was left out: it is encrypted" in index.problems[0]


def test_a_header_of_impossible_size_is_refused(put):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_member(tar, "a.wav", b"1")
        header = tarfile.TarInfo("long")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
        tar.fileobj.write(header.tobuf(tarfile.GNU_FORMAT))
    assert "a header of" in read_index(put("x.tar", buffer.getvalue())).problems[0]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_turned_never_raise_anything_else(kind, put):
    import random

    data = make_archive(kind, {f"{number}.wav": os.urandom(300) for number in range(5)})
    rng = random.Random(0)
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 3, 30))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            index = read_index(put(f"x.{kind}", bytes(broken)))
        except AudioError:
            continue
        assert all(isinstance(problem, str) for problem in index.problems)
