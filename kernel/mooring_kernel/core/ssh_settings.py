# SPDX-License-Identifier: Apache-2.0
"""How a host is reached by SSH: the variables of Ansible's `ssh` connection, and `~/.ssh/config`, as data."""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from .errors import InventoryError
from .inventory import InventoryHost

# What `-o` may say. The second row changes nothing here, since each host has one connection that is kept
# anyway.
_KNOWN = {
    *(
        "stricthostkeychecking",
        "userknownhostsfile",
        "globalknownhostsfile",
        "connecttimeout",
        "identityfile",
    ),
    *("identitiesonly", "port", "user", "hostname", "proxyjump", "proxycommand", "serveraliveinterval"),
    "preferredauthentications",
}
_WITHOUT_EFFECT = {
    *(
        "controlmaster",
        "controlpersist",
        "controlpath",
        "loglevel",
        "batchmode",
        "forwardagent",
        "forwardx11",
    ),
    *(
        "compression",
        "tcpkeepalive",
        "serveralivecountmax",
        "connectionattempts",
        "requesttty",
        "checkhostip",
    ),
    *("addressfamily", "updatehostkeys", "gssapiauthentication", "visualhostkey", "exitonforwardfailure"),
}
_FLAGS = set("qTCvxaAk46n")
_WITH_VALUE = {"i": "identityfile", "p": "port", "l": "user", "J": "proxyjump"}
_ARGUMENT_VARIABLES = ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")


@dataclass(frozen=True)
class SshSettings:
    """All that is needed to connect; `host_keys` is `yes` (reject unknown ones), `accept-new` or `no`."""

    address: str
    port: int
    user: str
    key_files: tuple[str, ...] = ()
    keys_only: bool = False
    password: str | None = field(default=None, repr=False)
    host_keys: str = "yes"
    known_hosts: tuple[str, ...] = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
    timeout: float = 10.0
    keepalive: int = 15
    proxy_command: str | None = None
    jump: tuple[str, ...] = ()
    sudo: bool = False


def settings_of(host: InventoryHost, config_file: str | None = "~/.ssh/config") -> SshSettings:
    """Return how to reach a host. Raises InventoryError, naming what is not understood."""
    options = _options_of(host)
    address = host.text("ansible_host", "ansible_ssh_host") or host.name
    config = _from_config(address, config_file)
    checking = _host_key_checking(host, options.get("stricthostkeychecking"), config)
    options = {**config, **options}
    key_file = host.text("ansible_ssh_private_key_file", "ansible_private_key_file")
    key_files = tuple(filter(None, [key_file, *options.get("identityfile", "").split("\n")]))
    for name in key_files if key_file else ():
        if not os.path.exists(os.path.expanduser(name)):
            raise InventoryError(f"host {host.name}: the private key {name} does not exist")
    files = options.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    files += options.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()
    return SshSettings(
        address=options.get("hostname", address),
        port=host.number("ansible_port", "ansible_ssh_port", default=_number(host, options, "port", 22)),
        user=host.text("ansible_user", "ansible_ssh_user") or options.get("user") or getpass.getuser(),
        key_files=tuple(os.path.expanduser(name) for name in key_files),
        keys_only=options.get("identitiesonly", "no").lower() in ("yes", "true"),
        password=host.text("ansible_ssh_password", "ansible_ssh_pass", "ansible_password"),
        host_keys=checking,
        known_hosts=tuple(files),
        timeout=float(
            host.number("ansible_ssh_timeout", default=_number(host, options, "connecttimeout", 10))
        ),
        keepalive=_number(host, options, "serveraliveinterval", 15),
        proxy_command=_unless_none(options.get("proxycommand")),
        jump=tuple(filter(None, (_unless_none(options.get("proxyjump")) or "").split(","))),
        sudo=_sudo(host),
    )


