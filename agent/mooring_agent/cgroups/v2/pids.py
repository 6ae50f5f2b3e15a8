# SPDX-License-Identifier: Apache-2.0
"""The pids controller, version 2 (Documentation/admin-guide/cgroup-v2.rst, "PID"): the same file as in
version 1."""

from __future__ import annotations

from ..v1.pids import FILES, MAX, NAME, explain, parse, plan, settings

__all__ = ["FILES", "MAX", "NAME", "explain", "parse", "plan", "settings"]
