# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from mooring_kernel.core.errors import InventoryError
from mooring_kernel.core.inventory import InventoryHost
from mooring_kernel.core.ssh_settings import SshSettings, jump_settings, settings_of
from mooring_kernel.core.transport import LocalTransport, transport_to


@pytest.fixture(autouse=True)
def _no_setting_of_ansible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_HOST_KEY_CHECKING", raising=False)


def settings(config: Path | None = None, **variables: object) -> SshSettings:
    return settings_of(InventoryHost("web1", (), variables), None if config is None else str(config))


def test_without_variables_it_is_what_ssh_would_do() -> None:
    assert settings() == SshSettings("web1", 22, getpass.getuser())


def test_the_variables_of_ansible(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    found = settings(
        ansible_host="10.0.0.1",
        ansible_port="2222",
        ansible_user="ops",
        ansible_ssh_private_key_file=str(key),
        ansible_ssh_common_args="-o StrictHostKeyChecking=no -o ConnectTimeout=3 -oServerAliveInterval=7 -q",
        ansible_ssh_args="-C -o ControlMaster=auto -o ControlPersist=60s",
        ansible_password="secret",
    )
    assert found == SshSettings(
        "10.0.0.1", 2222, "ops", (str(key),), password="secret", host_keys="no", timeout=3.0, keepalive=7
    )
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("arguments", "environment", "variables", "expected"),
    [
        ("", "", {}, "yes"),
        ("-o StrictHostKeyChecking=no", "", {}, "no"),
        ("-o 'StrictHostKeyChecking accept-new'", "False", {}, "accept-new"),
        ("", "False", {}, "no"),
        ("", "", {"ansible_host_key_checking": False}, "no"),
        ("", "False", {"ansible_ssh_host_key_checking": "yes"}, "yes"),
        ("-o StrictHostKeyChecking=ask", "", {}, "yes"),
    ],
)
def test_checking_of_host_keys(
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    environment: str,
    variables: dict[str, object],
    expected: str,
) -> None:
    if environment:
        monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", environment)
    assert settings(ansible_ssh_common_args=arguments, **variables).host_keys == expected


def test_the_user_s_own_configuration_counts_where_the_inventory_says_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host web1\n  HostName 192.0.2.7\n  Port 2200\n  User admin\n  ProxyJump ops@gate:2022\n"
        "  StrictHostKeyChecking accept-new\n  UserKnownHostsFile /a /b\n"
    )
    found = settings(config)
    assert (found.address, found.port, found.user, found.jump) == (
        "192.0.2.7",
        2200,
        "admin",
        ("ops@gate:2022",),
    )
    assert (found.host_keys, found.known_hosts[:2]) == ("accept-new", ("/a", "/b"))
    assert settings(config, ansible_port=22, ansible_user="root").port == 22


def test_jump_hosts_share_the_keys_of_their_target() -> None:
    target = settings(ansible_user="ops", ansible_ssh_common_args="-J first:2022,admin@second")
    assert target.jump == ("first:2022", "admin@second")
    first, second = (jump_settings(hop, target, None) for hop in target.jump)
    assert (first.address, first.port, first.user) == ("first", 2022, "ops")
    assert (second.address, second.port, second.user) == ("second", 22, "admin")


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"ansible_ssh_common_args": "-o Tunnel=yes"}, "the option Tunnel is not known to the kernel"),
        ({"ansible_ssh_common_args": "-W x:1"}, "'-W' is not known to the kernel"),
        ({"ansible_ssh_common_args": "-o"}, "-o lacks its value"),
        ({"ansible_ssh_common_args": "-o 'a"}, "no closing quotation"),
        ({"ansible_ssh_common_args": "-o StrictHostKeyChecking=perhaps"}, "expected yes, accept-new or no"),
        ({"ansible_ssh_common_args": "-p many"}, "the SSH option port is 'many'"),
        ({"ansible_port": "ssh"}, "ansible_port is 'ssh', expected a whole number"),
        ({"ansible_ssh_private_key_file": "/nowhere/key"}, "the private key /nowhere/key does not exist"),
        ({"ansible_become": True, "ansible_become_method": "doas"}, "ansible_become_method is 'doas'"),
    ],
)
def test_what_is_not_understood_is_named(variables: dict[str, object], problem: str) -> None:
    with pytest.raises(InventoryError) as caught:
        settings(**variables)
    assert str(caught.value).startswith("host web1: ")
    assert problem in str(caught.value)


def test_the_connection_decides_about_the_transport() -> None:
    local = transport_to(InventoryHost("x", (), {"ansible_connection": "local", "mooring_socket": "/s"}))
    assert isinstance(local, LocalTransport)
    assert local.path == "/s"
    assert isinstance(transport_to(InventoryHost("localhost", (), {})), LocalTransport)
    remote = transport_to(
        InventoryHost("x", (), {"ansible_connection": "ansible.builtin.ssh", "ansible_user": "u"})
    )
    assert remote.describe() == "u@x:22"
    with pytest.raises(
        InventoryError, match=r"host x: ansible_connection is 'winrm', and the kernel knows ssh and local"
    ):
        transport_to(InventoryHost("x", (), {"ansible_connection": "winrm"}))
