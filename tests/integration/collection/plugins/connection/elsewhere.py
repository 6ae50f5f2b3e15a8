# SPDX-License-Identifier: Apache-2.0
"""A connection like `local` of which nothing is known to the collection: modules run on the host."""

from __future__ import annotations

from ansible.plugins.connection import local

DOCUMENTATION = """
name: elsewhere
short_description: The controller under another name
description: The controller under another name.
options: {}
"""


class Connection(local.Connection):  # type: ignore[misc]
    transport = "elsewhere"
