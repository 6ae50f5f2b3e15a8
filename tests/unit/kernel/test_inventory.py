# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.errors import InventoryError
from mooring_kernel.core.inventory import Inventory, load_inventory, parse_inventory
from mooring_kernel.core.inventory_model import expand

YAML = """\
all:
  vars: {ansible_user: ops, level: all}
  children:
    web:
      hosts:
        web[01:03].example.com: {weight: 5}
        extra: {ansible_host: 10.0.0.9, level: host}
      vars: {level: web, ansible_port: 2222}
      children:
        canary:
          hosts: {web02.example.com: {}}
          vars: {level: canary}
    db:
      hosts: {db1: null, "db-[a:c]": null}
      vars: {ansible_ssh_private_key_file: "{{ inventory_dir }}/keys/{{ ansible_user }}"}
ungrouped_thing:
  hosts: {lone: {}}
"""

INI = """\
# a comment
lonely ansible_host=192.0.2.1   ; not a comment for Ansible's words
bare:2022

[web]
web[1:3] weight=5
extra ansible_ssh_common_args='-o StrictHostKeyChecking=no' # comment

[db]
db-[a:c]

[all:vars]
ansible_user = ops
flag=true

[fleet:children]
web
db

[fleet:vars]
level=fleet
note="two words"

[web:vars]
level=web
numbers=[1, 2]
"""


def read(directory: Path, text: str, name: str = "hosts.yml") -> Inventory:
    path = directory / name
    path.write_text(text)
    return load_inventory(path)


def ansible_view(path: Path) -> dict[str, dict[str, object]]:
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(path), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=path.parent)
    hosts = json.loads(done.stdout)["_meta"]["hostvars"]
    assert isinstance(hosts, dict)
    return hosts


@pytest.mark.parametrize(
    ("name", "text"), [("hosts.yml", YAML), ("hosts.ini", INI), ("hosts", INI), ("hosts", YAML)]
)
def test_hosts_and_variables_are_those_that_ansible_sees(tmp_path: Path, name: str, text: str) -> None:
    text = text.replace("   ; not a comment for Ansible's words", "")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("from_file: all\nlevel2: all\n")
    (tmp_path / "group_vars" / "web.yaml").write_text("from_file: web\n")
    (tmp_path / "host_vars" / "extra").mkdir(parents=True)
    (tmp_path / "host_vars" / "extra" / "a.yml").write_text("from_file: host\nweight: 9\n")
    ours = read(tmp_path, text, name)
    theirs = ansible_view(tmp_path / name)
    assert set(ours.hosts) >= set(theirs)
    for host, found in ours.hosts.items():
        expected = theirs.get(host, {})
        variables = {key: value for key, value in found.variables.items() if not key.startswith("inventory_")}
        assert variables == expected, host


def test_variables_of_inner_groups_and_hosts_win(tmp_path: Path) -> None:
    hosts = read(tmp_path, YAML).hosts
    assert hosts["web01.example.com"].text("level") == "web"
    assert hosts["web02.example.com"].text("level") == "canary"
    assert hosts["extra"].text("level") == "host"
    assert hosts["db1"].text("level") == "all"
    assert hosts["web02.example.com"].groups == ("all", "web", "canary")


