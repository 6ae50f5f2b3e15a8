# SPDX-License-Identifier: Apache-2.0
"""Where the images come from that builds begin with, and builds that run nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from harness.waiting import PATIENCE
from mooring_agent.engine.buildruns import BuildRuns
from mooring_agent.engine.builds import Builds
from mooring_agent.engine.events import EventBus
from mooring_agent.errors import InvalidSpec, MooringError, NotFound, NotSupported
from mooring_agent.images.build.options import BuildOptions
from mooring_agent.images.image import Image, Progress, ProgressEvent, no_progress
from mooring_agent.images.platform import Platform, host_platform
from mooring_agent.images.registry.settings import Credentials
from mooring_agent.images.store import ImageStore
from mooring_agent.storage.overlay import OverlaySnapshotter
from unit.images.archives import archive, directory, member

CONTEXT = archive(member("f", data=b"content"))


class NoRuns:
    """Runs nothing: for builds without RUN."""

    def runner(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nobody asks for it."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    snapshots = OverlaySnapshotter(tmp_path / "overlay")
    yield ImageStore(tmp_path / "images", snapshots)
    snapshots.close()


@pytest.fixture
def builds(store: ImageStore) -> Builds:
    return Builds(store, cast(BuildRuns, NoRuns()), EventBus(), lambda name: False)


def add(store: ImageStore, name: str, architecture: str | None = None) -> Image:
    return store.import_rootfs(io.BytesIO(archive(directory("d"))), name, architecture=architecture)


def build(
    builds: Builds,
    dockerfile: str,
    progress: Progress = no_progress,
    context: bytes = CONTEXT,
    **options: Any,
) -> Image:
    async def chunks() -> AsyncIterator[bytes]:
        yield context

    whole = BuildOptions(text=dockerfile.encode(), **options)
    return asyncio.run(builds.build(whole, chunks(), progress))


def test_what_is_here_is_taken_and_what_is_not_is_named(builds: Builds, store: ImageStore) -> None:
    add(store, "base")
    image = build(builds, "FROM base\nLABEL a=b\n", tags=("made:1",))
    assert image.references == ("docker.io/library/made:1",)
    with pytest.raises(NotFound, match=r"Dockerfile:1: .*other"):
        build(builds, "FROM other\n")
    with pytest.raises(NotSupported, match="pulls nothing"):
        build(builds, "FROM base\n", pull=True)


def test_images_are_pulled_when_they_are_missing_or_that_is_wanted(builds: Builds, store: ImageStore) -> None:
    asked: list[str] = []

    async def pull(
        reference: str, platform: Platform, progress: Progress, credentials: Credentials | None
    ) -> Image:
        asked.append(f"{reference} {platform.os} {credentials.username if credentials else None}")
        return add(store, reference)

    builds.pull = pull
    add(store, "here")
    build(builds, "FROM here\nLABEL a=b\n")
    assert asked == []
    build(builds, "FROM there\nCOPY --from=third /d /e\n")
    assert asked == ["third linux None", "there linux None"]
    build(builds, "FROM here\nLABEL a=c\n", pull=True)
    assert asked[2:] == ["here linux None"]
    known = {"docker.io": Credentials("the request", "somebody", "s"), "other": Credentials("the request")}
    build(builds, "FROM here\nLABEL a=d\n", pull=True, credentials=known)
    assert asked[3:] == ["here linux somebody"]


def test_builds_leave_threads_to_what_they_wait_for(builds: Builds, store: ImageStore) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        begun = asyncio.Semaphore(0)

        async def pull(
            reference: str, platform: Platform, progress: Progress, credentials: Credentials | None
        ) -> Image:
            begun.release()
            await all_began.wait()
            return await asyncio.to_thread(add, store, reference)

        async def chunks() -> AsyncIterator[bytes]:
            yield CONTEXT

        builds.pull = pull
        all_began = asyncio.Event()
        works = [
            asyncio.ensure_future(
                builds.build(BuildOptions(text=f"FROM base{number}\n".encode()), chunks(), no_progress)
            )
            for number in range(3)
        ]
        async with asyncio.timeout(10 * PATIENCE):
            for _ in works:
                await begun.acquire()
            all_began.set()
            assert len(await asyncio.gather(*works)) == 3

    asyncio.run(scenario())


def test_an_image_for_another_platform_is_refused(builds: Builds, store: ImageStore) -> None:
    foreign = "riscv64" if host_platform().architecture != "riscv64" else "amd64"
    add(store, "foreign", foreign)
    with pytest.raises(InvalidSpec, match=f"is for linux/{foreign}, "):
        build(builds, "FROM foreign\nLABEL a=b\n")
    image = build(builds, "FROM foreign\nCOPY f /f\n", platform=Platform("linux", foreign))
    assert image.architecture == foreign
    with pytest.raises(InvalidSpec, match=f"Dockerfile:2: RUN true: image foreign is for linux/{foreign}"):
        build(builds, "FROM foreign\nRUN true\n", platform=Platform("linux", foreign))


def test_a_name_may_be_wanted_for_several_platforms(builds: Builds, store: ImageStore) -> None:
    foreign = "riscv64" if host_platform().architecture != "riscv64" else "amd64"
    add(store, "base", host_platform().architecture)
    asked: list[str] = []

    async def pull(
        reference: str, platform: Platform, progress: Progress, credentials: Credentials | None
    ) -> Image:
        asked.append(platform.architecture)
        return add(store, reference, platform.architecture)

    builds.pull = pull
    dockerfile = f"FROM --platform=linux/{foreign} base AS other\nFROM base\nCOPY --from=other /d /e\n"
    assert build(builds, dockerfile, pull=True).architecture == host_platform().architecture
    assert asked == [foreign, host_platform().architecture]
    with pytest.raises(InvalidSpec, match=f"base:latest is for .*, the build for linux/{foreign}"):
        build(builds, f"FROM base AS own\n{dockerfile}COPY --from=own /d /f\n")


def test_arguments_of_the_platform_are_known(builds: Builds) -> None:
    image = build(
        builds,
        "FROM scratch\nARG TARGETARCH\nARG TARGETPLATFORM\nLABEL a=$TARGETARCH p=$TARGETPLATFORM\n",
        platform=Platform("linux", "arm64"),
    )
    assert image.config["Labels"] == {"a": "arm64", "p": "linux/arm64"}


@pytest.mark.parametrize(
    ("dockerfile", "part"),
    [
        ("FROM scratch\nCOPY f g /h\n", "several sources"),
        ("FROM scratch\nCOPY *.none /h\n", "nothing matches"),
        ("FROM scratch\nCOPY --chown=nobody f /h\n", "'nobody' is no owner"),
        ("FROM scratch\nCOPY --chmod=9 f /h\n", "--chmod=9 is not valid"),
        ("FROM scratch\nADD --checksum=sha256:1 f /h\n", "--checksum is about"),
        ("FROM scratch\nADD --keep-git-dir f /h\n", "--keep-git-dir is about"),
        ("FROM scratch AS a\nFROM a\nCOPY --from=a /x /\n", "'/x' is not in stage a"),
        ('FROM scratch\nVOLUME ""\n', "VOLUME"),
    ],
)
def test_errors_name_the_instruction(builds: Builds, dockerfile: str, part: str) -> None:
    line = dockerfile.count("\n")
    with pytest.raises(MooringError, match=f"^Dockerfile:{line}: .*{part}"):
        build(builds, dockerfile)


def test_what_is_built_again_is_the_same_image(builds: Builds, store: ImageStore) -> None:
    told: list[ProgressEvent] = []
    dockerfile = "FROM scratch\nWORKDIR /w\nCOPY f g/\nADD <<E /e\nline\nE\n"
    image = build(builds, dockerfile, told.append)
    assert [event.detail for event in told if event.step == "step"] == [
        "Step 1/4 : FROM scratch",
        "Step 2/4 : WORKDIR /w",
        "Step 3/4 : COPY f g/",
        "Step 4/4 : ADD <<E /e",
    ]
    told.clear()
    assert build(builds, dockerfile, told.append).id == image.id
    assert [event.detail for event in told if event.step == "note"] == ["Using cache"] * 3
    store.remove(image.id, force=True)
    again = build(builds, dockerfile, told.append)
    assert again.id == image.id
    assert store.ensure_unpacked(again) == image.chain_id
