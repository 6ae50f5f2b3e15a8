# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules about images: have one, ask about them, tidy up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.mooring.fleet.plugins.module_utils import arguments
from ansible_collections.mooring.fleet.plugins.module_utils.client import AgentError, Client, reference
from ansible_collections.mooring.fleet.plugins.module_utils.declared import task_result
from ansible_collections.mooring.fleet.plugins.module_utils.operation import Mode, Operation, Result

Params = Mapping[str, Any]


def _image(client: Client, params: Params, mode: Mode) -> Result:
    name = params["name"]
    path = f"/images/{reference(name)}"
    if params["at_registry"]:
        return _at_registry(client, params, mode)
    if params["state"] == "absent":
        outcome = client.call("DELETE", path, query={"force": params["force"], "dry_run": mode.check})
        return task_result(outcome, f"image {name}", mode, image=None)
    targets, spec = _targets(params), _spec(params)
    if spec:
        outcome = _followed(client, "PUT", path, spec, mode)
    else:
        image = client.call("GET", path)  # it has to be there, however it came
        outcome = {"changed": False, "actions": [], "before": None, "after": None, "result": image}
    pushes = [_pushed(client, target, params, outcome, mode) for target in targets]
    whole = {
        **outcome,
        "changed": outcome["changed"] or any(push["changed"] for push in pushes),
        "actions": [*outcome["actions"], *(action for push in pushes for action in push["actions"])],
    }
    pushed = [push["result"] for push in pushes if push["result"] is not None]
    return task_result(whole, f"image {name}", mode, image=outcome["result"], pushed=pushed)


def _at_registry(client: Client, params: Params, mode: Mode) -> Result:
    if params["state"] != "absent":
        raise AgentError(
            f"at_registry with state={params['state']} is not possible, expected state=absent; use push to "
            "have the image at its registry",
            "invalid",
        )
    body = {"name": params["name"], "force": params["force"], **_credentials(params)}
    outcome = client.call("POST", "/registry/remove", body, {"dry_run": mode.check})
    return task_result(outcome, f"image {params['name']} at its registry", mode, image=None)


def _spec(params: Params) -> dict[str, Any]:
    """Return the agent's spec; empty if nothing is said but the name."""
    spec = arguments.given(params, arguments.IMAGE)
    if "pull" in spec:
        # Sub-options that all are absent are a wish for the defaults.
        pull = {key: value for key, value in spec["pull"].items() if value is not None}
        spec["pull"] = {**pull, **_credentials(params)}
    return spec


def _targets(params: Params) -> list[str | None]:
    """Return where to push, None for the image's own name."""
    push = params["push"]
    if not push:
        return []
    if push is True or push == {}:
        return [None]
    if isinstance(push, dict) and set(push) == {"to"}:
        targets = [push["to"]] if isinstance(push["to"], str) else push["to"]
        if isinstance(targets, list) and targets and all(isinstance(name, str) and name for name in targets):
            return list(targets)
    raise AgentError(
        f"push is {push!r}, expected true, or a dictionary with the name (or names) to push as: to", "invalid"
    )


def _pushed(
    client: Client, target: str | None, params: Params, outcome: Mapping[str, Any], mode: Mode
) -> dict[str, Any]:
    """Return the outcome of one push."""
    name = params["name"]
    if mode.check and outcome["changed"] and _makes(outcome):
        action = {"action": "push", "kind": "image", "name": target or name, "reason": "it is made anew"}
        return {"changed": True, "actions": [action], "result": None}
    body = {**({"to": target} if target else {}), **_credentials(params)}
    answer: dict[str, Any] = _followed(client, "POST", f"/images/{reference(name)}/push", body, mode)
    return answer


def _makes(outcome: Mapping[str, Any]) -> bool:
    """Return whether the image itself is made, and not only named."""
    return any(action["action"] in ("create", "replace") for action in outcome["actions"])


def _credentials(params: Params) -> dict[str, Any]:
    return {"credentials": params["credentials"]} if params["credentials"] else {}


def _followed(client: Client, method: str, path: str, body: dict[str, Any], mode: Mode) -> Any:
    # An image may take minutes; the lines of its progress say that the agent is at work.
    # It is read to its end, so that the connection can be used again.
    last: dict[str, Any] = {}
    for line in client.follow(method, path, body, {"dry_run": mode.check}):
        last = line
    if "error" in last:
        raise AgentError(last["error"]["message"], last["error"]["code"])
    if "outcome" in last:
        return last["outcome"]
    raise AgentError(
        f"the agent at {client.name} ended its answer to {path} without an outcome, expected one; run the "
        "task again, and see the agent's log if that does not help",
        "unavailable",
    )


def _image_info(client: Client, params: Params, mode: Mode) -> Result:
    if params["names"] is None:
        found = client.call("GET", "/images")
    else:
        named = [_one(client, name) for name in params["names"]]
        found = list({image["id"]: image for image in named if image is not None}.values())
    labels = params["labels"] or []
    images = [image for image in found if _fits(image, labels, params["dangling"])]
    if params["tags_of"] is None:
        return {"changed": False, "images": images}
    tags = {name: _tags(client, name, params) for name in params["tags_of"]}
    return {"changed": False, "images": images, "tags": tags}


def _tags(client: Client, name: str, params: Params) -> list[str]:
    """Return the tags at a registry; none for a repository that it does not have."""
    try:
        answer = client.call("POST", "/registry/tags", {"name": name, **_credentials(params)})
    except AgentError as error:
        if error.status == 404:
            return []
        raise
    return list(answer["tags"])


def _one(client: Client, name: str) -> Any:
    try:
        return client.call("GET", f"/images/{reference(name)}")
    except AgentError as error:
        if error.status == 404:
            return None
        raise


def _fits(image: Mapping[str, Any], labels: list[str], dangling: bool | None) -> bool:
    if dangling is not None and bool(image["references"]) is dangling:
        return False
    has = (image.get("config") or {}).get("Labels") or {}
    for label in labels:
        name, equals, value = label.partition("=")
        if name not in has or (equals and has[name] != value):
            return False
    return True


def _image_prune(client: Client, params: Params, mode: Mode) -> Result:
    wanted = arguments.given(params, arguments.IMAGE_PRUNE)
    answer = client.call("POST", "/images/prune", wanted, {"dry_run": mode.check})
    return {key: answer[key] for key in ("changed", "deleted", "untagged", "freed")}


IMAGE = Operation(
    {
        **arguments.NAME,
        **arguments.PRESENCE,
        **arguments.IMAGE,
        "push": {"type": "raw"},
        **arguments.CREDENTIALS,
        "force": {"type": "bool", "default": False},
        "at_registry": {"type": "bool", "default": False},
    },
    _image,
    {"mutually_exclusive": [tuple(arguments.IMAGE_SOURCES)]},
)
IMAGE_INFO = Operation(
    {
        "names": {"type": "list", "elements": "str"},
        "labels": {"type": "list", "elements": "str"},
        "dangling": {"type": "bool"},
        "tags_of": {"type": "list", "elements": "str"},
        **arguments.CREDENTIALS,
    },
    _image_info,
)
IMAGE_PRUNE = Operation(arguments.IMAGE_PRUNE, _image_prune)
