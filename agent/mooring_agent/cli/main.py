# SPDX-License-Identifier: Apache-2.0
"""The entry point of `mooring`."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status.

    `mooring keeper …` becomes the keeper before anything else is imported: it lives as long as the
    containers do and holds nothing that it does not need. `mooring oci …` is a command line of its own, for
    programs that drive a runtime, and so is `docker`, for docker's clients on other hosts.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None and sys.argv[0].rpartition("/")[2] == "docker":
        from mooring_agent.cli.docker_command import main as docker

        return docker(arguments)
    if arguments[:1] == ["keeper"]:
        from mooring_agent.keeper.main import main as keeper

        if len(arguments) != 2:
            print("mooring keeper: expected RUN_ROOT alone", file=sys.stderr)
            return 2
        return keeper(arguments[1])
    if arguments[:1] == ["oci"]:
        from mooring_agent.oci.entry import main as oci

        return oci(arguments[1:])
    from mooring_agent.cli.dispatch import dispatch

    return dispatch(arguments)