def jump_settings(hop: str, settings: SshSettings, config_file: str | None = "~/.ssh/config") -> SshSettings:
    """Return how to reach a jump host, `[user@]host[:port]`, which shares the keys of its target."""
    user, at, rest = hop.rpartition("@")
    address, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit():
        address, port = rest, ""
    config = _from_config(address, config_file)
    return SshSettings(
        address=config.get("hostname", address),
        port=int(port or config.get("port", "22")),
        user=user if at else config.get("user", settings.user),
        key_files=settings.key_files,
        keys_only=settings.keys_only,
        host_keys=settings.host_keys,
        known_hosts=settings.known_hosts,
        timeout=settings.timeout,
        keepalive=settings.keepalive,
    )


def _options_of(host: InventoryHost) -> dict[str, str]:
    options: dict[str, str] = {}
    for variable in _ARGUMENT_VARIABLES:
        text = host.text(variable)
        if text:
            for key, value in _parsed(text, f"host {host.name}: {variable}"):
                if key == "identityfile" and key in options:
                    options[key] += f"\n{value}"
                else:
                    options.setdefault(key, value)
    return options


def _parsed(text: str, where: str) -> Iterable[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InventoryError(f"{where}: {str(error).lower()} in {text!r}") from None
    pending = iter(words)
    for word in pending:
        if len(word) > 1 and word[0] == "-" and word[1] in ("o", *_WITH_VALUE):
            letter, value = word[1], word[2:] or next(pending, "")
            if not value:
                raise InventoryError(f"{where}: -{letter} lacks its value")
            if letter != "o":
                yield _WITH_VALUE[letter], value
                continue
            name, _, rest = value.replace("=", " ", 1).strip().partition(" ")
            key = name.lower()
            if key in _KNOWN:
                yield key, rest.strip()
            elif key not in _WITHOUT_EFFECT:
                raise InventoryError(
                    f"{where}: the option {name} is not known to the kernel, which connects without ssh(1); "
                    "put it into ~/.ssh/config under another host, or leave it out"
                )
        elif not (len(word) > 1 and word[0] == "-" and set(word[1:]) <= _FLAGS):
            raise InventoryError(
                f"{where}: {word!r} is not known to the kernel, which connects without ssh(1)"
            )


def _from_config(address: str, config_file: str | None) -> dict[str, str]:
    if config_file is None:
        return {}
    path = Path(config_file).expanduser()
    if not path.is_file():
        return {}
    try:
        found: Mapping[str, str | list[str]] = paramiko.SSHConfig.from_path(str(path)).lookup(address)
    except (paramiko.SSHException, OSError, ValueError) as error:
        raise InventoryError(f"{path} cannot be read: {error}") from None
    known = {key: value for key, value in found.items() if key in _KNOWN}
    if found.get("hostname") == address:
        known.pop("hostname", None)
    return {key: value if isinstance(value, str) else "\n".join(value) for key, value in known.items()}


def _host_key_checking(host: InventoryHost, option: str | None, config: Mapping[str, str]) -> str:
    """Return `yes`, `accept-new` or `no`: arguments over variables, those over Ansible's setting, that over
    ssh's.
    """
    default = os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "true").lower() not in ("0", "false", "no", "off")
    wanted = host.flag("ansible_ssh_host_key_checking", "ansible_host_key_checking", default=default)
    if option is None and not wanted:
        return "no"
    value = (option or config.get("stricthostkeychecking", "yes")).lower()
    if value in ("no", "off", "false"):
        return "no"
    if value in ("yes", "true", "ask"):  # nobody can be asked here
        return "yes"
    if value == "accept-new":
        return value
    raise InventoryError(
        f"host {host.name}: StrictHostKeyChecking is {value!r}, expected yes, accept-new or no"
    )


def _sudo(host: InventoryHost) -> bool:
    if not host.flag("ansible_become", default=False):
        return False
    method = host.text("ansible_become_method") or "sudo"
    if method != "sudo":
        raise InventoryError(
            f"host {host.name}: ansible_become_method is {method!r}, and the kernel knows sudo only: "
            "let the user open the agent's socket instead"
        )
    return True


def _number(host: InventoryHost, options: Mapping[str, str], key: str, default: int) -> int:
    text = options.get(key)
    if text is None:
        return default
    if not text.isdigit():
        raise InventoryError(f"host {host.name}: the SSH option {key} is {text!r}, expected a whole number")
    return int(text)


def _unless_none(text: str | None) -> str | None:
    return None if text is None or text.lower() == "none" else text
