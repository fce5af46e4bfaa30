"""URLs as text: what is one, what of it may be shown, how paths are joined."""

from __future__ import annotations

import pytest

from asr.cloud.addresses import (
    clean_text,
    identity,
    is_url,
    join_url,
    parent_url,
    real_place,
    shown_place,
    url_name,
    without_secrets,
)


@pytest.mark.parametrize("path", ["s3://b/k", "gs://b", "https://h/a.wav", "SFTP://h/a", "memory://a", "ftp://h/x"])
def test_a_scheme_makes_a_url(path):
    assert is_url(path)


@pytest.mark.parametrize("path", ["a.wav", "/a/b", "C://x", "s3:/b/k", "://x", "a b://c", 7, None, b"s3://b"])
def test_paths_are_no_urls(path):
    assert not is_url(path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://b/k.wav", "s3://b/k.wav"),
        ("s3://KEY:SECRET@b/k.wav", "s3://b/k.wav"),
        ("https://user:pass@h:8443/a.wav", "https://h:8443/a.wav"),
        ("https://token@h/a.wav", "https://h/a.wav"),
        ("https://user:p@ss@h/a.wav", "https://h/a.wav"),
        ("https://user:pa/ss@h/a.wav", "https://h/a.wav"),
        ("sftp://alice:pass@h/a.wav", "sftp://alice@h/a.wav"),
        ("sftp://alice:pa/ss@h/a.wav", "sftp://h/a.wav"),
        ("https://h/a.wav?X-Amz-Signature=abc&X-Amz-Expires=60&id=3", "https://h/a.wav?id=3"),
        ("https://h/a.wav?sv=2022&sig=abc%3D", "https://h/a.wav?sv=2022"),
        ("https://h/a.wav?t=0123456789abcdef0123456789", "https://h/a.wav"),
        ("https://h/a.wav?0123456789abcdef0123456789", "https://h/a.wav"),
        ("https://h/a.wav?access%5Ftoken=abc", "https://h/a.wav"),
        ("https://h/a@b.wav", "https://h/a@b.wav"),
        ("s3://b/a@b:c.wav", "s3://b/a@b:c.wav"),
        ("s3://b/what?.wav", "s3://b/what?.wav"),
        ("recordings/a:b@c.wav", "recordings/a:b@c.wav"),
    ],
)
def test_secrets_are_removed_and_names_stay(url, shown):
    assert without_secrets(url) == shown
    assert without_secrets(shown) == shown


def test_a_message_of_a_library_loses_the_secrets_in_it():
    environment = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_ACCESS_KEY_ID": "AKIA1234567890"}
    text = "GET 'https://u:p@h/a?sig=xyz' failed for AKIA1234567890 with wJalrXUtnFEMI"
    assert clean_text(text, environment) == (
        "GET 'https://h/a' failed for (AWS_ACCESS_KEY_ID) with (AWS_SECRET_ACCESS_KEY)"
    )


def test_a_short_value_of_the_environment_is_not_searched_for():
    assert clean_text("host down", {"AWS_SECRET_ACCESS_KEY": "s"}) == "host down"


@pytest.mark.parametrize(
    ("folder", "path", "joined"),
    [
        ("s3://b/set", "wav/a.wav", "s3://b/set/wav/a.wav"),
        ("s3://b/set", "../wav/./a.wav", "s3://b/wav/a.wav"),
        ("s3://b/set", "../../../../a.wav", "s3://b/a.wav"),
        ("s3://b", "a.wav", "s3://b/a.wav"),
        ("https://u:p@h/set?sig=1", "a.wav", "https://u:p@h/set/a.wav"),
        ("sftp://h/set", "a?.wav", "sftp://h/set/a?.wav"),
    ],
)
def test_relative_paths_stay_on_their_host_or_bucket(folder, path, joined):
    assert join_url(folder, path) == joined


def test_the_folder_of_a_url():
    assert parent_url("https://h/set/m.jsonl?sig=a/b") == "https://h/set"
    assert parent_url("s3://b/m.jsonl") == "s3://b"


def test_names_of_objects_are_those_that_people_gave_them():
    assert url_name("https://h/x/a%20b.wav?sig=1") == "a b.wav"
    assert url_name("s3://b/x/a%20b.wav") == "a%20b.wav"
    assert url_name("https://h/") == "h"


def test_places_are_absolute_paths_or_urls_without_secrets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_place("a.wav") == str(tmp_path / "a.wav")
    assert shown_place("https://u:p@h/a.wav") == "https://h/a.wav"


@pytest.mark.parametrize("url", ["https://h/..%2F..%2Fx.wav", "https://h/a/%2e%2e", "https://h/.."])
def test_a_name_leads_out_of_no_folder(url):
    assert url_name(url) in ("x.wav", "input")


@pytest.mark.parametrize(
    "names",
    [("key=a", "key=b"), ("token=a", "token=b"), ("path=recordings/of/2026/a.wav", "path=recordings/of/2026/b.wav")],
)
def test_recordings_that_differ_in_a_hidden_part_of_the_query_are_two(names):
    first, second = (f"https://h/get?{name}" for name in names)
    assert identity(first) != identity(second)
    assert real_place(first) != real_place(second)
    assert "token=a" not in real_place("https://h/get?token=a")


@pytest.mark.parametrize(
    "query", ["X-Amz-Date={0}&X-Amz-Signature={0}", "Expires={0}&Signature={0}&Key-Pair-Id=K", "sv=2022&sig={0}"]
)
def test_another_signature_is_no_other_recording(query):
    one, other = (f"https://u:{number}@h/a.wav?id=3&{query.format(number)}" for number in "12")
    assert identity(one) == identity(other)
    assert real_place(one) == real_place(other)
