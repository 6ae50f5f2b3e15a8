# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does, said once: the same operation is run by the module on a host and by its action
plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.arguments import AGENT
from ansible_collections.mooring.fleet.plugins.module_utils.client import AgentError, Client

Arguments = Mapping[str, Mapping[str, Any]]
Result = dict[str, Any]


@dataclass(frozen=True)
class Mode:
    """How a task is run: `check` touches nothing, `diff` wants to see before and after."""

    check: bool = False
    diff: bool = False


@dataclass(frozen=True)
class Operation:
    """The options of a module and what it does with them.

    `constraints` are those of AnsibleModule: required_if, mutually_exclusive, … `run` raises AgentError.
    """

    arguments: Arguments
    run: Callable[[Client, Mapping[str, Any], Mode], Result]
    constraints: Mapping[str, Any] = field(default_factory=dict)

    @property
    def argument_spec(self) -> dict[str, Any]:
        """The options together with those that say where the agent is."""
        return {**AGENT, **self.arguments}


class TaskFailed(AgentError):
    """A task whose answer is a failure in itself; `result` is returned beside the sentence."""

    def __init__(self, message: str, code: str, result: Result) -> None:
        super().__init__(message, code)
        self.result = result


def failure(error: AgentError) -> Result:
    """Return a task's result for an error."""
    result: Result = dict(error.result) if isinstance(error, TaskFailed) else {}
    return {**result, "msg": error.message, "code": error.code}


def run_module(module: AnsibleModule, operation: Operation) -> None:
    """Run an operation as the module that it belongs to."""
    mode = Mode(check=module.check_mode, diff=module._diff)
    try:
        with Client(module.params["socket"], module.params["timeout"]) as client:
            result = operation.run(client, module.params, mode)
    except AgentError as error:
        module.fail_json(**failure(error))
    else:
        module.exit_json(**result)
