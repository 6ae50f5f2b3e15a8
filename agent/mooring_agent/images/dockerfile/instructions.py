# SPDX-License-Identifier: Apache-2.0
"""The instructions of a Dockerfile, typed and checked.

Each keeps its words as they were written; `expand` gives the same instruction with the variables of that
place of a build. Which words are expanded is the language's to say: none of RUN (but for its mounts), CMD,
ENTRYPOINT, SHELL, HEALTHCHECK and MAINTAINER (a shell expands them, or nothing does), and those of ONBUILD
where it triggers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, TypeVar

from .errors import DockerfileError, Location
from .expansion import Expansion
from .mounts import Mount, MountFlag
from .ports import exposed_ports
from .syntax import Heredoc
from .words import Lookup

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Instruction:
    """What all have: where it stands."""

    location: Location

    def expand(self, lookup: Lookup, escape: str = "\\") -> Self:
        """The same with its variables replaced; `escape` is the Dockerfile's. Raises DockerfileError."""
        return self._located(lambda: self._expanded(Expansion(lookup, escape)))

    def _expanded(self, _expansion: Expansion) -> Self:
        return self

    def _located(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except DockerfileError as error:
            raise error.at(self.location) from None


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """FROM: the image or stage that a stage begins with; `name` is in lower case, "" if it has none.

    `platform` is "" unless `--platform` is there. Expanded with the global ARGs alone.
    """

    image: str
    platform: str = ""
    name: str = ""

    def _expanded(self, expansion: Expansion) -> Self:
        image, platform = expansion.word(self.image), expansion.word(self.platform)
        if not image:
            raise DockerfileError(
                f"the image {self.image} is empty: expected its variables to have values "
                "(an ARG before the first FROM, or a build argument)"
            )
        if self.platform and not platform:
            raise DockerfileError(f"the platform {self.platform} is empty: expected one as linux/amd64")
        return replace(self, image=image, platform=platform)


@dataclass(frozen=True, slots=True)
class Argument:
    """A name of ARG and its default, None if it has none."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """ARG: variables of the build, whose values the user may give."""

    arguments: tuple[Argument, ...]

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(
            self,
            arguments=tuple(
                Argument(one.name, None if one.value is None else expansion.word(one.value))
                for one in self.arguments
            ),
        )

    def assign(
        self, given: Mapping[str, str], inherited: Lookup, lookup: Lookup, escape: str = "\\"
    ) -> tuple[Argument, ...]:
        """What the arguments are: what is given (build arguments), else the default, expanded with `lookup`
        and the arguments before it, else what is inherited (the global ARGs), else None: not set.
        """
        assigned: dict[str, str] = {}

        def known(name: str) -> str | None:
            return assigned[name] if name in assigned else lookup(name)

        result: list[Argument] = []
        for one in self.arguments:
            value = given.get(one.name)
            if value is None and one.value is not None:
                value = self._located(partial(Expansion(known, escape).word, one.value))
            elif value is None:
                value = inherited(one.name)
            if value is not None:
                assigned[one.name] = value
            result.append(Argument(one.name, value))
        return tuple(result)


@dataclass(frozen=True, slots=True)
class Pair:
    """A name and its value."""

    name: str
    value: str

    def expanded(self, expansion: Expansion) -> Pair:
        """Both are expanded."""
        return Pair(expansion.word(self.name), expansion.word(self.value))


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    """ENV: variables of the build and of the containers. All see the environment before the instruction."""

    pairs: tuple[Pair, ...]

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, pairs=tuple(pair.expanded(expansion) for pair in self.pairs))


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    """LABEL: the image's labels."""

    pairs: tuple[Pair, ...]

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, pairs=tuple(pair.expanded(expansion) for pair in self.pairs))


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command: the words of the JSON form, or with `shell` the one text that the stage's SHELL is given.

    In shell form the words are () where there is no text at all. Heredocs are RUN's alone.
    """

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """RUN. `network` is default, none or host; `security` is sandbox or insecure."""

    command: CommandLine
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"
    security: str = "sandbox"

    def expand_mounts(self, lookup: Lookup, escape: str = "\\") -> tuple[Mount, ...]:
        """The mounts, which are all of it that is expanded. Raises DockerfileError."""
        expansion = Expansion(lookup, escape)
        return self._located(lambda: tuple(mount.expand(expansion) for mount in self.mounts))


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file whose content is a heredoc; `expand`: the content has variables."""

    name: str
    content: str
    expand: bool


@dataclass(frozen=True, slots=True)
class Transfer(Instruction):
    """What COPY and ADD have in common.

    `chown` and `chmod` are "" unless they are there. `excludes` are patterns as those of .dockerignore and
    are not expanded; nor are inline files that quote their word.
    """

    sources: tuple[str, ...]
    files: tuple[InlineFile, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(
            self,
            sources=tuple(map(expansion.word, self.sources)),
            files=tuple(
                replace(file, content=expansion.content(file.content)) if file.expand else file
                for file in self.files
            ),
            destination=expansion.word(self.destination),
            chown=expansion.word(self.chown),
            chmod=expansion.word(self.chmod),
        )


@dataclass(frozen=True, slots=True)
class Copy(Transfer):
    """COPY. `origin` is the stage or image of `--from`, "" for the build context; it has no variables."""

    origin: str = ""
    parents: bool = False


@dataclass(frozen=True, slots=True)
class Add(Transfer):
    """ADD. `keep_git_dir` and `unpack` are None where the default of the source's kind holds."""

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(Transfer._expanded(self, expansion), checksum=expansion.word(self.checksum))


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    """CMD: the container's default command."""

    command: CommandLine


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    """ENTRYPOINT: what the command is given to."""

    command: CommandLine


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    """SHELL: what runs commands in shell form from here on."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User(Instruction):
    """USER: user and group, by name or number."""

    user: str

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, user=expansion.word(self.user))


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    """WORKDIR: absolute, or relative to the one before."""

    path: str

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, path=expansion.word(self.path))


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    """VOLUME: paths that containers get volumes at."""

    paths: tuple[str, ...]

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, paths=tuple(map(expansion.word, self.paths)))


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    """EXPOSE: as written, and once expanded one `port/protocol` each."""

    ports: tuple[str, ...]

    def _expanded(self, expansion: Expansion) -> Self:
        words = [word for port in self.ports for word in expansion.words(port)]
        return replace(self, ports=tuple(port for word in words for port in exposed_ports(word)))


@dataclass(frozen=True, slots=True)
class StopSignal(Instruction):
    """STOPSIGNAL: a name or a number."""

    signal: str

    def _expanded(self, expansion: Expansion) -> Self:
        return replace(self, signal=expansion.word(self.signal))


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """HEALTHCHECK: `test` as in an image's config (NONE, CMD or CMD-SHELL first); times are in nanoseconds,
    and 0 where the default holds.
    """

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    """ONBUILD: the text of an instruction that is run where the image is a base; `stages.parse_trigger` reads
    it. The instruction in it is checked already.
    """

    trigger: str


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    """MAINTAINER: the image's author."""

    author: str
