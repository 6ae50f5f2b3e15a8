# SPDX-License-Identifier: Apache-2.0
"""An agent that keeps what it is told in memory and starts nothing: the Mooring API as far as the modules
need it."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from mooring_agent.engine.resources import (
    CgroupSpec,
    ContainerSpec,
    Declared,
    NetworkSpec,
    VolumeSpec,
    check_name,
    compare,
    order,
)
from mooring_agent.errors import InvalidSpec, MooringError, NotFound
from mooring_agent.images.specs import without_credentials

SPECS: dict[str, type[Declared]] = {
    "container": ContainerSpec,
    "network": NetworkSpec,
    "volume": VolumeSpec,
    "cgroup": CgroupSpec,
}


SOURCES = {"pull", "build", "load", "template", "import"}


class Resources:
    """What the stub was told, and what the registries have: the spec that was pushed."""

    def __init__(self) -> None:
        self.specs: dict[tuple[str, str], Any] = {}
        self.pushed: dict[str, Any] = {}
        self.credentials: list[Any] = []
        self.forced: list[str] = []
        self.at_registry: list[Any] = []

    def put(self, kind: str, name: str, data: Any, *, dry_run: bool) -> dict[str, Any]:
        wanted: Any = data
        if kind == "image":
            if len(SOURCES & set(data)) != 1:
                raise InvalidSpec(f"image {name} has {sorted(data)}, expected one of {sorted(SOURCES)}")
            wanted = without_credentials(data)
            self.credentials += [data["pull"]["credentials"]] if "credentials" in data.get("pull", {}) else []
        else:
            wanted = SPECS[kind].parse(data, name=check_name(kind, name))
        stored = self.specs.get((kind, name))
        actions = self._actions(kind, name, stored, wanted)
        if kind == "container" and actions and not dry_run and ("image", wanted.image) not in self.specs:
            raise NotFound(f"container {name}: no such image: {wanted.image}; have it made first")
        if not dry_run:
            self.specs[kind, name] = wanted
        return {
            "changed": bool(actions),
            "actions": actions,
            "before": _shown(stored),
            "after": _shown(wanted),
            "result": None if dry_run else self.view(kind, name),
        }

    def _actions(self, kind: str, name: str, stored: Any, wanted: Any) -> list[dict[str, Any]]:
        if stored is None:
            return [{"action": "create", "kind": kind, "name": name, "reason": "is not there"}]
        if kind == "image":
            return (
                []
                if stored == wanted
                else [{"action": "replace", "kind": kind, "name": name, "reason": "spec"}]
            )
        return [
            {
                "action": "update" if change.live else "replace",
                "kind": kind,
                "name": name,
                "reason": str(change),
            }
            for change in compare(stored, wanted)
        ]

    def delete(self, kind: str, name: str, *, dry_run: bool) -> dict[str, Any]:
        stored = self.specs.get((kind, name))
        if not dry_run:
            self.specs.pop((kind, name), None)
        gone = [{"action": "remove", "kind": kind, "name": name, "reason": "is there"}]
        return {
            "changed": stored is not None,
            "actions": gone if stored is not None else [],
            "before": _shown(stored),
            "after": None,
            "result": None,
        }

    def push(self, name: str, body: Any, *, dry_run: bool) -> dict[str, Any]:
        spec = self.view("image", name)["spec"]
        target = body.get("to", name)
        self.credentials.append(body.get("credentials"))
        there = self.pushed.get(target) == spec
        action = {"action": "push", "kind": "image", "name": target, "reason": "it does not have it"}
        if not dry_run:
            self.pushed[target] = spec
        return {
            "changed": not there,
            "actions": [] if there else [action],
            "before": None,
            "after": None,
            "result": None if dry_run else {"name": target, "digest": "sha256:0"},
        }

    def tags(self, body: Any) -> dict[str, Any]:
        found = sorted(name.rpartition(":")[2] for name in self.pushed if name.startswith(f"{body['name']}:"))
        if not found:
            raise NotFound(f"list of tags of {body['name']}: the registry does not have it")
        return {"name": body["name"], "tags": found}

    def remove_there(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        there = name in self.pushed
        if not dry_run:
            self.pushed.pop(name, None)
        gone = [{"action": "remove", "kind": "image", "name": name, "reason": "its registry has it"}]
        return {
            "changed": there,
            "actions": gone if there else [],
            "before": {"name": name, "digest": "sha256:0"} if there else None,
            "after": None,
            "result": None,
        }

    def prune(self, body: Any, *, dry_run: bool) -> dict[str, Any]:
        names = [name for kind, name in self.specs if kind == "image"] if body.get("all") else []
        if not dry_run:
            for name in names:
                del self.specs["image", name]
        freed = 0 if dry_run else 1000 * len(names)
        return {"changed": bool(names), "untagged": names, "deleted": names, "freed": freed}

    def apply(self, document: Any, *, dry_run: bool, prune: bool) -> dict[str, Any]:
        items = order(document)
        answers = [self._item(item.kind, item.name, item.spec, dry_run=dry_run) for item in items]
        named = {(item.kind, item.name) for item in items}
        for kind, name in [key for key in self.specs if prune and key not in named]:
            outcome = self.delete(kind, name, dry_run=dry_run)
            answers.append({"kind": kind, "name": name, "error": None, **outcome})
        return {
            "changed": any(answer["changed"] for answer in answers),
            "items": answers,
            "failed": sum(answer["error"] is not None for answer in answers),
        }

    def _item(self, kind: str, name: str, spec: Any, *, dry_run: bool) -> dict[str, Any]:
        try:
            return {"kind": kind, "name": name, "error": None, **self.put(kind, name, spec, dry_run=dry_run)}
        except MooringError as error:
            problem = {"message": error.message, "code": error.code}
            nothing = {"changed": False, "actions": [], "before": None, "after": None, "result": None}
            return {"kind": kind, "name": name, "error": problem, **nothing}

    def view(self, kind: str, name: str) -> dict[str, Any]:
        if (kind, name) not in self.specs:
            raise NotFound(f"no such {kind}: {name}; expected one of {[key[1] for key in self.specs]}")
        spec = self.specs[kind, name]
        view = {"name": name, "state": getattr(spec, "state", None), "spec": _shown(spec)}
        if kind == "image":
            labels = spec.get("config", {}).get("labels", {})
            view |= {"id": f"sha256:{name}", "references": [name], "config": {"Labels": labels}}
        return view

    def views(self, kind: str) -> list[dict[str, Any]]:
        return [self.view(*key) for key in self.specs if key[0] == kind]


def _shown(spec: Any) -> Any:
    return spec.given if isinstance(spec, Declared) else spec


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    resources: ClassVar[Resources]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            status, data = 200, self._route(url.path, body, query)
        except MooringError as error:
            status, data = error.status, {"message": error.message, "code": error.code}
        lines = self.headers["Accept"] == "application/x-ndjson" and status == 200
        if lines:
            payload = b'{"progress": {"step": "unpack"}}\n' + json.dumps({"outcome": data}).encode() + b"\n"
        else:
            payload = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson" if lines else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_PUT = do_DELETE = do_POST = _answer

    def _route(self, path: str, body: Any, query: dict[str, str]) -> Any:
        if path == "/_ping":
            return "OK"
        section, _, rest = path.removeprefix("/mooring/v1/").partition("/")
        name, dry_run, resources = unquote(rest), query.get("dry_run") == "true", self.resources
        if section == "host":
            return {"name": "stub", "containers": {"total": len(resources.views("container")), "running": 0}}
        if section == "state":
            return resources.apply(body, dry_run=dry_run, prune=query.get("prune") == "true")
        if section == "registry":
            resources.at_registry.append(body)
            if name == "tags":
                return resources.tags(body)
            return resources.remove_there(body["name"], dry_run=dry_run)
        kind = section.removesuffix("s")
        if name.endswith("/exec"):
            resources.view(kind, name.removesuffix("/exec"))
            return _executed(body)
        if kind == "image" and self.command == "POST":
            if name == "prune":
                return resources.prune(body, dry_run=dry_run)
            return resources.push(name.removesuffix("/push"), body, dry_run=dry_run)
        if kind == "image" and query.get("force") == "true":
            resources.forced.append(name)
        if self.command == "PUT":
            return resources.put(kind, name, body, dry_run=dry_run)
        if self.command == "DELETE":
            return resources.delete(kind, name, dry_run=dry_run)
        return resources.view(kind, name) if name else resources.views(kind)


def _executed(request: dict[str, Any]) -> dict[str, Any]:
    """Play `sh -c "exit N"`, `sleep`, and for all else `cat` or `echo`."""
    argv = request["argv"]
    code = int(argv[2].split()[1]) if argv[:2] == ["sh", "-c"] else 0
    output = request.get("stdin") or " ".join(argv[1:]) + "\n"
    late = argv[0] == "sleep"
    return {
        "exit_code": 137 if late else code,
        "stdout": "" if code or late else output,
        "stderr": "",
        "truncated": False,
        "timed_out": late,
    }


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class StubAgent:
    """The stub on a socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.resources = Resources()
        handler = type("Handler", (_Handler,), {"resources": self.resources})
        self._server = _Server(str(socket), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
