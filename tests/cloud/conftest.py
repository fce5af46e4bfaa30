"""Services that tests of URLs read from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cloud_services import running_bucket


@pytest.fixture(autouse=True)
def _quickly(quick_waits: None) -> None:
    """Each test of services waits briefly."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of an S3 service (moto) that this process has the keys of."""
    with running_bucket() as url:
        yield url
