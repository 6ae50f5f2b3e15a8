# SPDX-License-Identifier: Apache-2.0
"""Builds at an agent under test, and what came of them: as trees that can be compared."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE
from mooring_agent.images.build.context import archive_context
from mooring_agent.images.layers import apply_layer
from mooring_agent.images.stream import decompress, detect, peek, read_chunks
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

TIMEOUT = 60 * PATIENCE


@dataclass
class Built:
    """What a build has answered: the image's view or the error, and the progress on the way."""

    image: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The image's id. Fails with the error if there is none."""
        assert self.image is not None, self.error
        return str(self.image["id"])

    @property
    def output(self) -> str:
        """What the commands have written."""
        return "".join(event["detail"] for event in self.events if event["step"] == "output")

    @property
    def hits(self) -> int:
        """How many instructions the cache has answered."""
        return sum(event["detail"] == "Using cache" for event in self.events)


def body(context: Path, options: dict[str, Any]) -> Iterator[bytes]:
    """The body of POST /mooring/v1/builds."""
    yield json.dumps(options).encode() + b"\n"
    yield from archive_context(context, options.get("dockerfile", "Dockerfile"))


def build(agent: AgentUnderTest, context: Path, **options: Any) -> Built:
    """Build a directory."""
    built = Built()
    whole = b"".join(body(context, options))
    for message in agent.stream("POST", "/mooring/v1/builds", whole, timeout=TIMEOUT):
        if "progress" in message:
            built.events.append(message["progress"])
        else:
            built.image, built.error = message.get("image"), message.get("error")
    return built


def write_context(directory: Path, dockerfile: str, files: dict[str, str] | None = None) -> Path:
    """Make a context, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    for name, text in (files or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def blobs(agent: AgentUnderTest) -> Path:
    """Where the agent has its blobs."""
    return agent.config.data_root / "images" / "blobs" / "sha256"


def config_file(agent: AgentUnderTest, image_id: str) -> dict[str, Any]:
    """The configuration of an image, as it is stored."""
    found: dict[str, Any] = json.loads((blobs(agent) / image_id.removeprefix("sha256:")).read_bytes())
    return found


def layers(agent: AgentUnderTest, image_id: str) -> list[str]:
    """The digests of the blobs of an image's layers, bottom first."""
    index = json.loads((agent.config.data_root / "images" / "index.json").read_bytes())
    for entry in index["manifests"]:
        manifest = json.loads((blobs(agent) / entry["digest"].removeprefix("sha256:")).read_bytes())
        if manifest["config"]["digest"] == image_id:
            return [layer["digest"] for layer in manifest["layers"]]
    raise AssertionError(f"{image_id} is not in the index")


def unpack_image(agent: AgentUnderTest, image_id: str, directory: Path) -> Path:
    """Unpack the blobs of an image's layers over each other."""
    directory.mkdir()
    for digest in layers(agent, image_id):
        with open(blobs(agent) / digest.removeprefix("sha256:"), "rb") as file:
            head, chunks = peek(read_chunks(file))
            plain = decompress(chunks, detect(head))
            apply_layer(plain, UnpackTarget(directory, WhiteoutStyle.DELETE, ()))
    return directory


def tree_of(root: Path, *, times: bool = False) -> dict[str, tuple[Any, ...]]:
    """Everything below a directory by its path: type, mode, owner, content or link, xattrs, other names."""
    found: dict[str, tuple[Any, ...]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for top, directories, files in os.walk(root):
        for name in sorted((*directories, *files)):
            path = Path(top) / name
            status = path.lstat()
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                if status.st_nlink > 1:
                    names.setdefault((status.st_dev, status.st_ino), []).append(str(path.relative_to(root)))
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(root))] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                content,
                str(sorted(attributes.items())),
                status.st_mtime_ns if times else 0,
            )
    for group in names.values():
        for name in group:
            found[name] = (*found[name], tuple(sorted(group)))
    return found
