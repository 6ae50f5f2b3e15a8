# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `network_key`, run on the controller where the agent can be reached from there."""

from __future__ import annotations

from ansible_collections.mooring.fleet.plugins.module_utils.declared import NETWORK_KEY
from ansible_collections.mooring.fleet.plugins.plugin_utils.agent_action import AgentAction


class ActionModule(AgentAction):
    """See `AgentAction`."""

    operation = NETWORK_KEY
