# SPDX-License-Identifier: Apache-2.0
"""A network service in a process of its own, which a test starts inside a host's namespace and may kill.

`agent_process.py BASE PREFIX`: reads calls from stdin, a JSON list [method, args, kwargs] a line, and answers
each with a line {"result": …} or {"error": [class, message]}. Two are no methods of the service: `terms` says
what a container is allowed, [container, {network: limits}, [networks where it is trusted]], and `rename` what
it is called.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import operator
import sys
from pathlib import Path
from typing import Any

from mooring_agent.config import AgentConfig
from mooring_agent.engine.resources import PortMapping
from mooring_agent.errors import MooringError
from mooring_agent.network.records import IPAddress, IPNetwork, Network
from mooring_agent.network.service import NetworkService
from mooring_agent.network.shaping import Limits
from mooring_agent.network.traffic import PLAIN_TERMS, Terms
from mooring_agent.state.database import Database


def plain(value: Any) -> Any:
    """JSON of what a service's method returns."""
    if isinstance(value, Network):
        return value.view()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, IPNetwork | IPAddress):
        return str(value)
    return value


TERMS: dict[str, Terms] = {}
NAMES: dict[str, str] = {}


def rename(service: NetworkService, container_id: str, name: str) -> None:
    NAMES[container_id] = name
    service.renamed()


def set_terms(
    container_id: str, limits: dict[str, dict[str, int]], trusted: list[str], traffic_class: str = ""
) -> None:
    by_network = {network: Limits(**values) for network, values in limits.items()}
    TERMS[container_id] = Terms(by_network, frozenset(trusted), traffic_class)


async def answer(service: NetworkService, call: str) -> dict[str, Any]:
    method, args, kwargs = json.loads(call)
    if method == "connect":
        [endpoint] = [item for item in service.endpoints(args[0]) if item.network == args[1]]
        args = [endpoint, *args[2:]]
    elif method == "change_terms":
        args = [*args, TERMS.get(args[0], PLAIN_TERMS)]
    elif method == "reroute":
        args[0] = service.endpoints(args[0])
    elif method == "publish":
        args[1] = [PortMapping(**mapping) for mapping in args[1]]
    elif method == "terms":
        return {"result": set_terms(*args)}
    elif method == "rename":
        return {"result": rename(service, *args)}
    try:
        result = operator.attrgetter(method)(service)(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
    except MooringError as error:
        return {"error": [type(error).__name__, error.message]}
    return {"result": plain(result)}


async def main(base: Path, prefix: str) -> None:
    config = AgentConfig.make(data_root=base / "data", run_root=base / "run", network_prefix=prefix)
    callbacks = (lambda id: NAMES.get(id, f"name of {id}")), (lambda id: TERMS.get(id, PLAIN_TERMS))
    service = NetworkService(config, Database(base / "data" / "state.db"), *callbacks)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(service, line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
