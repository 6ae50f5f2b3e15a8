# SPDX-License-Identifier: Apache-2.0
"""One stage of a build: its instructions in order, each on the layers of those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mooring_agent.errors import InvalidSpec, MooringError, NotSupported, Unavailable
from mooring_agent.images.build import config as configuring
from mooring_agent.images.build.cache import Record, cache_key
from mooring_agent.images.build.cachesources import following, next_step
from mooring_agent.images.build.commands import Commands
from mooring_agent.images.build.copying import Placing
from mooring_agent.images.build.errors import BuildFailed, place_of
from mooring_agent.images.build.items import archive_items, digest_items
from mooring_agent.images.build.layering import Layer, chain_of
from mooring_agent.images.build.owners import owner_of
from mooring_agent.images.build.transfers import Transfers
from mooring_agent.images.build.work import Work
from mooring_agent.images.dockerfile import instructions as language
from mooring_agent.images.dockerfile.errors import DockerfileError
from mooring_agent.images.dockerfile.plan import PlannedStage
from mooring_agent.images.layers import NO_SPACE
from mooring_agent.images.platform import Platform
from mooring_agent.images.turns import Cancelled


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage has come to. `arguments` are those of its ARGs, None for one without a value."""

    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    platform: Platform
    author: str
    created: str
    arguments: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def chain(self) -> str:
        """The chain ID of its layers, "" for none."""
        return chain_of(self.layers)


