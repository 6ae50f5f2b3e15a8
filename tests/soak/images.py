# SPDX-License-Identifier: Apache-2.0
"""Images that are built, committed, saved, loaded and removed; what there is stays sound."""

from __future__ import annotations

import io
import json
import random
import tarfile

from harness.archives import packed
from soak.site import DOCKER, MOORING, TAR, Site

# What a build, or the start of a container, says of an image that is not there, or has no shell.
_EXPECTED = (b"docker.io", b"no such file", b"not found", b"does not exist", b"keeper has gone")


class Images:
    """Some images of one client; `step` does something with one of them."""

    def __init__(self, site: Site, worker: int) -> None:
        self._site = site
        self._chance = random.Random(f"{site.seed}-images-{worker}")
        self._worker = worker
        self._names = [f"i{worker}x{number}" for number in range(4)]
        self._saved: dict[str, bytes] = {}

    def step(self) -> None:
        """One thing."""
        name = self._chance.choice(self._names)
        work = self._chance.choice(
            [
                self._build,
                self._build,
                self._build,
                self._commit,
                self._tag,
                self._remove,
                self._save,
                self._load,
                self._import,
                self._prune,
                self._run,
                self._look,
            ]
        )
        work(name)

    def catch_up(self) -> None:
        """Nothing is remembered that a kill could have changed."""

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        headers = TAR if isinstance(body, bytes) else None
        return self._site.call(method, DOCKER + path, body, headers=headers, server_errors=b"docker.io")

    def _build(self, name: str) -> None:
        chance = self._chance
        base = chance.choice(["busybox", "busybox", chance.choice(self._names)])
        lines = [f"FROM {base}", "COPY file /file"]
        for _ in range(chance.randrange(3)):
            size, number = chance.randrange(1, 200), chance.randrange(3)
            lines.append(f"RUN head -c {size}000 /dev/urandom >/made{number}")
        if chance.random() < 0.3:
            lines[:0] = ["FROM busybox AS first", f"RUN echo {chance.randrange(9)} >/made"]
            lines.append("COPY --from=first /made /made")
        files = {
            "Dockerfile": "\n".join(lines).encode(),
            "file": chance.randbytes(chance.randrange(1, 50_000)),
        }
        anew = "&nocache=1" if chance.random() < 0.3 else ""
        status, said = self._call("POST", f"/build?t={name}{anew}", packed(files))
        if (status != 200 or b'"error"' in said) and not any(words in said for words in _EXPECTED):
            self._site.fault("build:", status, said[-400:])

    def _commit(self, name: str) -> None:
        container = f"/containers/c{self._worker}"
        body = {"Image": "busybox", "Cmd": ["sleep", "60"]}
        self._call("POST", f"/containers/create?name=c{self._worker}", body)
        self._call("PUT", f"{container}/archive?path=/", packed({"big": self._chance.randbytes(100_000)}))
        status, said = self._call("POST", f"/commit?container=c{self._worker}&repo={name}")
        if status not in (201, 404):
            self._site.fault("commit:", status, said)
        self._call("DELETE", f"{container}?force=1")

    def _tag(self, name: str) -> None:
        status, said = self._call(
            "POST", f"/images/{name}/tag?repo=t{self._worker}&tag={self._chance.randrange(3)}"
        )
        if status not in (201, 404):
            self._site.fault("tag:", status, said)

    def _remove(self, name: str) -> None:
        chosen = self._chance.choice([name, f"t{self._worker}:{self._chance.randrange(3)}"])
        status, said = self._call("DELETE", f"/images/{chosen}?force=1")
        if status not in (200, 404, 409):
            self._site.fault("removal:", status, said)

    def _save(self, name: str) -> None:
        status, archive = self._call("GET", f"/images/{name}/get")
        if status == 200:
            with tarfile.open(fileobj=io.BytesIO(archive)) as read:
                read.getnames()
            self._saved[name] = archive
        elif status != 404:
            self._site.fault("save:", status, archive[:400])

    def _load(self, name: str) -> None:
        if name not in self._saved:
            return
        status, said = self._call("POST", "/images/load", self._saved[name])
        if status != 200 or b'"error"' in said:
            self._site.fault("load:", status, said[-400:])
        self._site.expect({200}, "GET", f"{DOCKER}/images/{name}/json")

    def _import(self, name: str) -> None:
        made = packed({"file": self._chance.randbytes(3000)})
        status, said = self._call("POST", f"/images/create?fromSrc=-&repo={name}&tag=latest", made)
        if status != 200:
            self._site.fault("import:", status, said[-400:])

    def _prune(self, name: str) -> None:
        for path in ("/images/prune", "/build/prune"):
            self._site.expect({200}, "POST", DOCKER + path)

    def _run(self, name: str) -> None:
        container = f"/containers/r{self._worker}"
        body = {"Image": name, "Cmd": ["sh", "-c", "echo x >/new; exit 3"]}
        if self._call("POST", f"/containers/create?name=r{self._worker}", body)[0] == 201:
            status, said = self._call("POST", f"{container}/start")
            if status == 204:
                status, said = self._call("POST", f"{container}/wait")
                ended = json.loads(said).get("StatusCode")
                if ended != 3 and not (ended == 255 and self._site.may_be_blind):
                    self._site.fault(name, "ran and ended with", ended, "and not 3")
            elif not any(words in said for words in _EXPECTED):
                self._site.fault(name, "does not start:", status, said)
        self._call("DELETE", f"{container}?force=1")

    def _look(self, name: str) -> None:
        for path in ("/images/json?shared-size=1", "/system/df"):
            self._site.expect({200}, "GET", DOCKER + path)
        self._site.expect({200, 404}, "GET", f"{DOCKER}/images/{name}/history")
        status, said = self._site.call("POST", f"{MOORING}/images/verify")
        if status != 200 or b'"sound":false' in said:
            self._site.fault("images are damaged:", status, said[-400:])
