# SPDX-License-Identifier: Apache-2.0
"""What the modules document is what they take, and what they take is what the agent's specs know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.plugin_docs import read_docstring
from ansible_collections.mooring.fleet.plugins.doc_fragments import agent, credentials, health, limits, log
from ansible_collections.mooring.fleet.plugins.module_utils import (
    arguments,
    asking,
    declared,
    document,
    images,
)
from ansible_collections.mooring.fleet.plugins.module_utils.operation import Operation

from mooring_agent.engine.resources import (
    CgroupSpec,
    ContainerSpec,
    Declared,
    Healthcheck,
    NetworkSpec,
    options_of,
)
from mooring_agent.engine.resources.logdrivers import LogOptions
from mooring_agent.engine.resources.state import SECTIONS

COLLECTION = Path(__file__).parents[3] / "collection"
FRAGMENTS = {
    f"mooring.fleet.{fragment.__name__.rpartition('.')[2]}": fragment.ModuleDocFragment
    for fragment in (agent, credentials, health, limits, log)
}
OPERATIONS: dict[str, Operation] = {
    "apply": document.APPLY,
    "cgroup": declared.CGROUP,
    "container": declared.CONTAINER,
    "container_exec": asking.CONTAINER_EXEC,
    "container_info": asking.CONTAINER_INFO,
    "host_info": asking.HOST_INFO,
    "image": images.IMAGE,
    "image_info": images.IMAGE_INFO,
    "image_prune": images.IMAGE_PRUNE,
    "network": declared.NETWORK,
    "network_info": asking.NETWORK_INFO,
    "network_key": declared.NETWORK_KEY,
}


def documented(module: str) -> dict[str, Any]:
    """Return the options that a module documents, those of its fragments among them."""
    parts = read_docstring(str(COLLECTION / "plugins" / "modules" / f"{module}.py"))
    options = dict(parts["doc"].get("options") or {})
    for name in parts["doc"]["extends_documentation_fragment"]:
        options |= yaml.safe_load(FRAGMENTS[name].DOCUMENTATION)["options"]
    return options


def shape(options: dict[str, Any], nested: str) -> dict[str, Any]:
    """Return what a table of options and its documentation have to agree on."""
    return {
        name: {
            "type": option.get("type", "str"),
            "elements": option.get("elements"),
            "required": option.get("required", False),
            "choices": option.get("choices"),
            "default": option.get("default"),
            "options": shape(option[nested], nested) if nested in option else None,
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("module", OPERATIONS)
def test_a_module_documents_what_it_takes(module: str) -> None:
    assert shape(documented(module), "suboptions") == shape(OPERATIONS[module].argument_spec, "options")


@pytest.mark.parametrize("module", OPERATIONS)
def test_a_module_has_examples_and_says_what_it_returns(module: str) -> None:
    parts = read_docstring(str(COLLECTION / "plugins" / "modules" / f"{module}.py"))

    examples = yaml.safe_load(parts["plainexamples"])
    assert any(f"mooring.fleet.{module}" in task for task in examples)
    assert all(task["name"] for task in examples)
    assert "code" in parts["returndocs"]


@pytest.mark.parametrize(
    ("table", "spec"),
    [
        (arguments.CONTAINER, ContainerSpec),
        (arguments.CONTAINER["log"]["options"], LogOptions),
        (arguments.CONTAINER["healthcheck"]["options"], Healthcheck),
        (arguments.NETWORK, NetworkSpec),
        (arguments.CGROUP, CgroupSpec),
    ],
    ids=["container", "log", "healthcheck", "network", "cgroup"],
)
def test_a_module_takes_every_option_of_the_agent(table: dict[str, Any], spec: type[Declared]) -> None:
    assert list(table) == list(options_of(spec))


def test_a_document_has_the_sections_of_the_agent() -> None:
    assert list(arguments.SECTIONS) == list(SECTIONS)


def test_every_module_is_in_the_action_group_and_has_an_action_plugin() -> None:
    runtime = yaml.safe_load((COLLECTION / "meta" / "runtime.yml").read_text())
    modules = sorted(path.stem for path in (COLLECTION / "plugins" / "modules").glob("*.py"))
    actions = sorted(path.stem for path in (COLLECTION / "plugins" / "action").glob("*.py"))

    assert modules == actions == runtime["action_groups"]["all"] == sorted(OPERATIONS)
