# SPDX-License-Identifier: Apache-2.0
"""Builds: from a Dockerfile and a context to an image of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from mooring_agent.errors import InvalidSpec, MooringError, NotFound, Unavailable
from mooring_agent.failpoints import reached
from mooring_agent.images.build import config as configuring
from mooring_agent.images.build.cachemounts import CacheMounts
from mooring_agent.images.build.commands import PROXIES
from mooring_agent.images.build.context import receive_context
from mooring_agent.images.build.errors import place_of
from mooring_agent.images.build.layering import Layer, Layering
from mooring_agent.images.build.options import EPOCH, BuildOptions
from mooring_agent.images.build.remote import remote_context
from mooring_agent.images.build.reporting import WARNING, Reporting
from mooring_agent.images.build.roots import Roots
from mooring_agent.images.build.running import Runner
from mooring_agent.images.build.stage import StageBuild, StageResult
from mooring_agent.images.build.work import Work
from mooring_agent.images.dockerfile.plan import SCRATCH, BuildPlan, PlannedStage, plan_stages
from mooring_agent.images.dockerfile.stages import Dockerfile, parse_dockerfile
from mooring_agent.images.image import Image, Progress, ProgressEvent
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import NewImage, rfc3339, write_image
from mooring_agent.images.manifests import oci_layer
from mooring_agent.images.platform import Platform, host_platform
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.registry.settings import Credentials
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Cancelled, Stop

_AT_ONCE = 4  # stages

_Wanted = tuple[str, Platform]  # an image by its name, for a platform


class Bases(Protocol):
    """Where the images come from that a build begins with or copies from."""

    def base(
        self,
        reference: str,
        platform: Platform,
        progress: Progress,
        stop: Stop,
        *,
        pull: bool,
        credentials: Mapping[str, Credentials],
    ) -> Image:
        """The image of a name; with `pull` the newest one of its registry. Raises NotFound, Unavailable.

        `credentials` are those of registries by their names, in place of the host's.
        """
        ...

    def present(self, reference: str) -> Image | None:
        """The image of a name, if it is there."""
        ...


class Builder:
    """Builds images of one store. Methods may be called from any thread, several at a time."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self.cache_mounts = CacheMounts(state.content.root / "cache-mounts")

    def build(
        self,
        options: BuildOptions,
        chunks: Iterator[bytes],
        runner: Runner,
        bases: Bases,
        progress: Progress,
        cancelled: threading.Event,
    ) -> Image:
        """Build an image from a context, a tar archive that comes in pieces, and give it its tags.

        Nothing is left of a build that fails but what it has put into the cache. Raises DockerfileError and
        InvalidSpec for what is wrong with Dockerfile or context, BuildFailed for a command that fails,
        NotFound for an image that is not there, Unavailable, Cancelled when `cancelled` is set.
        """
        options = options.checked()
        try:
            with (
                _limited(options.time_limit, cancelled) as expired,
                self._state.taking("build"),
                self._state.leases.hold("build") as lease,
                self._state.content.scratch() as scratch,
                ExitStack() as held,
            ):
                stop = Stop("the build", cancelled)
                try:
                    one = _Build(self._state, self.cache_mounts, options, runner, bases, progress, stop)
                    return one.run(chunks, lease, scratch, held)
                except Cancelled:
                    if expired.is_set():
                        raise Unavailable(
                            f"the build took longer than its limit of {options.time_limit:g} s: raise the "
                            "limit, or see which step hangs"
                        ) from None
                    raise
        finally:
            self._state.collect()


