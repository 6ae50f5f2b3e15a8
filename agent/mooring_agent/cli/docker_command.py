# SPDX-License-Identifier: Apache-2.0
"""`docker system dial-stdio`, for hosts without a docker client: what `docker -H ssh://HOST` runs there.

`mooring` under the name `docker` knows this one command, with `--host unix://PATH` before it for an address
such as `ssh://HOST/PATH`. It is no docker client.
"""

from __future__ import annotations

import sys

_COMMAND = ["system", "dial-stdio"]
_SCHEME = "unix://"
NOT_FOUND = 127  # as a shell ends where a command is not there


def translated(arguments: list[str]) -> list[str] | None:
    """Mooring's arguments for docker's; None for a command that only a docker client has. Pure."""
    socket: list[str] = []
    if len(arguments) >= 2 and arguments[0] in ("--host", "-H") and arguments[1].startswith(_SCHEME):
        socket, arguments = ["--socket", arguments[1].removeprefix(_SCHEME)], arguments[2:]
    return [*_COMMAND, *socket] if arguments == _COMMAND else None


def main(arguments: list[str]) -> int:
    """Run docker's command; returns its exit status."""
    words = translated(arguments)
    if words is None:
        print(
            f"docker: there is no docker client on this host, only what {' '.join(_COMMAND)} needs for "
            "docker -H ssh://…; use mooring, or install a docker client",
            file=sys.stderr,
        )
        return NOT_FOUND
    from mooring_agent.cli.dispatch import dispatch

    return dispatch(words)
