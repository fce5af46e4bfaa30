"""Reports are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr.errors import AsrError
from asr.files import write_json, write_text


def test_json_is_indented_utf8_and_a_lone_surrogate_is_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"name": "é\udce9"})
    assert (tmp_path / "new" / "a.json").read_bytes() == '{\n  "name": "é\\udce9"\n}\n'.encode()
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"name": "é\udce9"}


def test_a_disk_that_is_full_leaves_the_old_report(tmp_path: Path) -> None:
    texts = "".join(f"u{i} WORDS OF A SENTENCE {i}\n" for i in range(200))
    (tmp_path / "r").write_text(texts)
    (tmp_path / "old.json").write_text("{}\n")
    command = f'ulimit -f 2; exec "{sys.executable}" -m asr.cli score r r --json old.json'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "old.json: cannot write: File too large" in done.stderr
    assert (tmp_path / "old.json").read_text() == "{}\n"
    assert sorted(os.listdir(tmp_path)) == ["old.json", "r"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_text(tmp_path / "link", "new\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new\n"


def test_pipes_and_devices_are_written_and_stay() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from asr.files import write_text; write_text('/dev/stdout', 'a\\n')"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a\n"
    write_text("/dev/null", "a")
    assert Path("/dev/null").is_char_device()


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AsrError, match="cannot write: Is a directory"):
        write_text(tmp_path, "a")
