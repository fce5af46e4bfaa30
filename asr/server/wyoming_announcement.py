"""Announces the Wyoming service on the local network, where Home Assistant finds it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator

from asr.errors import AsrError


@contextlib.asynccontextmanager
async def announced(host: str, port: int) -> AsyncIterator[None]:
    """Announce the service on the local network by multicast DNS, as Home Assistant discovers it.

    Raises ``AsrError`` without the package zeroconf, and where the address is one that other machines cannot reach.
    """
    try:
        from zeroconf import Error as ZeroconfError
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    except ImportError as error:
        raise AsrError("--zeroconf needs the package zeroconf: pip install zeroconf") from error
    own = reachable_address(host)
    kind = "_wyoming._tcp.local."
    name = f"asr-{own.replace('.', '-').replace(':', '-')}-{port}"
    info = AsyncServiceInfo(kind, f"{name}.{kind}", port=port, parsed_addresses=[own], server=f"{name}.local.")
    try:
        found = AsyncZeroconf()
        await found.async_register_service(info)
    except (OSError, ZeroconfError) as error:
        raise AsrError(f"--zeroconf: cannot announce {own}:{port}: {error}") from error
    try:
        yield
    finally:
        await found.async_unregister_service(info)
        await found.async_close()


def reachable_address(host: str) -> str:
    """The IP address at which other machines reach ``host``: its own, or this machine's where it stands for all.

    Raises ``AsrError`` for a loopback address.
    """
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        if address.is_unspecified:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("224.0.0.251", 5353))  # sends nothing: the system chooses the interface
                address = ipaddress.ip_address(probe.getsockname()[0])
    except OSError as error:
        raise AsrError(f"--zeroconf: cannot find this machine's address on the network: {error}") from error
    if address.is_loopback:
        raise AsrError(
            f"--zeroconf: expected an address that other machines can reach, got {address}; give one with --wyoming, "
            "such as 0.0.0.0:10300"
        )
    return str(address)
