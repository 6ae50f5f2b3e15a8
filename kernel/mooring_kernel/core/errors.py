# SPDX-License-Identifier: Apache-2.0
"""The one family of exceptions of the kernel: each message is a sentence for the person at the notebook."""

from __future__ import annotations


class KernelError(Exception):
    """An error that a user is meant to read. `name` is what Jupyter shows before the message (`ename`)."""

    name = "MooringError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InventoryError(KernelError):
    """The inventory cannot be read, or says something that this kernel does not know."""

    name = "InventoryError"


class HostUnreachable(KernelError):
    """A host, or the agent on it, does not answer."""

    name = "HostUnreachable"


class ApiError(KernelError):
    """The agent refused a call: `status` is that of HTTP, `code` the agent's stable name of the error."""

    name = "AgentError"

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class UsageError(KernelError):
    """A magic was written in a way that it does not understand, or something was named that is not there."""

    name = "UsageError"


class ShellUnusable(KernelError):
    """A shell could not be opened in the container, or cannot take the cell."""

    name = "ShellError"


class ShellEnded(KernelError):
    """The shell itself has ended; `exit_code` is None where nobody could tell it."""

    name = "ShellEnded"

    def __init__(self, message: str, *, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ProgramStopped(KernelError):
    """A program was stopped because a cell cannot give it what it asks for."""

    name = "ProgramStopped"


class Interrupted(KernelError):
    """The user interrupted the cell."""

    name = "KeyboardInterrupt"


class ExitStatus(KernelError):
    """A cell or a command has ended with another status than 0."""

    name = "ExitStatus"

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status
