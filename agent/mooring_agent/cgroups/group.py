# SPDX-License-Identifier: Apache-2.0
"""One group of processes: a directory of the same path in every hierarchy that containers are put into.

Everything here is a few small system calls; what has to wait takes a deadline in seconds. Blocking: call it
from a thread where that matters.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Conflict, MooringError, NotFound, NotSupported, Unavailable
from . import interface, killing, tree
from .accounts import Accounts
from .controller import Controller, Refusal
from .devices import DEFAULT_RULES, DeviceRule
from .resources import CpuStat, IoCount, Resources, Setting, Usage
from .v1 import cpuset as v1_cpuset
from .v1 import devices as v1_devices
from .v1 import freezer as v1_freezer
from .v1 import tree as v1_tree
from .v2 import devices as v2_devices
from .v2 import freezer as v2_freezer
from .v2 import memory as v2_memory
from .v2 import tree as v2_tree

if TYPE_CHECKING:
    from .hierarchy import Hierarchy

T = TypeVar("T")

_DISKS = ("blkio", "io")


class Group:
    """A group by its path below the top of the mounts, whether it exists or not. Made by Hierarchy.group().

    Errors: NotFound when the group is not there, Conflict when its state forbids what is asked, NotSupported
    when this kernel cannot do it, Unavailable when a deadline is over.
    """

    def __init__(self, hierarchy: Hierarchy, path: str) -> None:
        self.hierarchy = hierarchy
        self.path = path
        self._directories = {name: f"{place.mount}/{path}" for name, place in hierarchy.places.items()}
        self._versions = {f"{place.mount}/{path}": place.version for place in hierarchy.places.values()}
        self._accounts = Accounts(self._directories, self._versions)

    def __repr__(self) -> str:
        return f"Group({self.path!r})"

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Controller → directory of this group. Controllers that are mounted together share one."""
        return {name: Path(directory) for name, directory in self._directories.items()}

    def create(self, *, delegate: bool = False) -> None:
        """Make the group and those above it. One that is there is fine; a failure leaves no part of it
        behind.

        With `delegate` it is made ready to hold groups that somebody makes by a bare mkdir, such as
        launchers: they begin with its CPUs and memory nodes (v1) and with its controllers (v2, where it can
        hold no processes of its own then).
        """
        made: list[str] = []
        mounts: dict[tuple[str, int], list[str]] = {}
        for place in self.hierarchy.places.values():
            mounts.setdefault((place.mount, place.version), []).append(place.controller)
        try:
            for (mount, version), controllers in mounts.items():
                if not os.path.isdir(f"{mount}/{self.path}"):
                    made.append(f"{mount}/{self.path}")
                if version == 1:
                    v1_tree.make(mount, self.path, cpuset="cpuset" in controllers, delegate=delegate)
                else:
                    limited = [name for name in controllers if name in self.hierarchy.limits]
                    v2_tree.make(mount, self.path, limited, delegate=delegate)
        except (OSError, MooringError) as error:
            for directory in made:
                # What cannot be removed was not made, or is somebody's by now.
                with suppress(OSError):
                    os.rmdir(directory)
            if isinstance(error, OSError):
                raise self._cannot_make(error) from error
            raise

    def children(self) -> tuple[str, ...]:
        """Names of the groups directly inside, wherever they exist; none for a group that is not there."""
        return tuple(sorted({name for directory in self._versions for name in tree.children(directory)}))

    def exists(self) -> bool:
        """Whether the group is there in every hierarchy."""
        return all(os.path.isdir(directory) for directory in self._versions)

    def attach(self, pid: int) -> None:
        """Move a whole process in. A process that can write "0" itself does so far cheaper
        (attach_self_paths)."""
        for directory in self._versions:
            try:
                interface.write(f"{directory}/cgroup.procs", str(pid))
            except ProcessLookupError as error:
                raise NotFound(f"process {pid} cannot join group {self.path} because it has ended") from error
            except OSError as error:
                raise self._failed(f"process {pid} cannot join", error) from error

    def attach_self_paths(self) -> tuple[Path, ...]:
        """The files in which a single-threaded process writes "0" to join this group.

        On version 1 they are `tasks`: moving just the calling thread takes no lock that waits for all CPUs,
        as `cgroup.procs` does (16 to 31 ms now and then). On version 2 it is cgroup.procs; better is to be
        born there, by clone3 with CLONE_INTO_CGROUP and the descriptor of `directory_fd`.
        """
        return tuple(
            Path(directory, "tasks" if version == 1 else "cgroup.procs")
            for directory, version in self._versions.items()
        )

    def directory_fd(self) -> int:
        """A new descriptor of the group's version 2 directory, for CLONE_INTO_CGROUP. NotSupported where
        there is none."""
        for directory, version in self._versions.items():
            if version == 2:
                try:
                    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                except OSError as error:
                    raise self._failed("cannot open", error) from error
        raise NotSupported(
            f"group {self.path} has no cgroups v2 directory on this host to be born into; join it instead"
        )

    def rename(self, new_name: str) -> Group:
        """Give the group another last name, in place, with its processes and limits; answers it under the new
        path.

        Version 1 only: NotSupported where a version 2 tree takes part. Conflict if the name is taken.
        """
        if not self.hierarchy.can_rename:
            raise NotSupported(
                f"group {self.path} cannot be renamed because cgroups v2 has no rename; make a new group "
                "and move there"
            )
        parent = self.path.rpartition("/")[0]
        renamed = self.hierarchy.group(f"{parent}/{new_name}" if parent else new_name)
        if "/" in new_name:
            raise Conflict(
                f'group {self.path} cannot become "{new_name}", expected a name without "/": it stays '
                "where it is"
            )
        moves = list(zip(self._versions, renamed._versions, strict=True))
        for index, (old, new) in enumerate(moves):
            try:
                os.rename(old, new)
            except OSError as error:
                for undo_old, undo_new in moves[:index]:
                    os.rename(undo_new, undo_old)
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise Conflict(
                        f"group {self.path} cannot become {renamed.path} because that group exists"
                    ) from error
                raise self._failed("cannot be renamed", error) from error
        return renamed

    # Limits.

    def writes(self, settings: Iterable[Setting]) -> tuple[tuple[str, str], ...]:
        """The settings as (absolute file, value), for a launcher that knows nothing of cgroups."""
        return tuple(
            (f"{self._directories[setting.controller]}/{setting.file}", setting.value) for setting in settings
        )

    def apply(self, resources: Resources) -> tuple[Setting, ...]:
        """Give a living group exactly these limits (None: the kernel's default) and answer what had to be
        written.

        Nothing is written that is right already, so an empty answer means there was no drift. Each write
        keeps the kernel's rules against the values that are there now. All or nothing: a refusal puts back
        what was written before it.
        """
        self.hierarchy.check(resources)
        plans: list[tuple[str, Controller, Setting, str]] = []
        for name, controller in self.hierarchy.limits.items():
            directory = self._directories[name]
            contents = self._contents(controller, directory)
            if not contents:
                if self._lacks(name) and not controller.settings(resources):
                    continue
                raise self._without(name)
            above = self._contents(controller, os.path.dirname(directory))
            for setting in controller.plan(resources, contents, above):
                before = contents.get(setting.file, "") if setting.undo is None else setting.undo
                plans.append((directory, controller, setting, before))
        done: list[tuple[str, str]] = []
        try:
            for directory, controller, setting, before in plans:
                self._write(directory, controller, setting, done, before)
        except MooringError:
            for file, value in reversed(done):
                # The first error is the one to report; a value that cannot be put back is drift, and found as
                # such later.
                with suppress(OSError):
                    interface.write(file, value)
            raise
        return tuple(setting for _, _, setting, _ in plans)

    def _write(
        self,
        directory: str,
        controller: Controller,
        setting: Setting,
        done: list[tuple[str, str]],
        before: str,
    ) -> None:
        version = self._versions[directory]
        if version == 2 and setting.file == v2_memory.MAX and setting.value != "max":
            v2_memory.lower(directory, self.path, int(setting.value), self._contents(controller, directory))
        steps = [(f"{directory}/{setting.file}", setting.value, before)]
        if version == 1 and setting.controller == v1_cpuset.NAME:
            steps = self._cascade(directory, setting, before)
        for file, value, previous in steps:
            try:
                interface.write(file, value)
            except OSError as error:
                contents = self._contents(controller, directory)
                above = self._contents(controller, os.path.dirname(directory))
                reason = os.strerror(error.errno or 0)
                refusal = Refusal(self.path, setting, error.errno or 0, reason, contents, above)
                raise controller.explain(refusal) from error
            done.append((file, previous))

    def _cascade(self, directory: str, setting: Setting, before: str) -> list[tuple[str, str, str]]:
        """(file, value, value before) for a list of CPUs or nodes and for the groups inside that follow
        it."""
        inside = {
            path: interface.read(f"{directory}/{path}/{setting.file}") for path in tree.descendants(directory)
        }
        steps: list[tuple[str, str, str]] = []
        current = {"": before, **inside}
        for path, value in v1_cpuset.cascade(before, setting.value, inside):
            place = f"{directory}/{path}" if path else directory
            steps.append((f"{place}/{setting.file}", value, current[path]))
            current[path] = value
        return steps

    def read(self) -> Resources:
        """The limits in force; None for none. `memory_swap` counts memory and swap together in both
        versions."""
        values: dict[str, Any] = {}
        for name, controller in self.hierarchy.limits.items():
            contents = self._contents(controller, self._directories[name])
            if not contents:
                if self._lacks(name):
                    continue
                raise self._without(name)
            values.update(controller.parse(contents))
        return Resources(**values)

    def set_devices(self, rules: Iterable[DeviceRule] = DEFAULT_RULES) -> None:
        """Put the white list of devices in force (v1: the devices controller; v2: a BPF program that replaces
        the former)."""
        place = self.hierarchy.places.get("devices")
        if place is None:
            raise NotSupported(
                f"devices of group {self.path} cannot be limited because this host has neither the devices "
                "controller of cgroups v1 nor a cgroups v2 tree"
            )
        directory = self._directories["devices"]
        try:
            if place.version == 2:
                v2_devices.attach(directory, v2_devices.program(rules))
                return
            for file, value in self.writes(v1_devices.settings(rules)):
                interface.write(file, value)
        except OSError as error:
            raise self._failed("cannot be given its list of devices", error) from error

    # Accounting.

    def usage(self) -> Usage:
        """What the group uses now: five small reads that make the kernel gather no statistics."""
        return self._read(self._accounts.usage)

    def io_stat(self) -> tuple[IoCount, ...]:
        """What was read from disks and written to them, a disk and an operation each."""
        return self._read(self._accounts.io_stat)

    def cpu_stat(self) -> CpuStat:
        """User and system time, and throttling by the quota."""
        return self._read(self._accounts.cpu_stat)

    def memory_stat(self) -> dict[str, int]:
        """The kernel's memory.stat as it is (bytes and counts).

        It is gathered over all CPUs: not for a loop over all groups.
        """
        return self._read(self._accounts.memory_stat)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory; 0 when it does not tell."""
        return self._read(self._accounts.oom_kills)

    def _read(self, reading: Callable[[], T]) -> T:
        try:
            return reading()
        except OSError as error:
            raise self._failed("cannot be read", error) from error

    # Processes.

    def pids(self, *, recursive: bool = False) -> list[int]:
        """Processes of the group, and with `recursive` of the groups inside it."""
        return sorted(tree.pids(self._process_directory(), recursive=recursive))

    def is_empty(self) -> bool:
        """Whether neither the group nor one inside it has a process; a group that is not there has none."""
        return not self.pids(recursive=True)

    def freeze(self, deadline_s: float = 2.0) -> None:
        """Stop every process in the group and in those inside it, unnoticed by them. Unavailable after the
        deadline."""
        directory, version = self._freezer()
        try:
            (v1_freezer if version == 1 else v2_freezer).freeze(directory, self.path, deadline_s)
        except OSError as error:
            raise self._failed("cannot be frozen", error) from error

    def thaw(self, deadline_s: float = 2.0) -> None:
        """Let the group run on; one that runs is fine. Conflict while a group above it is frozen."""
        directory, version = self._freezer()
        try:
            (v1_freezer if version == 1 else v2_freezer).thaw(directory, self.path, deadline_s)
        except OSError as error:
            raise self._failed("cannot be thawed", error) from error

    def is_frozen(self) -> bool:
        """Whether the group stands still."""
        directory, version = self._freezer()
        try:
            return v1_freezer.is_frozen(directory) if version == 1 else v2_freezer.is_frozen(directory)
        except OSError as error:
            raise self._failed("does not tell its state", error) from error

    def kill(self, deadline_s: float = 10.0) -> None:
        """SIGKILL every process in the group and in those inside it, however fast they fork, and wait until
        none is left.

        With a deadline of 0 the signals are sent once and nothing is waited for; else Unavailable after the
        deadline. A group that is not there has nothing to kill.
        """
        directory = self._process_directory()
        freezer = (directory, self._versions[directory]) if "freezer" in self._directories else None

        def processes() -> list[int]:
            return tree.pids(directory, recursive=True)

        if deadline_s <= 0:
            killing.kill(freezer, processes)
        elif not killing.empty(freezer, processes, deadline_s):
            raise Unavailable(
                f"group {self.path} still has the processes {_some(processes())} {deadline_s:g} s after "
                "SIGKILL, most likely waiting for a disk or the network; try again when that answers"
            )

    def remove(self, deadline_s: float = 2.0) -> bool:
        """Remove the group with those inside it; False if there was nothing. Its processes must have been
        ended before.

        The kernel is busy with a group for a moment after its last process: that is waited for up to the
        deadline, after which Conflict names the processes that are left.
        """
        end = time.monotonic() + deadline_s
        there = [directory for directory in self._versions if os.path.isdir(directory)]
        for directory in there:
            try:
                gone = tree.remove(directory, end)
            except OSError as error:
                raise self._failed("cannot be removed", error) from error
            if not gone:
                left = tree.pids(directory, recursive=True)
                because = f"it still has the processes {_some(left)}" if left else "the kernel keeps it busy"
                raise Conflict(
                    f"group {self.path} cannot be removed from {directory} within {deadline_s:g} s because "
                    f"{because}; kill it first, or try again"
                )
        return bool(there)

    # Inner parts.

    def _freezer(self) -> tuple[str, int]:
        directory = self._directories.get("freezer")
        if directory is None:
            raise NotSupported(
                f"group {self.path} cannot be frozen because this host has neither the freezer of cgroups "
                "v1 nor a cgroups v2 tree"
            )
        return directory, self._versions[directory]

    def _process_directory(self) -> str:
        """Where the processes are looked up: where they can be frozen, else anywhere."""
        return self._directories.get("freezer") or next(iter(self._versions))

    def _contents(self, controller: Controller, directory: str) -> dict[str, str]:
        try:
            found = ((file, interface.read_if_there(f"{directory}/{file}")) for file in controller.FILES)
            return {file: text for file, text in found if text is not None}
        except OSError as error:
            raise self._failed("cannot be read", error) from error

    def _lacks(self, controller: str) -> bool:
        """Whether the group is there without its disks being limited: it was made before the agent did that,
        or this kernel has no files for it.
        """
        return controller in _DISKS and any(os.path.isdir(directory) for directory in self._versions)

    def _without(self, controller: str) -> MooringError:
        directory = self._directories[controller]
        if not os.path.isdir(directory):
            return self._missing()
        return Conflict(
            f"group {self.path} exists but has no limits of the {controller} controller in {directory}, "
            "because the groups above it do not hand it down; make the group again with create"
        )

    def _missing(self) -> NotFound:
        return NotFound(f"group {self.path} does not exist on this host; create it first")

    def _failed(self, what: str, error: OSError) -> MooringError:
        if error.errno in interface.GONE:
            return self._missing()
        return Conflict(f"group {self.path} {what}: {error.strerror} ({error.filename or 'write'})")

    def _cannot_make(self, error: OSError) -> MooringError:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return NotSupported(
                f"group {self.path} cannot be made: {error.strerror} ({error.filename}); expected writable "
                "cgroup file systems and root, which a container does not have unless it is told to"
            )
        return Conflict(f"group {self.path} cannot be made: {error.strerror} ({error.filename or 'write'})")


def _some(pids: list[int]) -> str:
    shown = ", ".join(str(pid) for pid in pids[:5])
    return shown + (f" and {len(pids) - 5} more" if len(pids) > 5 else "")
