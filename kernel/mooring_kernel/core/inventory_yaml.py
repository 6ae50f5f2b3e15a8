# SPDX-License-Identifier: Apache-2.0
"""Inventories in YAML, as `ansible.builtin.yaml` reads them."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import InventoryError
from .inventory_model import Groups

_KEYS = ("hosts", "vars", "children")


class Vaulted(str):
    """A value that is encrypted with Ansible Vault: known to be there, and not more."""


class Loader(yaml.SafeLoader):
    """YAML with Ansible's tags."""


def _vault(loader: yaml.SafeLoader, node: yaml.Node) -> Vaulted:
    return Vaulted(loader.construct_scalar(node)) if isinstance(node, yaml.ScalarNode) else Vaulted()


def _unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


Loader.add_constructor("!vault", _vault)
Loader.add_constructor("!vault-encrypted", _vault)
Loader.add_constructor("!unsafe", _unsafe)


def problem(error: yaml.YAMLError) -> str:
    """Return what is wrong with a document in one line, with its place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


def parse(text: str, source: str) -> Groups:
    """Read the groups and hosts. Raises InventoryError."""
    try:
        document = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise InventoryError(f"the inventory {source} is not YAML: {problem(error)}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise InventoryError(
            f"the inventory {source} holds a {type(document).__name__}, expected groups by name"
        )
    if "plugin" in document:
        raise InventoryError(
            f"the inventory {source} is for the plugin {document['plugin']}, which runs in Ansible only: "
            "write what it finds to a file with `ansible-inventory --list --yaml`"
        )
    groups = Groups(source)
    for name, body in document.items():
        _read_group(groups, str(name), body)
    return groups


def _read_group(groups: Groups, name: str, body: Any) -> None:
    group = groups.group(name)
    content = _mapping(groups, f"the group {name}", body)
    for key in content:
        if key not in _KEYS:
            raise InventoryError(
                f"{groups.source}: the group {name} has the key {key!r}, expected {', '.join(_KEYS)}"
            )
    for pattern, variables in _mapping(groups, f"hosts of {name}", content.get("hosts")).items():
        values = _mapping(groups, f"the host {pattern}", variables)
        groups.add_hosts(name, str(pattern), {str(key): value for key, value in values.items()})
    values = _mapping(groups, f"vars of {name}", content.get("vars"))
    group.variables.update({str(key): value for key, value in values.items()})
    for child, child_body in _mapping(groups, f"children of {name}", content.get("children")).items():
        groups.add_child(name, str(child))
        _read_group(groups, str(child), child_body)


def _mapping(groups: Groups, what: str, value: Any) -> dict[Any, Any]:
    if value is None:
        return {}
    if isinstance(value, str):  # Ansible takes `hosts: web1` too
        return {value: None}
    if not isinstance(value, dict):
        raise InventoryError(
            f"{groups.source}: {what} is a {type(value).__name__}, expected names with a colon each"
        )
    return value
