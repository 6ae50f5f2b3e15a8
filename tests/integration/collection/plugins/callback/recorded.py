# SPDX-License-Identifier: Apache-2.0
"""An Ansible callback that writes each task's results to the file that RECORDED_RESULTS names, a line
each."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorded
type: notification
short_description: Record results
description: Writes the results of tasks as JSON lines.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorded"

    def _write(self, status: str, result: Any) -> None:
        with open(os.environ["RECORDED_RESULTS"], "a") as file:
            line = {
                "task": result.task_name,
                "host": result._host.get_name(),
                "status": status,
                "result": result._result,
                "item": result._result.get("item"),
            }
            file.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write("skipped", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        with open(os.environ["RECORDED_RESULTS"], "a") as file:
            for host in sorted(stats.processed):
                file.write(
                    json.dumps({"host": host, "status": "stats", "result": stats.summarize(host)}) + "\n"
                )
