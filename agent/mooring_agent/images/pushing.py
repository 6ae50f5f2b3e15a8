# SPDX-License-Identifier: Apache-2.0
"""Sending an image: only what is not there, taken over from other repositories of the host where possible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from mooring_agent.errors import Unavailable
from mooring_agent.images.content import Descriptor
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.manifests import Manifest
from mooring_agent.images.reference import Reference
from mooring_agent.images.state import StoreState
from mooring_agent.images.transfer import Sink
from mooring_agent.images.turns import Stop

_INTERVAL = 0.1  # seconds between two events of progress for one layer


def push(
    state: StoreState,
    sink: Sink,
    manifest: Manifest,
    name: Reference,
    stop: Stop,
    progress: Progress,
    *,
    parallel: int,
) -> None:
    """Send everything of an image, and its manifest last; remembers what the repository has now.

    The caller holds a lease on it. Raises what the sink does, Unavailable when a blob here is damaged or the
    other side has stored something else.
    """
    blobs = list({blob.digest: blob for blob in (*manifest.layers, manifest.config)}.values())
    with ThreadPoolExecutor(max(1, parallel), thread_name_prefix="mooring-push") as pool:
        work = [pool.submit(_send, state, sink, blob, name, stop, progress) for blob in blobs]
        try:
            done, _ = wait(work, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            for future in work:
                future.cancel()
            raise
    stop.check()
    body = state.content.read(manifest.descriptor)
    asked = name.tag or manifest.descriptor.digest
    there = sink.push_manifest(asked, manifest.descriptor.media_type, body)
    if there != manifest.descriptor.digest:
        raise Unavailable(
            f"{name.repository} stored the manifest of {name.familiar} as {there} and not as "
            f"{manifest.descriptor.digest}: it changes what it is sent, look at it"
        )
    state.origins.add((*(blob.digest for blob in blobs), there), name.repository)
    state.origins.save(state.content.digests())


def _send(
    state: StoreState, sink: Sink, blob: Descriptor, name: Reference, stop: Stop, progress: Progress
) -> None:
    def tell(step: str, current: int, more: str = "") -> None:
        progress(ProgressEvent(step, current, blob.size, blob.short + more))

    stop.check()
    if sink.has_blob(blob.digest):
        tell("exists", blob.size)
        return
    for repository in state.origins.of(blob.digest):
        host, _, path = repository.partition("/")
        if host == name.domain and path != name.path and sink.mount_blob(blob.digest, path):
            tell("mount", blob.size, f" from {path}")
            return
    told = 0.0

    def opened(offset: int) -> Iterator[bytes]:
        nonlocal told
        current = offset
        for chunk in state.content.chunks(blob, offset):
            stop.check()
            yield chunk
            current += len(chunk)
            now = time.monotonic()
            if current < blob.size and now - told >= _INTERVAL:
                told = now
                tell("upload", current)

    sink.push_blob(blob, opened)
    tell("upload", blob.size)  # only now it is there
