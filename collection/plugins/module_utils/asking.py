# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that ask: what a host is, which containers and networks it has, what a command inside one says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.mooring.fleet.plugins.module_utils import arguments
from ansible_collections.mooring.fleet.plugins.module_utils.client import AgentError, Client, segment
from ansible_collections.mooring.fleet.plugins.module_utils.operation import (
    Mode,
    Operation,
    Result,
    TaskFailed,
)

Params = Mapping[str, Any]


def _host_info(client: Client, params: Params, mode: Mode) -> Result:
    return {"changed": False, "host": client.call("GET", "/host")}


def _container_info(client: Client, params: Params, mode: Mode) -> Result:
    if params["name"] is None:
        containers = client.call("GET", "/containers", query={"label": params["label"]})
    else:
        containers = _one(client, params["name"])
    return {"changed": False, "containers": containers}


def _network_info(client: Client, params: Params, mode: Mode) -> Result:
    if params["names"] is None:
        networks = client.call("GET", "/networks")
    else:
        names = dict.fromkeys(params["names"])
        networks = [view for name in names for view in _one(client, name, "networks")]
    return {"changed": False, "networks": networks}


def _one(client: Client, name: str, kind: str = "containers") -> list[Any]:
    try:
        return [client.call("GET", f"/{kind}/{segment(name)}")]
    except AgentError as error:
        if error.status == 404:
            return []
        raise


def _container_exec(client: Client, params: Params, mode: Mode) -> Result:
    name, argv = params["name"], params["argv"] or _split(params["command"])
    result: Result = {"changed": True, "cmd": argv}
    if mode.check:
        return {**result, "msg": f"would have run in the container {name}: {shlex.join(argv)}"}
    request = {"argv": argv, **arguments.given(params, ("env", "workdir", "user", "stdin", "max_output"))}
    if params["command_timeout"] is not None:
        request["timeout"] = params["command_timeout"]
    answer = client.call("POST", f"/containers/{segment(name)}/exec", request)
    result.update(
        rc=answer["exit_code"],
        stdout=answer["stdout"],
        stderr=answer["stderr"],
        stdout_lines=answer["stdout"].splitlines(),
        stderr_lines=answer["stderr"].splitlines(),
        truncated=answer["truncated"],
        timed_out=answer["timed_out"],
    )
    if answer["timed_out"]:
        seconds = params["command_timeout"]
        raise TaskFailed(
            f"{argv[0]} in the container {name} ran longer than the {seconds:g} s of command_timeout and "
            "was killed",
            "timeout",
            result,
        )
    if answer["exit_code"] != 0:
        code = answer["exit_code"]
        raise TaskFailed(
            f"{argv[0]} in the container {name} ended with {code}, expected 0", "exit_code", result
        )
    return result


def _split(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise AgentError(
            f"command cannot be split into arguments ({str(error).lower()}); balance the quotes or give argv",
            "invalid",
        ) from None
    if not argv:
        raise AgentError("command is empty, expected a program and its arguments; name one", "invalid")
    return argv


HOST_INFO = Operation({}, _host_info)
CONTAINER_INFO = Operation(
    {"name": {"type": "str"}, "label": {"type": "str"}},
    _container_info,
    {"mutually_exclusive": [("name", "label")]},
)
NETWORK_INFO = Operation({"names": {"type": "list", "elements": "str"}}, _network_info)
CONTAINER_EXEC = Operation(
    {**arguments.NAME, **arguments.EXEC},
    _container_exec,
    {"mutually_exclusive": [("argv", "command")], "required_one_of": [("argv", "command")]},
)