class StageBuild:
    """Builds one stage. Raises MooringError with the place of the instruction."""

    def __init__(self, work: Work, planned: PlannedStage, base: StageResult, first_step: int) -> None:
        """`base` is what it begins with; `first_step` is the number of its FROM."""
        self._work = work
        self._planned = planned
        self._commands = Commands(work)
        self._now = base
        self._step = first_step
        self._has_command = False
        self._config: dict[str, Any] = dict(base.config)
        self._arguments = dict(base.arguments)
        self._config.pop("OnBuild", None)  # they are among the instructions
        self._sources = following(work.sources, base)

    def run(self) -> StageResult:
        """Do all instructions."""
        base = self._planned.base
        name = f" AS {base.name}" if base.name else ""
        self._work.reporting.step(self._step, f"FROM {base.image}{name}")
        for instruction in self._planned.instructions:
            self._step += 1
            self._work.stop.check()
            self._work.reporting.step(self._step, instruction.location.source)
            try:
                self._do(instruction)
            except DockerfileError as error:
                raise error.at(instruction.location) from None
            except (BuildFailed, Cancelled):
                raise
            except MooringError as error:
                error.put_before(f"{place_of(instruction.location)}: ")
                raise
            except OSError as error:
                raise self._failure(instruction, error) from error
        return replace(self._now, config=self._config, arguments=self._arguments)

    def _failure(self, instruction: language.Instruction, error: OSError) -> MooringError:
        """What an error of the kernel means: a disk that takes no more, or an impossible instruction."""
        place = place_of(instruction.location)
        if error.errno not in NO_SPACE:
            return InvalidSpec(f"{place}: {error}")
        return Unavailable(
            f"{place}: {self._work.state.content.root} takes no more ({error.strerror}): free some space, "
            "then try again"
        )

    def _do(self, instruction: language.Instruction) -> None:
        escape = self._work.dockerfile.escape
        if isinstance(instruction, language.Arg):
            assigned = instruction.assign(self._work.args, self._work.global_value, self._lookup, escape)
            for argument in assigned:
                self._arguments[argument.name] = argument.value
                self._work.used.add(argument.name)
            self._tell(replace(instruction, arguments=assigned))
            return
        expanded = instruction.expand(self._lookup, escape)
        match expanded:
            case language.Run():
                self._run(expanded)
            case language.Transfer():
                self._transfer(expanded)
            case language.Workdir():
                self._config = configuring.configure(self._config, expanded, has_command=self._has_command)
                self._workdir(expanded)
            case language.Maintainer(author=author):
                self._now = replace(self._now, author=author)
                self._tell(expanded)
            case _:
                if isinstance(expanded, language.Cmd):
                    self._has_command = True
                self._config = configuring.configure(self._config, expanded, has_command=self._has_command)
                self._tell(expanded)

    def _lookup(self, name: str) -> str | None:
        """A variable at this place: the environment, else the arguments."""
        found = configuring.environment_of(self._config).get(name)
        return found if found is not None else self._arguments.get(name)

    def _tell(
        self, instruction: language.Instruction, record: Record | None = None, argv: tuple[str, ...] = ()
    ) -> None:
        """Put an instruction into the history."""
        text = self._told(instruction, argv)
        if text is None:
            return
        created = self._work.moment(record.created if record is not None else self._now.created)
        entry: dict[str, Any] = {"created": created, "created_by": text, "comment": configuring.COMMENT}
        if record is None or record.layer is None:
            entry["empty_layer"] = True
        self._now = replace(self._now, history=(*self._now.history, entry), created=created)
        self._sources = following(self._sources, self._now)
        if self._sources and record is None:
            self._work.reporting.note("Using cache")

    def _told(self, instruction: language.Instruction, argv: tuple[str, ...]) -> str | None:
        """How the history tells an instruction at this place."""
        scope = [(name, value) for name, value in self._arguments.items() if value is not None]
        return configuring.told(instruction, self._config, scope, argv)

    # What makes layers

    def _workdir(self, instruction: language.Workdir) -> None:
        base = self._work.roots.tree(self._now.chain)
        user = self._config.get("User") or ""
        placing = Placing(base, owner_of(base, user) if user else (0, 0))
        placing.make_directory(placing.destination(self._config["WorkingDir"]))
        items = placing.items
        if not items:
            self._tell(instruction)
            return
        above = base.lstat(items[0].path.rpartition(b"/")[0])
        time = above.st_mtime_ns if above is not None else 0
        self._layer(
            instruction,
            ["WORKDIR", digest_items(items)],
            lambda: self._work.layering.from_archive(
                archive_items(items, self._work.latest, otherwise_ns=time), self._now.layers
            ),
        )

    def _transfer(self, instruction: language.Transfer) -> None:
        base = self._work.roots.tree(self._now.chain)
        transfers = Transfers(self._work, self._planned, base, self._config)
        items = transfers.items(instruction)
        if not items:
            self._tell(instruction)
            return
        self._layer(
            instruction,
            ["COPY", digest_items(items)],
            lambda: self._work.layering.from_archive(
                archive_items(items, self._work.latest), self._now.layers
            ),
        )

    def _run(self, instruction: language.Run) -> None:
        if instruction.security != "sandbox":
            raise NotSupported(
                f"RUN --security={instruction.security} is not supported: builds run with the confinement of "
                "containers alone"
            )
        command = self._commands.prepare(
            instruction,
            mounts=instruction.expand_mounts(self._lookup, self._work.dockerfile.escape),
            stage=self._planned,
            config=self._config,
            platform=self._now.platform,
            variables=self._variables(),
        )
        self._layer(
            instruction,
            ["RUN", command.facts],
            lambda: self._commands.run(command, self._now.layers),
            command.argv,
        )

    def _variables(self) -> dict[str, str]:
        """What a command has in its environment: arguments, and the image's over them."""
        scope = {name: value for name, value in self._arguments.items() if value is not None}
        return {**scope, **configuring.environment_of(self._config)}

    def _layer(
        self,
        instruction: language.Instruction,
        facts: list[Any],
        make: Callable[[], Layer | None],
        argv: tuple[str, ...] = (),
    ) -> None:
        """Take the layer of an instruction from the cache, or make it and keep it there."""
        work, below = self._work, self._now.chain
        key = cache_key(below, work.latest, *facts)
        with work.state.turns.turn(f"build {key}", work.stop):
            record = self._known(instruction, key, argv)
            if record is not None:
                work.reporting.note("Using cache")
            else:
                layer = make()
                record = work.keep(key, below, layer, instruction.location.source)
        if record.layer is not None:
            layers = (*self._now.layers, Layer(record.layer, record.diff_id))
            self._now = replace(self._now, layers=layers)
        self._tell(instruction, record, argv)

    def _known(self, instruction: language.Instruction, key: str, argv: tuple[str, ...]) -> Record | None:
        """What an instruction has come to before: of the cache, or of the images that are to be it."""
        work = self._work
        if work.options.no_cache:
            return None
        if not work.options.cache_from:
            return work.cached(key)
        step = next_step(self._sources, self._now, self._told(instruction, argv) or "")
        if step is None:
            return None
        if isinstance(instruction, language.Run) and not instruction.mounts:
            return work.keep(key, self._now.chain, step.layer, instruction.location.source, step.created)
        # What is not in a history is known of what was built here.
        record = work.cached(key)
        known = record is not None and record.diff_id == (step.layer.diff_id if step.layer else "")
        return record if known else None
