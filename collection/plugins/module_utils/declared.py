# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that say what should be: one call of the agent, which answers what it did or, in check mode, would
do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.mooring.fleet.plugins.module_utils import arguments
from ansible_collections.mooring.fleet.plugins.module_utils.client import Client, segment
from ansible_collections.mooring.fleet.plugins.module_utils.operation import Mode, Operation, Result

Params = Mapping[str, Any]


def task_result(outcome: Mapping[str, Any], name: str, mode: Mode, **extra: Any) -> Result:
    """Return a task's result for the agent's outcome; `name` heads the diff."""
    result: Result = {"changed": outcome["changed"], "actions": outcome["actions"], **extra}
    if mode.diff:
        result["diff"] = difference(outcome, name)
    return result


def difference(outcome: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the diff of an outcome as Ansible shows it; what is absent is empty."""
    return {
        "before_header": name,
        "after_header": name,
        "before": outcome["before"] or "",
        "after": outcome["after"] or "",
    }


def _container(client: Client, params: Params, mode: Mode) -> Result:
    path = f"/containers/{segment(params['name'])}"
    if params["state"] == "absent":
        query = {"force": True, "timeout": params["stop_timeout"], "dry_run": mode.check}
        outcome = client.call("DELETE", path, query=query)
    else:
        spec = arguments.given(params, arguments.CONTAINER)
        outcome = client.call("PUT", path, spec, {"dry_run": mode.check})
    return task_result(outcome, f"container {params['name']}", mode, container=outcome["result"])


def _simple(kind: str, table: arguments.Arguments) -> Callable[[Client, Params, Mode], Result]:
    def run(client: Client, params: Params, mode: Mode) -> Result:
        path = f"/{kind}s/{segment(params['name'])}"
        if params["state"] == "absent":
            outcome = client.call("DELETE", path, query={"dry_run": mode.check})
        else:
            outcome = client.call("PUT", path, arguments.given(params, table), {"dry_run": mode.check})
        return task_result(outcome, f"{kind} {params['name']}", mode, **{kind: outcome["result"]})

    return run


def _network_key(client: Client, params: Params, mode: Mode) -> Result:
    path, renew = "/host/network-key", params["renew"]
    answer = client.call("POST", f"{path}/renew") if renew and not mode.check else client.call("GET", path)
    return {"changed": renew, "public_key": answer["public_key"]}


CONTAINER = Operation(
    {**arguments.NAME, **arguments.CONTAINER},
    _container,
    {"required_if": [("state", "running", ["image"]), ("state", "stopped", ["image"])]},
)
NETWORK = Operation(
    {**arguments.NAME, **arguments.PRESENCE, **arguments.NETWORK}, _simple("network", arguments.NETWORK)
)
NETWORK_KEY = Operation({"renew": {"type": "bool", "default": False}}, _network_key)
CGROUP = Operation(
    {**arguments.NAME, **arguments.PRESENCE, **arguments.CGROUP}, _simple("cgroup", arguments.CGROUP)
)
