# SPDX-License-Identifier: Apache-2.0
"""A Dockerfile as a whole: global arguments, stages, warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .directives import Directive
from .errors import DockerfileError
from .instructions import Arg, Expose, From, Instruction, Maintainer, Onbuild
from .interpret import interpret
from .parser import DockerfileWarning, parse_syntax
from .syntax import Node


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and the instructions up to the next one; `index` counts from 0."""

    index: int
    base: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """The name behind AS, in lower case, "" if there is none."""
        return self.base.name


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """All of it. `global_args` stand before the first FROM: FROM may use them, and a stage that names them in
    an ARG of its own. `escape` is what `expand` of the instructions wants. `file` is its name in messages.
    """

    file: str
    stages: tuple[Stage, ...]
    global_args: tuple[Arg, ...]
    directives: tuple[Directive, ...]
    escape: str
    warnings: tuple[DockerfileWarning, ...]


def parse_dockerfile(text: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Read and check a Dockerfile; `file` is its name in messages. Raises DockerfileError, whose message has
    the line and the instruction.
    """
    tree = parse_syntax(text, file)
    global_args: list[Arg] = []
    bases: list[From] = []
    bodies: list[list[Instruction]] = []
    names: set[str] = set()
    warnings = list(tree.warnings)
    for node in tree.nodes:
        instruction = interpret(node, file)
        warnings += _warnings(node, instruction)
        if isinstance(instruction, From):
            if instruction.name and instruction.name in names:
                warnings.append(
                    DockerfileWarning(file, node.start, f"the stage name {instruction.name} is there twice")
                )
            names.add(instruction.name)
            bases.append(instruction)
            bodies.append([])
        elif bodies:
            bodies[-1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError(
                f"{node.name.upper()} stands before the first FROM: expected FROM, with ARG alone before it",
                instruction.location,
            )
    if not bases:
        raise DockerfileError("it has no FROM: expected one at least", global_args[-1].location)
    stages = tuple(
        Stage(index, base, tuple(body)) for index, (base, body) in enumerate(zip(bases, bodies, strict=True))
    )
    return Dockerfile(file, stages, tuple(global_args), tree.directives, tree.escape, tuple(warnings))


def parse_trigger(trigger: str, base: From) -> Instruction:
    """The instruction that an image or stage has left for those that begin with it (ONBUILD).

    Its place is that of the FROM. Raises DockerfileError.
    """
    location = replace(base.location, source=f"ONBUILD {trigger}")
    try:
        nodes = parse_syntax(trigger.encode("utf-8", "surrogateescape"), location.file).nodes
        instruction = interpret(nodes[0], location.file)
    except DockerfileError as error:
        raise DockerfileError(f"a trigger of {base.image}: {error.problem}", location) from None
    if len(nodes) != 1 or isinstance(instruction, From | Maintainer | Onbuild):
        raise DockerfileError(
            f"a trigger of {base.image}: expected one instruction, none of FROM, MAINTAINER and ONBUILD",
            location,
        )
    return replace(instruction, location=location)


def _warnings(node: Node, instruction: Instruction) -> Iterator[DockerfileWarning]:
    """What the language allows and advises against."""
    location = instruction.location
    if isinstance(instruction, Maintainer):
        yield DockerfileWarning(
            location.file, location.start, "MAINTAINER is deprecated: LABEL maintainer=… says the same"
        )
    if node.name.lower() in ("env", "label") and node.arguments[2] == "":
        name = node.name.upper()
        yield DockerfileWarning(
            location.file,
            location.start,
            f"{name} name value is the old form: {name} name=value says the same",
        )
    if isinstance(instruction, Expose):
        for port in instruction.ports:
            if ":" in port and "$" not in port:
                yield DockerfileWarning(
                    location.file,
                    location.start,
                    f"EXPOSE {port}: the host's port says nothing here, EXPOSE publishes nothing",
                )
