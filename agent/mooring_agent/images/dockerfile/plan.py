# SPDX-License-Identifier: Apache-2.0
"""Which stages a target needs, what each of them needs, and what runs in each.

A stage needs another one because it begins with it (FROM), copies from it (COPY --from) or mounts it
(RUN --mount=from=). It can only need stages that stand before it, so there are no circles. Stages that do not
need each other, directly or through others, can be built at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import DockerfileError, nearest
from .instructions import Copy, From, Instruction, Onbuild, Run
from .stages import Dockerfile, Stage, parse_trigger
from .words import Lookup

SCRATCH = "scratch"
_LONGEST_NUMBER = 9  # digits of the number of a stage


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage to build.

    `base` is its FROM, expanded. `parent` is the index of the stage that it begins with; if it is None, it
    begins with the image `base.image`, or with nothing if that is SCRATCH. `instructions` are those that its
    base triggers (ONBUILD), then its own. `origins` says of each name in COPY --from and RUN --mount=from=
    which stage it is; a name that is not there is an image's, and among `images`. `needs` are the
    stages to be built before.
    """

    index: int
    base: From
    parent: int | None
    instructions: tuple[Instruction, ...]
    origins: Mapping[str, int]
    needs: frozenset[int]
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """The stages that the target needs, each behind those that it needs itself; the target is the last."""

    stages: tuple[PlannedStage, ...]

    @property
    def target(self) -> PlannedStage:
        """What is to be built."""
        return self.stages[-1]


def plan_stages(
    dockerfile: Dockerfile,
    global_args: Lookup,
    target: str = "",
    triggers: Mapping[int, Sequence[str]] | None = None,
) -> BuildPlan:
    """Plan the build of a stage by its name, or of the last one.

    `global_args` has the values of the ARGs before the first FROM. `triggers` are, by the index of a stage,
    those that the image of its FROM brings (ONBUILD in the image's config): a plan without them tells which
    images are needed, then a second one is made. Those of stages are known. Raises DockerfileError.
    """
    planner = _Planner(dockerfile, global_args, triggers or {})
    planned = planner.plan()
    wanted = planner.target(target)
    needed = {wanted}
    for one in reversed(planned[: wanted + 1]):
        if one.index in needed:
            needed |= one.needs
    return BuildPlan(tuple(one for one in planned if one.index in needed))


class _Planner:
    def __init__(
        self, dockerfile: Dockerfile, global_args: Lookup, triggers: Mapping[int, Sequence[str]]
    ) -> None:
        self._dockerfile = dockerfile
        self._global_args = global_args
        self._triggers = triggers
        # The last stage of each name: of all, and of those above the one that is looked at.
        self._all = {stage.name: stage.index for stage in dockerfile.stages if stage.name}
        self._above: dict[str, int] = {}
        self._planned: list[PlannedStage] = []

    def plan(self) -> list[PlannedStage]:
        """All stages, needed or not: also in those that are not, names have to make sense."""
        for stage in self._dockerfile.stages:
            self._planned.append(self._plan(stage))
            if stage.name:
                self._above[stage.name] = stage.index
        return self._planned

    def target(self, name: str) -> int:
        """The stage to build."""
        if not name:
            return len(self._planned) - 1
        index = self._all.get(name.lower())
        if index is None:
            hint = nearest(name.lower(), self._all) if self._all else "none has a name (FROM … AS name)"
            raise DockerfileError(f"{self._dockerfile.file} has no stage {name!r} to build: {hint}")
        return index

    def _plan(self, stage: Stage) -> PlannedStage:
        base = stage.base.expand(self._global_args, self._dockerfile.escape)
        parent = self._above.get(base.image.lower())
        triggers = self._triggers.get(stage.index, ())
        if parent is not None:
            above = self._planned[parent].instructions
            triggers = [one.trigger for one in above if isinstance(one, Onbuild)]
        instructions = (*(parse_trigger(trigger, base) for trigger in triggers), *stage.instructions)
        origins: dict[str, int] = {}
        images: dict[str, None] = {}
        for instruction in instructions:
            for name in _origins(instruction):
                index = self._origin(stage, name, instruction)
                if index is None:
                    images[name] = None
                else:
                    origins[name] = index
        needs = frozenset((*origins.values(), *(() if parent is None else (parent,))))
        return PlannedStage(stage.index, base, parent, instructions, origins, needs, tuple(images))

    def _origin(self, stage: Stage, name: str, instruction: Instruction) -> int | None:
        """The stage that is meant, None if it is an image."""
        if name.isascii() and name.isdigit():
            last = len(self._dockerfile.stages) - 1
            index = int(name) if len(name) <= _LONGEST_NUMBER else last + 1
            if index > last:
                raise DockerfileError(
                    f"there is no stage {name}: expected one from 0 to {last}", instruction.location
                )
        else:
            found = self._above.get(name.lower(), self._all.get(name.lower()))
            if found is None:
                return None
            index = found
        if index >= stage.index:
            which = "is this stage itself" if index == stage.index else "stands below"
            raise DockerfileError(
                f"the stage {name} {which}: expected one above this stage", instruction.location
            )
        return index


def _origins(instruction: Instruction) -> list[str]:
    """The stages and images that it takes from, as they are written."""
    if isinstance(instruction, Copy):
        return [instruction.origin] if instruction.origin else []
    if isinstance(instruction, Run):
        return [mount.origin for mount in instruction.mounts if mount.origin]
    return []
