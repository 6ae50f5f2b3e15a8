# SPDX-License-Identifier: Apache-2.0
"""`mooring agent`: the daemon in the foreground, until SIGTERM or SIGINT; its containers run on."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import resource
import signal

from ..api.access.policy import Policy
from ..api.application import Application
from ..api.logformat import configure
from ..api.server import Server
from ..api.tls.settings import TlsSettings
from ..config import AgentConfig
from ..engine.engine import Engine
from .settings import agent_settings

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Run the agent. Raises MooringError if it cannot start."""
    settings = agent_settings(arguments)
    configure(settings.pop("log_level", "info"))
    config = AgentConfig.make(**settings)
    _allow_many_descriptors()
    _return_memory()
    asyncio.run(_serve(config))
    return 0


_COLLECT_AFTER = 20_000  # objects

# <malloc.h>, mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 128 << 10  # bytes; glibc raises it for good to the largest block that was ever freed


def _allow_many_descriptors() -> None:
    """Every client and every follower takes some; the soft limit is for users of select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _return_memory() -> None:
    """Have the C library give back what transfers used: large blocks by themselves, all else in one heap."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


async def _serve(config: AgentConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    tls = None if config.tls is None else TlsSettings.parse(config.tls)
    policy = None if config.access is None else Policy.parse(config.access)
    server = Server(config.socket, config.socket_group, tls)
    try:
        engine = Engine(config)
        await engine.start()
        try:
            await server.start(Application.of(engine, policy))
            # What is there now stays: the collector need not walk it again and again. A request makes some
            # thousand objects, nearly all of which go with their last reference.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER)
            await stopping.wait()
            log.info("stopping")
        finally:
            engine.execs.leaving = True
            await server.stop()
            await engine.stop()
    finally:
        await server.stop()
    log.info("stopped")