def test_other_variables_are_filled_in(tmp_path: Path) -> None:
    host = read(tmp_path, YAML).hosts["db1"]
    assert host.text("ansible_ssh_private_key_file") == f"{tmp_path}/keys/ops"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{{ nowhere }}", "value refers to nowhere, which is not set for this host"),
        (
            "{{ lookup('env', 'HOME') }}",
            "without Ansible only {{ name }} of another variable can be filled in",
        ),
        ("{{ value }}", "refers to itself"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_an_error_of_its_host(
    tmp_path: Path, value: str, problem: str
) -> None:
    host = read(tmp_path, f'all: {{hosts: {{h: {{value: "{value}"}}}}}}').hosts["h"]
    with pytest.raises(InventoryError) as caught:
        host.text("value")
    assert str(caught.value).startswith("host h: value ")
    assert problem in str(caught.value)


def test_encrypted_values_are_told_apart_from_missing_ones(tmp_path: Path) -> None:
    secret = "!vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n"
    host = read(tmp_path, f"all:\n  hosts:\n    h:\n      ansible_password: {secret}").hosts["h"]
    assert host.text("ansible_user") is None
    with pytest.raises(InventoryError) as caught:
        host.text("ansible_password")
    assert "ansible_password is encrypted with Ansible Vault" in str(caught.value)


def test_an_encrypted_file_of_variables_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    inventory = read(tmp_path, "all: {hosts: {a: {}, b: {}}}")
    assert inventory.warnings == (
        f"{tmp_path}/group_vars/all.yml is encrypted with Ansible Vault: its variables are not known here",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("all: [", "is not YAML: "),
        ("- a\n- b\n", "holds a list, expected groups by name"),
        ("plugin: amazon.aws.aws_ec2\n", "is for the plugin amazon.aws.aws_ec2, which runs in Ansible only"),
        ("all: {host: {a: }}", "the group all has the key 'host', expected hosts, vars, children"),
        ("all: {hosts: [a, b]}", "hosts of all is a list, expected names with a colon each"),
        ("a: {children: {b: {children: {a: {}}}}}", "is below itself"),
        ("all: {hosts: {'a[3:1]': }}", "the range [3:1] of 'a[3:1]' is empty"),
        ("all: {hosts: {'a/b': }}", "'a/b' is not the name of a host"),
        ("all: {}", "names no host"),
        ("$ANSIBLE_VAULT;1.1;AES256\n", "is encrypted with Ansible Vault"),
        ("all: {hosts: {'h[0:99999]': }}", "names more than 10000 hosts"),
    ],
)
def test_an_inventory_that_cannot_be_read_says_why(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)
    assert str(tmp_path / "hosts.yml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[web\na", "line 1: '[web' is not [group], [group:vars] or [group:children]"),
        ("[web:hosts:x]\na", "is not [group]"),
        ("a b", "line 1: 'b' is not NAME=VALUE"),
        ("a b='c", "line 1: no closing quotation"),
        ("[x:children]\ny", "the group x has the child y, which is no group here"),
        ("[x:vars]\ny", "'y' is not NAME=VALUE"),
    ],
)
def test_an_ini_that_cannot_be_read_says_where(text: str, problem: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text, Path("/x/hosts.ini"))
    assert problem in str(caught.value)
    assert "/x/hosts.ini" in str(caught.value)


def test_files_that_are_not_there_or_no_inventories(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, problem in (
        ("missing", "there is no inventory"),
        (".", "is a directory"),
        ("program", "is a program"),
        ("binary", "is not a text in UTF-8"),
    ):
        with pytest.raises(InventoryError) as caught:
            load_inventory(tmp_path / name)
        assert problem in str(caught.value)


def test_a_flag_and_a_number_are_read_as_ansible_reads_them(tmp_path: Path) -> None:
    host = read(tmp_path, "all: {hosts: {h: {a: yes, b: 'off', c: maybe, d: '22', e: x}}}").hosts["h"]
    assert host.flag("a", default=False)
    assert not host.flag("b", default=True)
    assert host.flag("none", default=True)
    assert host.number("d", default=0) == 22
    for check, name in ((host.flag, "c"), (host.number, "e")):
        with pytest.raises(InventoryError, match=f"host h: {name} is"):
            check(name, default=1)  # type: ignore[operator]


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9), st.integers(0, 3))
def test_a_range_of_numbers_counts_as_ansible_counts(begin: int, end: int, step: int, width: int) -> None:
    pattern = f"h[{begin:0{width}}:{end:0{width}}:{step}]x" if width else f"h[{begin}:{end}:{step}]x"
    padded = len(f"{begin:0{width}}") if width and f"{begin:0{width}}".startswith("0") else 0
    if f"{begin}".startswith("0"):
        padded = max(padded, 1)
    expected = [f"h{str(number).zfill(padded)}x" for number in range(begin, end + 1, step)]
    if expected:
        assert expand(pattern, "inventory") == expected
    else:
        with pytest.raises(InventoryError):
            expand(pattern, "inventory")


@given(st.text())
def test_no_text_makes_the_readers_fail_in_another_way(text: str) -> None:
    for name in ("hosts.yml", "hosts.ini"):
        try:
            parse_inventory(text, Path("/nowhere", name))
        except InventoryError:
            continue
