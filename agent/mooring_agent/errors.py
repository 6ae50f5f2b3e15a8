# SPDX-License-Identifier: Apache-2.0
"""The one family of exceptions that crosses Mooring's seams.

A message is one sentence that names the thing, says what is wrong with it, what was expected and what to do.
`status` is the HTTP status with which the error crosses the API, `code` its stable name for programs.
"""

from __future__ import annotations

from typing import Self


class MooringError(Exception):
    """An error that a user is meant to read."""

    status = 500
    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def put_before(self, words: str) -> None:
        """Begin the message with what the error meant for the thing at hand."""
        self.message = f"{words}{self.message}"
        self.args = (self.message,)

    def copied(self) -> Self:
        """The same error as an object of its own, for one of several who wait for the same work."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        return other


class InvalidSpec(MooringError):
    """What was asked for is not well formed."""

    status = 400
    code = "invalid"


class Unauthorized(MooringError):
    """Another party wants to know who is asking, and was not told or does not believe it."""

    status = 401
    code = "unauthorized"


class Denied(MooringError):
    """Another party knows who is asking, and does not allow it."""

    status = 403
    code = "denied"


class Predefined(MooringError):
    """The named thing is always there, and what was asked for would take it away."""

    status = 403
    code = "predefined"


class ReadOnly(MooringError):
    """What would be changed is declared not to be."""

    status = 403
    code = "read_only"


class NotFound(MooringError):
    """The named thing does not exist."""

    status = 404
    code = "not_found"


class Conflict(MooringError):
    """What was asked for clashes with what is there."""

    status = 409
    code = "conflict"


class AddressTaken(Conflict):
    """Another container has the address that one asks for; it may be free when this one starts."""


class NotSupported(MooringError):
    """This host or this version cannot do it."""

    status = 501
    code = "not_supported"


class MissingProgram(NotSupported):
    """A program of the host is needed and absent."""

    code = "missing_program"


class Unavailable(MooringError):
    """Something that should answer does not; trying again may help."""

    status = 503
    code = "unavailable"


class Ended(Unavailable):
    """The process of a container, or one that was to become it, has ended, and nobody has told yet."""


class LaunchFailed(MooringError):
    """The container's process could not be started."""

    status = 500
    code = "launch_failed"
