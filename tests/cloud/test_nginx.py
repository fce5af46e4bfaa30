"""Inputs behind https and basic authentication of nginx, which the tests start where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from archives import make_archive
from free_ports import free_port

LARGE = np.random.default_rng(0).bytes(3_000_000)
MEMBERS = {f"deep/{number}.bin": LARGE[number : number + 50_000] for number in range(5)}
CONF = """
daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
    root {root}/files; autoindex on;
    location /private/ {{ auth_basic "private"; auth_basic_user_file {root}/users; }}
  }}
}}
"""
SCRIPT = """
import hashlib, json, sys
from asr.audio.archive_index import read_index
from asr.audio.archive_members import open_member
from asr.cloud.inputs import list_inputs, open_input, read_whole
from asr.errors import CloudError
from asr.recognize.batch_inputs import find_jobs
url = sys.argv[1]
digest = lambda data: hashlib.sha256(data).hexdigest()
found = {"listed": sorted(file.path for file in list_inputs(url + "/set/"))}
found["large"] = digest(read_whole(url + "/set/large.bin"))
with open_input(url + "/set/large.bin") as file:
    file.seek(-10, 2)
    found["end"] = digest(file.read())
for kind in ("zip", "tar", "tar.gz"):
    index = read_index(f"{url}/x.{kind}")
    found[kind] = {name: digest(open_member(index.path(name)).read()) for name in index.members}
found["jobs"] = [job.id for job in find_jobs([url + "/set/"])[0]]
try:
    read_whole(url + "/private/a")
except CloudError as error:
    found["refused"] = str(error)
found["allowed"] = read_whole(url.replace("://", "://alice:geheim@") + "/private/a").decode()
print(json.dumps(found))
"""


def digest(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of nginx, and the certificate to trust."""
    daemon = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if daemon is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    root = tmp_path_factory.mktemp("nginx")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", root / "key.pem", "-out", root / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (root / "users").write_text("alice:{PLAIN}geheim\n")
    files = {"set/large.bin": LARGE, "set/deep/b c.wav": b"12", "set/a.wav": b"1", "private/a": b"secret"}
    files |= {f"x.{kind}": make_archive(kind, MEMBERS) for kind in ("zip", "tar", "tar.gz")}
    for name, data in files.items():
        (root / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "files" / name).write_bytes(data)
    port = free_port()
    (root / "nginx.conf").write_text(CONF.format(root=root, port=port))
    process = subprocess.Popen([daemon, "-p", root, "-c", root / "nginx.conf"], stderr=subprocess.PIPE)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            pytest.skip(f"nginx does not start here: {process.stderr.read().decode()[-200:]}")
        time.sleep(0.1)
    yield f"https://localhost:{port}", root / "cert.pem"
    process.kill()
    process.wait()
    process.stderr.close()


def test_folders_objects_and_archives_are_read_by_https_from_nginx(server):
    url, certificate = server
    # In a process of its own: certificates to trust are read once.
    environment = os.environ | {"SSL_CERT_FILE": str(certificate), "NETRC": os.devnull}
    done = subprocess.run([sys.executable, "-c", SCRIPT, url], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["listed"] == ["a.wav", "deep/b c.wav", "large.bin"]
    assert (found["large"], found["end"]) == (digest(LARGE), digest(LARGE[-10:]))
    for kind in ("zip", "tar", "tar.gz"):
        assert found[kind] == {name: digest(data) for name, data in MEMBERS.items()}
    assert found["jobs"] == ["a.wav", "deep/b c.wav"]
    assert "access denied" in found["refused"]
    assert found["allowed"] == "secret"


def test_a_certificate_that_is_not_trusted_is_refused_at_once(server):
    from asr.cloud.inputs import open_input
    from asr.errors import CloudError

    with pytest.raises(CloudError, match=r"https://localhost:\d+/set/a\.wav: cannot be read: .*certificate"):
        open_input(f"{server[0]}/set/a.wav")
