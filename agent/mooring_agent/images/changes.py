# SPDX-License-Identifier: Apache-2.0
"""Instructions of a Dockerfile that change an image's configuration (`--change` of commit and import). Pure.

They are read, expanded and applied as in a build on that image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.config import configure, environment_of, finished
from mooring_agent.images.build.errors import place_of
from mooring_agent.images.dockerfile.errors import DockerfileError, Location
from mooring_agent.images.dockerfile.instructions import Cmd, Instruction
from mooring_agent.images.dockerfile.interpret import interpret
from mooring_agent.images.dockerfile.parser import parse_syntax
from mooring_agent.images.dockerfile.syntax import Node

_FILE = "--change"  # stands for the Dockerfile's name in messages
# Those that dockerd takes (moby, daemon/builder/dockerfile/builder.go, validCommitCommands): none that makes
# layers, and none that says something about a build.
_ALLOWED = (
    *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD"),
    *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)


def apply_changes(config: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return the `config` object of an OCI image configuration after instructions; what is empty is left out.

    `changes` together are the lines of a Dockerfile without FROM. As in a build, ENTRYPOINT without a CMD
    before it drops the CMD that was there. Raises InvalidSpec with the line and its instruction.
    """
    text = "\n".join(changes)
    if not text.strip():
        return finished(config, {})
    tree = parse_syntax(text.encode("utf-8", "surrogateescape"), _FILE)
    has_command = False
    for instruction in [_allowed(node) for node in tree.nodes]:
        has_command = has_command or isinstance(instruction, Cmd)
        expanded = instruction.expand(environment_of(config).get, tree.escape)
        try:
            config = configure(config, expanded, has_command=has_command)
        except InvalidSpec as error:
            error.put_before(f"{place_of(instruction.location)}: ")
            raise
    return finished(config, {})


def _allowed(node: Node) -> Instruction:
    if node.name.upper() not in _ALLOWED:
        raise DockerfileError(
            f"{node.name.upper()} is no instruction that changes the configuration of an image: "
            f"expected one of {', '.join(_ALLOWED)}",
            Location(_FILE, node.start, node.end, node.original),
        )
    return interpret(node, _FILE)
