# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of every module: the same operation, run from the controller.

Starting a module costs a Python process on the host, and over SSH a session, too: hundreds of milliseconds
for a call that takes the agent a few. Where the agent's socket can be reached from the controller, the
operation is run right here. Everywhere else (other connection plugins, a user who may not open the socket,
`async`) the module is run on the host as any other, and answers the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible_collections.mooring.fleet.plugins.module_utils.client import AgentError, AgentUnreachable
from ansible_collections.mooring.fleet.plugins.module_utils.operation import Mode, Operation, failure
from ansible_collections.mooring.fleet.plugins.plugin_utils.reach import forget, reach


class AgentAction(ActionBase):
    """Run an operation of the agent, here if its socket can be reached and on the host if not."""

    _supports_check_mode = True
    _supports_async = True

    operation: ClassVar[Operation]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        params, secrets = self._validated()
        answer = None if self._task.async_val else self._from_here(params)
        if answer is None:
            return {**result, **self._on_the_host(task_vars)}
        return {**result, **remove_values(answer, secrets)}  # as Ansible does with a module's answer

    def _from_here(self, params: dict[str, Any]) -> dict[str, Any] | None:
        client = reach(self, params["socket"], params["timeout"])
        if client is None:
            return None
        mode = Mode(check=self._task.check_mode, diff=self._task.diff)
        try:
            answer = self.operation.run(client, params, mode)
        except AgentUnreachable:
            # Reached a moment ago, and gone before anything was asked.
            forget(client)
            return None
        except AgentError as error:
            answer = {**failure(error), "failed": True}
        return {**answer, "invocation": {"module_args": params}}

    def _on_the_host(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        wrap_async = self._task.async_val and not self._connection.has_native_async
        # A copy: Ansible adds options of its own to it, and a task that is retried keeps them.
        answer: dict[str, Any] = self._execute_module(
            module_args=self._task.args.copy(), task_vars=task_vars, wrap_async=wrap_async
        )
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer

    def _validated(self) -> tuple[dict[str, Any], set[str]]:
        """Return the options, and the values of those that are not to be shown."""
        validator = ArgumentSpecValidator(self.operation.argument_spec, **self.operation.constraints)
        checked = validator.validate(self._task.args)
        if checked.errors.errors:
            message = checked.errors.msg
            if isinstance(checked.errors[0], UnsupportedError):
                message = f"Unsupported parameters for ({self._task.action}) module: {message}"
            raise AnsibleActionFail(message)
        params: dict[str, Any] = checked.validated_parameters
        return params, set(checked._no_log_values)
