# SPDX-License-Identifier: Apache-2.0
"""Ansible inventories, read without Ansible: the hosts of a fleet and how each of them is reached.

The subset is that of `ansible.builtin.yaml` and `ansible.builtin.ini`: groups, children, variables of groups
and hosts, ranges, `group_vars` and `host_vars` beside the inventory, and `{{ name }}` for another variable of
the host. What needs Ansible itself (plugins, vault, other expressions) is an error that says so, for the one
host that it concerns where that is possible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import inventory_ini, inventory_yaml
from .errors import InventoryError
from .inventory_model import Groups

DEFAULT_SOCKET = "/run/mooring/mooring.sock"

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_VAULT_HEADER = "$ANSIBLE_VAULT"


@dataclass(frozen=True)
class InventoryHost:
    """One host with all variables that hold for it, in its groups' order of precedence."""

    name: str
    groups: tuple[str, ...]
    variables: Mapping[str, Any]

    def text(self, *names: str) -> str | None:
        """Return the first of the variables that is set, as text with its templates filled in.

        Raises InventoryError if it holds a template that only Ansible can fill in, or is encrypted.
        """
        for name in names:
            value = self.variables.get(name)
            if value is not None:
                return self._filled(name, value, depth=0)
        return None

    def flag(self, *names: str, default: bool) -> bool:
        """Return the first of the variables that is set as a truth value, as Ansible reads it."""
        text = self.text(*names)
        if text is None:
            return default
        if text.lower() in ("true", "yes", "on", "1", "y", "t"):
            return True
        if text.lower() in ("false", "no", "off", "0", "n", "f"):
            return False
        raise InventoryError(f"host {self.name}: {names[0]} is {text!r}, expected true or false")

    def number(self, *names: str, default: int) -> int:
        """Return the first of the variables that is set as a whole number."""
        text = self.text(*names)
        if text is None:
            return default
        if not text.isdigit():
            raise InventoryError(f"host {self.name}: {names[0]} is {text!r}, expected a whole number")
        return int(text)

    def _filled(self, name: str, value: Any, *, depth: int) -> str:
        if isinstance(value, inventory_yaml.Vaulted):
            raise InventoryError(
                f"host {self.name}: {name} is encrypted with Ansible Vault, which the kernel cannot read: "
                "give it in plain text, or leave it to the SSH agent"
            )
        if isinstance(value, list | dict):
            raise InventoryError(f"host {self.name}: {name} is a {type(value).__name__}, expected a text")
        if depth > 10:
            raise InventoryError(f"host {self.name}: {name} refers to itself")

        def fill(match: re.Match[str]) -> str:
            inner = self.variables.get(match[1])
            if inner is None:
                raise InventoryError(
                    f"host {self.name}: {name} refers to {match[1]}, which is not set for this host"
                )
            return self._filled(match[1], inner, depth=depth + 1)

        text = _VARIABLE.sub(fill, str(value))
        if _EXPRESSION.search(text):
            raise InventoryError(
                f"host {self.name}: {name} is {text!r}, and without Ansible only {{{{ name }}}} of another "
                "variable can be filled in: write its value"
            )
        return text


@dataclass(frozen=True)
class Inventory:
    """The hosts in the order in which the inventory names them, and what could not be read beside them."""

    source: str
    hosts: Mapping[str, InventoryHost]
    warnings: tuple[str, ...] = field(default_factory=tuple)


def load_inventory(path: str | os.PathLike[str]) -> Inventory:
    """Read an inventory file. Raises InventoryError."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise InventoryError(f"{file} is a directory: name the inventory file in it")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InventoryError(f"there is no inventory {file} (looked from {Path.cwd()})") from None
    except OSError as error:
        raise InventoryError(f"the inventory {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InventoryError(f"the inventory {file} is not a text in UTF-8") from None
    if text.startswith("#!") and os.access(file, os.X_OK):
        raise InventoryError(
            f"the inventory {file} is a program: write its output to a file with `{file} --list`"
        )
    return parse_inventory(text, file)


def parse_inventory(text: str, file: Path) -> Inventory:
    """Read an inventory from its text; `file` tells the format and where `group_vars` and `host_vars` are."""
    if text.startswith(_VAULT_HEADER):
        raise InventoryError(
            f"the inventory {file} is encrypted with Ansible Vault, which the kernel cannot read"
        )
    if file.suffix in (".yml", ".yaml", ".json") or (file.suffix != ".ini" and _looks_like_yaml(text)):
        groups = inventory_yaml.parse(text, str(file))
    else:
        groups = inventory_ini.parse(text, str(file))
    warnings: list[str] = []
    directory = file.resolve().parent
    hosts = {
        name: InventoryHost(
            name,
            tuple(group.name for group in groups.of_host(name)),
            _variables(groups, name, directory, file, warnings),
        )
        for name in groups.hosts
    }
    if not hosts:
        raise InventoryError(f"the inventory {file} names no host")
    return Inventory(str(file), hosts, tuple(dict.fromkeys(warnings)))


def _looks_like_yaml(text: str) -> bool:
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(("#", ";")):
            return stripped == "---" or (stripped.endswith(":") and not stripped.startswith("["))
    return False


def _variables(groups: Groups, host: str, directory: Path, file: Path, warnings: list[str]) -> dict[str, Any]:
    """Return the host's variables in Ansible's order: groups from the outermost inwards, their files, the
    host, its files.
    """
    merged: dict[str, Any] = {}
    of_host = groups.of_host(host)
    for group in of_host:
        merged.update(group.variables)
    for group in of_host:
        merged.update(_beside(directory / "group_vars", group.name, warnings))
    merged.update(groups.hosts[host])
    merged.update(_beside(directory / "host_vars", host, warnings))
    merged.update(
        inventory_hostname=host,
        inventory_hostname_short=host.partition(".")[0],
        inventory_dir=str(directory),
        inventory_file=str(file.resolve()),
    )
    return merged


def _beside(directory: Path, name: str, warnings: list[str]) -> dict[str, Any]:
    """Return the variables of `NAME`, `NAME.yml`, `NAME.yaml`, `NAME.json` or the files of a directory
    `NAME`.
    """
    merged: dict[str, Any] = {}
    for path in _variable_files(directory, name):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith(_VAULT_HEADER):
            warnings.append(f"{path} is encrypted with Ansible Vault: its variables are not known here")
            continue
        try:
            document = yaml.load(text, Loader=inventory_yaml.Loader)
        except yaml.YAMLError as error:
            raise InventoryError(f"{path} is not YAML: {inventory_yaml.problem(error)}") from None
        if document is None:
            continue
        if not isinstance(document, dict):
            raise InventoryError(
                f"{path} holds a {type(document).__name__}, expected variables with their values"
            )
        merged.update(document)
    return merged


def _variable_files(directory: Path, name: str) -> Iterator[Path]:
    for suffix in ("", ".yml", ".yaml", ".json"):
        path = directory / f"{name}{suffix}"
        if path.is_file():
            yield path
        elif not suffix and path.is_dir():
            yield from sorted(
                each
                for each in path.iterdir()
                if each.is_file() and each.suffix in ("", ".yml", ".yaml", ".json") and each.name[0] != "."
            )
