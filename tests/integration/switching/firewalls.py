# SPDX-License-Identifier: Apache-2.0
"""Real firewalls on a host that is a network namespace: ufw, and firewalld with a message bus of its own.

Each has a mount namespace with its configuration in a directory of the test, so that the host's own files
are not touched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.waiting import PATIENCE, eventually
from integration.network.topology import NamedNamespace

_PROGRAM_TIMEOUT = 30.0 * PATIENCE
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Place:
    """A mount namespace in the network namespace of a host, in which a firewall's programs run."""

    def __init__(self, host: NamedNamespace, environment: dict[str, str], mounts: dict[Path, Path]) -> None:
        binds = "".join(f"mount --bind {source} {target} && " for source, target in mounts.items())
        script = f"mount --make-rprivate / && mount -t tmpfs tmpfs /run && {binds}echo made && exec sleep 600"
        self._environment = [f"{name}={value}" for name, value in environment.items()]
        self._holder = subprocess.Popen(
            ["nsenter", f"--net={host.path}", "unshare", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "made\n"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command line of a shell to its end."""
        done = subprocess.run(
            self._inside("sh", "-c", command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_TIMEOUT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a daemon that stays in the foreground; it is ended with this place."""
        made = subprocess.Popen(
            self._inside(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._daemons.append(made)
        return made

    def stop_last(self) -> None:
        """End the daemon that was started last."""
        daemon = self._daemons.pop()
        daemon.terminate()
        try:
            daemon.wait(_PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def close(self) -> None:
        """End all daemons, the last one first, and the namespace with them."""
        while self._daemons:
            self.stop_last()
        self._holder.kill()
        self._holder.communicate()

    def _inside(self, *argv: str) -> list[str]:
        target = f"--target={self._holder.pid}"
        return ["nsenter", target, "--mount", "--net", "env", *self._environment, *argv]


@contextmanager
def ufw(host: NamedNamespace, base: Path) -> Iterator[Place]:
    """Ufw as it is installed, enabled: it drops what comes and what is forwarded."""
    base.mkdir()
    shutil.copytree("/etc/ufw", base / "ufw")
    shutil.copy("/etc/default/ufw", base / "default")
    mounts = {base / "ufw": Path("/etc/ufw"), base / "default": Path("/etc/default/ufw")}
    place = Place(host, {}, mounts)
    try:
        place.run("ufw --force enable")
        yield place
    finally:
        place.close()


@contextmanager
def firewalld(host: NamedNamespace, base: Path) -> Iterator[Place]:
    """Firewalld as it is installed, running: its zone "public" rejects what comes and what is forwarded."""
    base.mkdir()
    shutil.copytree("/etc/firewalld", base / "etc")
    bus = base / "bus"
    (base / "bus.conf").write_text(_BUS.format(socket=bus))
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
    place = Place(host, environment, {base / "etc": Path("/etc/firewalld")})
    try:
        place.start("dbus-daemon", f"--config-file={base}/bus.conf", "--nofork", "--nopidfile")
        eventually(bus.exists, what="the message bus")
        _start_firewalld(place)
        yield place
    finally:
        place.close()


def _start_firewalld(place: Place) -> None:
    """Start the daemon; returns when it has made its rules."""
    place.start("firewalld", "--nofork", "--nopid", "--log-file=/run/firewalld.log")
    eventually(
        lambda: place.run("firewall-cmd --state", check=False).stdout == "running\n", what="firewalld runs"
    )


def restart_firewalld(place: Place) -> None:
    """End the daemon, which takes its rules along, and start it anew."""
    place.stop_last()
    _start_firewalld(place)


def advised(sentence: str) -> list[str]:
    """The commands that a sentence about an obstacle names."""
    return re.split(", and ", sentence.partition("; ")[2].partition(": ")[2])
