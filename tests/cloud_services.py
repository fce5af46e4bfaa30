"""An S3 service for tests: moto's server, in this process."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from asr.cloud import filesystems

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "secretsecretsecretsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_environment(endpoint: str) -> Iterator[None]:
    """The variables that lead S3 clients of this process, and of those that it starts, to ``endpoint``."""
    with mock.patch.dict(os.environ, KEYS | {"AWS_ENDPOINT_URL": endpoint}):
        filesystems.forget_connections()
        yield
    filesystems.forget_connections()


@contextmanager
def running_bucket(name: str = "speech") -> Iterator[str]:
    """The URL of an empty bucket, which is there during the block."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        # moto keeps the buckets of all its servers in this process.
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
        with s3_environment(f"http://{host}:{port}"):
            filesystems.locate(f"s3://{name}/x").service.mkdir(name)
            yield f"s3://{name}"
    finally:
        server.stop()
