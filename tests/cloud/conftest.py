"""Services that tests of URLs read from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cloud_services import running_bucket
from object_server import Objects, serving

from asr.cloud import filesystems, retries


@pytest.fixture(autouse=True)
def quick_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait a hundredth of their time."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.02)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of an S3 service (moto) that this process has the keys of."""
    with running_bucket() as url:
        yield url


@pytest.fixture
def web() -> Iterator[Objects]:
    """A web server without files."""
    with serving(Objects()) as objects:
        yield objects
    filesystems.forget_connections()
