"""Objects behind OpenSSH's server, which the tests start where it is installed."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from free_ports import free_port

from asr.cloud import filesystems
from asr.cloud.inputs import input_exists, is_folder, list_inputs, open_input, read_whole, write_whole
from asr.errors import CloudError

LARGE = np.random.default_rng(0).bytes(7_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a folder on a server that this user may log in to with a key, and the home with that key."""
    daemon = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if daemon is None or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd or ssh-keygen is not installed (openssh-server)")
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    for name in ("host", "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh" / name], check=True)
    port = free_port()
    config = home / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/.ssh/host\nAuthorizedKeysFile {home}/.ssh/id_ed25519.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        "Subsystem sftp internal-sftp\n"
    )
    public = (home / ".ssh" / "host.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([daemon, "-D", "-e", "-f", config], stderr=subprocess.PIPE)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {process.stderr.read().decode()[-200:]}")
        time.sleep(0.1)
    folder = home / "files"
    folder.mkdir()
    yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{folder}", home
    process.kill()
    process.wait()
    process.stderr.close()


@pytest.fixture
def place(server, monkeypatch):
    """The URL; the user's home is that of the fixture."""
    url, home = server
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    filesystems.forget_connections()
    yield url
    filesystems.forget_connections()


def test_objects_are_written_listed_and_read(place):
    write_whole(f"{place}/large.bin", LARGE)
    write_whole(f"{place}/a b.wav", b"12")
    assert read_whole(f"{place}/large.bin") == LARGE
    assert sorted((file.path, file.size) for file in list_inputs(place)) == [("a b.wav", 2), ("large.bin", len(LARGE))]
    assert is_folder(place)
    assert not is_folder(f"{place}/a b.wav")
    assert not input_exists(f"{place}/none")


def test_an_object_that_changes_under_its_reader_is_named(place, server):
    write_whole(f"{place}/changes", LARGE)
    with open_input(f"{place}/changes") as file:
        (server[1] / "files" / "changes").write_bytes(LARGE[:-1])
        file.seek(6_000_000)
        with pytest.raises(CloudError, match="the object changed while it was read"):
            file.read(10)


def test_many_threads_read_at_once(place):
    write_whole(f"{place}/shared", LARGE)
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_whole(f"{place}/shared"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [LARGE] * 12


def test_a_missing_object_and_a_folder_are_named(place):
    with pytest.raises(CloudError, match="/none: no such object"):
        read_whole(f"{place}/none")


def test_a_server_that_is_not_known_is_refused(place, server):
    known = server[1] / ".ssh" / "known_hosts"
    text = known.read_text()
    known.write_text("")
    try:
        with pytest.raises(CloudError, match="known_hosts"):
            read_whole(f"{place}/none")
    finally:
        known.write_text(text)


def test_a_refused_login_says_what_to_do_without_the_password(place):
    with pytest.raises(CloudError, match=r"refused the login.*~/\.ssh") as caught:
        read_whole(place.replace("sftp://", "sftp://nobody:geheim@").replace(f"{getpass.getuser()}@127", "127") + "/a")
    assert "geheim" not in str(caught.value)
