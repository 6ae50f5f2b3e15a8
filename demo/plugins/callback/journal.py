# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (found by Ansible, in a directory that is no package)
"""An Ansible callback that writes what each task said to the file DEMO_JOURNAL, in lines of JSON."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: journal
type: notification
short_description: Write results of tasks to a file
description:
  - Writes a line of JSON for each result of a task, and one for the totals of each host, to the file that the
    environment variable E(DEMO_JOURNAL) names. Without it nothing is written.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The journal."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "journal"

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a task that went well."""
        self._note({"host": result._host.get_name(), "task": result.task_name, "result": result._result})

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Note the totals."""
        for host in sorted(stats.processed):
            self._note({"host": host, "totals": stats.summarize(host)})

    def _note(self, line: dict[str, Any]) -> None:
        path = os.environ.get("DEMO_JOURNAL")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, default=str) + "\n")