@contextmanager
def _limited(seconds: float, cancelled: threading.Event) -> Iterator[threading.Event]:
    """Cancel after a time; the event tells whether that was so."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        cancelled.set()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


class _Build:
    """One build."""

    def __init__(
        self,
        state: StoreState,
        cache_mounts: CacheMounts,
        options: BuildOptions,
        runner: Runner,
        bases: Bases,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._state = state
        self._cache_mounts = cache_mounts
        self._options = options
        self._runner = runner
        self._bases = bases
        self._progress = progress
        self._stop = stop
        self._platform = options.platform or host_platform()
        self._args = dict(options.args)
        latest = options.latest()
        if latest is not None:
            self._args[EPOCH] = str(latest)

    def run(self, chunks: Iterator[bytes], lease: Lease, scratch: Path, held: ExitStack) -> Image:
        """From the context to the image."""
        options, state = self._options, self._state
        directory = scratch / "context"
        directory.mkdir()
        work_directory = scratch / "work"
        work_directory.mkdir(mode=0o700)
        text = options.text
        if options.remote:
            begun = options.remote, options.dockerfile, work_directory, held, self._stop, self._progress
            chunks, found = remote_context(*begun)
            text = found if text is None else text
        context = receive_context(self._watched(chunks), directory, options.dockerfile, text)
        held.callback(context.tree.close)
        reached("build-context")
        dockerfile = parse_dockerfile(context.dockerfile, options.dockerfile)
        for warning in dockerfile.warnings:
            self._warn(f"{warning.file}:{warning.line}: {warning.message}")
        global_args, used = self._global_args(dockerfile)
        plan = plan_stages(dockerfile, global_args.get, options.target)
        images = self._images(plan, lease)
        triggers = {
            stage.index: images[base].config.get("OnBuild") or ()
            for stage in plan.stages
            if stage.parent is None and (base := self._base(stage)) in images
        }
        if any(triggers.values()):
            plan = plan_stages(dockerfile, global_args.get, options.target, triggers)
            images |= self._images(plan, lease, known=images)
        roots = Roots(state.snapshots)
        held.callback(roots.close)
        total = sum(1 + len(stage.instructions) for stage in plan.stages)
        work = Work(
            state=state,
            lease=lease,
            layering=Layering(state, lease, self._stop),
            options=options,
            dockerfile=dockerfile,
            context=context,
            roots=roots,
            runner=self._runner,
            cache_mounts=self._cache_mounts,
            reporting=Reporting(self._progress, total),
            stop=self._stop,
            scratch=work_directory,
            held=held,
            args=self._args,
            latest=options.latest(),
            globals=global_args,
            images={
                name: image.chain for (name, platform), image in images.items() if platform == self._platform
            },
            used=used,
            sources=self._sources(lease),
        )
        result = self._stages(work, plan, images)
        unused = sorted(set(options.args) - work.used - PROXIES - {EPOCH})
        if unused:
            self._warn(f"build arguments that no ARG names: {', '.join(unused)}")
        return self._finish(work, result)

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._stop.check()
            yield chunk

    def _warn(self, text: str) -> None:
        self._progress(ProgressEvent(WARNING, detail=text))

    def _global_args(self, dockerfile: Dockerfile) -> tuple[dict[str, str], set[str]]:
        """The values of what stands before the first FROM and of what is always known; and what was named."""
        known = _platform_args(self._platform, self._options.target)
        used: set[str] = set()
        for arg in dockerfile.global_args:
            for argument in arg.assign(self._args, known.get, known.get, dockerfile.escape):
                used.add(argument.name)
                if argument.value is not None:
                    known[argument.name] = argument.value
        return known, used

    def _base(self, stage: PlannedStage) -> _Wanted:
        """The image that a stage begins with."""
        named = stage.base.platform
        return stage.base.image, Platform.parse(named) if named else self._platform

    def _images(
        self, plan: BuildPlan, lease: Lease, known: Mapping[_Wanted, StageResult] | None = None
    ) -> dict[_Wanted, StageResult]:
        """The images that a plan needs, ready to be built on."""
        found: dict[_Wanted, StageResult] = {}
        for stage in plan.stages:
            wanted = [(name, self._platform) for name in stage.images]
            if stage.parent is None and stage.base.image != SCRATCH:
                wanted.append(self._base(stage))
            for name, platform in wanted:
                if (name, platform) in found or (known and (name, platform) in known):
                    continue
                try:
                    image = self._bases.base(
                        name,
                        platform,
                        self._progress,
                        self._stop,
                        pull=self._options.pull,
                        credentials=self._options.credentials,
                    )
                except Cancelled:
                    raise
                except MooringError as error:
                    error.put_before(f"{place_of(stage.base.location)}: ")
                    raise
                found[name, platform] = self._ready(image, lease)
        return found

    def _sources(self, lease: Lease) -> tuple[StageResult, ...]:
        """The images that stand for the cache, of those that are there."""
        if self._options.no_cache or self._options.latest() is not None:
            return ()  # their times are not those that are wanted
        named = (self._bases.present(name) for name in self._options.cache_from)
        return tuple(self._ready(image, lease) for image in named if image is not None)

    def _ready(self, image: Image, lease: Lease) -> StageResult:
        state = self._state
        with state.lock:
            holdings = state.holdings.of_image(image.id)
            if not holdings:
                raise NotFound(f"image {image.name} was removed meanwhile: get it again")
            holding = holdings[-1]
            lease.add(*holding.digests(), *holding.chains())
        ensure_layers(state, holding, self._progress, within=self._stop)
        config = holding.config
        layers = zip(holding.manifest.layers, config.diff_ids, strict=True)
        return StageResult(
            tuple(Layer(oci_layer(layer), diff_id) for layer, diff_id in layers),
            config.config,
            config.history,
            config.platform,
            config.author,
            rfc3339(config.created_at),
        )

    def _stages(self, work: Work, plan: BuildPlan, images: Mapping[_Wanted, StageResult]) -> StageResult:
        """Build the stages, those that do not need each other at the same time."""
        futures: dict[int, Future[StageResult]] = {}
        scratch = StageResult((), {"Env": [f"PATH={configuring.DEFAULT_PATH}"]}, (), self._platform, "", "")

        def build(stage: PlannedStage, first_step: int) -> StageResult:
            for index in stage.needs:  # they began before this one, so somebody is at work on them
                futures[index].result()
            if stage.parent is not None:
                base = futures[stage.parent].result()
            else:
                base = images.get(self._base(stage), scratch)
            result = StageBuild(work, stage, base, first_step).run()
            work.stages[stage.index] = result.chain
            return result

        step = 1
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
            try:
                for stage in plan.stages:
                    futures[stage.index] = pool.submit(self._or_stop(build), stage, step)
                    step += 1 + len(stage.instructions)
                failures = [error for one in futures.values() if (error := one.exception()) is not None]
            except BaseException:
                self._stop.set()
                raise
        # What failed first has stopped the others.
        for error in sorted(failures, key=lambda one: isinstance(one, Cancelled)):
            raise error
        return futures[plan.target.index].result()

    def _or_stop(
        self, build: Callable[[PlannedStage, int], StageResult]
    ) -> Callable[[PlannedStage, int], StageResult]:
        def guarded(stage: PlannedStage, first_step: int) -> StageResult:
            try:
                return build(stage, first_step)
            except BaseException:
                self._stop.set()
                raise

        return guarded

    def _finish(self, work: Work, result: StageResult) -> Image:
        options = self._options
        created = work.moment(result.created)
        new = NewImage(
            result.platform,
            configuring.finished(result.config, options.labels),
            result.history,
            result.author,
            created,
        )
        reached("build-finish")
        try:
            return write_image(
                self._state,
                work.lease,
                [layer.descriptor for layer in result.layers],
                [layer.diff_id for layer in result.layers],
                new,
                options.names(),
            )
        except InvalidSpec as error:
            error.put_before("the image that was built cannot be stored: ")
            raise


def _platform_args(platform: Platform, target: str) -> dict[str, str]:
    """What is known without an ARG before the first FROM; a stage that names them in an ARG has them."""
    host = host_platform()
    known: dict[str, str] = {"TARGETSTAGE": target or "default"}
    for word, one in (("BUILD", host), ("TARGET", platform)):
        known |= {
            f"{word}PLATFORM": str(one),
            f"{word}OS": one.os,
            f"{word}ARCH": one.architecture,
            f"{word}VARIANT": one.variant,
        }
    return known
