# SPDX-License-Identifier: GPL-3.0-or-later
"""The module that sends a whole host's document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.mooring.fleet.plugins.module_utils import arguments
from ansible_collections.mooring.fleet.plugins.module_utils.client import Client
from ansible_collections.mooring.fleet.plugins.module_utils.declared import difference
from ansible_collections.mooring.fleet.plugins.module_utils.operation import (
    Mode,
    Operation,
    Result,
    TaskFailed,
)


def _apply(client: Client, params: Mapping[str, Any], mode: Mode) -> Result:
    document = {section: params[section] for section in arguments.SECTIONS if params[section] is not None}
    query = {"dry_run": mode.check, "prune": params["prune"]}
    answer = client.call("PUT", "/state", document, query)
    result: Result = {"changed": answer["changed"], "resources": answer["items"]}
    if mode.diff:
        result["diff"] = [
            difference(item, f"{item['kind']} {item['name']}") for item in answer["items"] if item["changed"]
        ]
    failed = [item for item in answer["items"] if item["error"]]
    if failed:
        raise TaskFailed(_sentence(failed, len(answer["items"])), failed[0]["error"]["code"], result)
    return result


def _sentence(failed: list[dict[str, Any]], total: int) -> str:
    reasons = "; ".join(f"{item['kind']} {item['name']}: {item['error']['message']}" for item in failed)
    return f"{len(failed)} of {total} resources could not be brought to their state: {reasons}"


APPLY = Operation({**arguments.SECTIONS, "prune": {"type": "bool", "default": False}}, _apply)
