# SPDX-License-Identifier: Apache-2.0
"""Containers as playbooks declare them: what is declared holds, and declared again it changes nothing."""

from __future__ import annotations

import random
from typing import Any

from soak.site import MOORING, Site

_SERVES = (
    "trap 'exit 7' TERM; mkdir -p /srv; echo here >/srv/index.html; httpd -p 80 -h /srv; "
    "while :; do sleep 0.2 & wait $!; done"
)
_NETWORKS = ("blue", "green", "red")
_FIRST_PORT = 9300


class Declared:
    """Some containers of one who declares; `step` declares one, or does something else with it."""

    def __init__(self, site: Site, worker: int) -> None:
        self._site = site
        self._chance = random.Random(f"{site.seed}-declared-{worker}")
        self._names = [f"d{worker}n{number}" for number in range(3)]
        self._whole = f"s{worker}"
        self._port = _FIRST_PORT + worker

    def step(self) -> None:
        """One thing."""
        name = self._chance.choice(self._names)
        work = self._chance.choice(
            [
                self._declare,
                self._declare,
                self._declare,
                self._delete,
                self._plan,
                self._act,
                self._state,
                self._networks,
            ]
        )
        work(name)

    def catch_up(self) -> None:
        """Nothing is remembered, so nothing has to be made good."""

    def _spec(self) -> dict[str, Any]:
        chance = self._chance
        spec: dict[str, Any] = {
            "image": "busybox",
            "command": ["sh", "-c", _SERVES],
            "stop_timeout": chance.choice([0, 1, 5]),
            "drain": 1,
            "ready_timeout": 20,
        }
        options: list[dict[str, Any]] = [
            {"env": {"VERSION": str(chance.randrange(3))}},
            {"memory": chance.choice(["32M", "64M"])},
            {"networks": chance.sample(_NETWORKS, chance.choice([1, 2]))},
            {"ports": [{"container": 80}]},
            {"ports": [self._shared(chance.choice([0, 1, 2]))]},
            {"update_order": "start_first"},
            {"state": "stopped"},
            {"volumes": [f"kept{chance.randrange(3)}:/data"]},
            {"restart": chance.choice(["always", "on-failure"])},
            {"healthcheck": {"test": ["CMD", "true"], "interval": 1}},
            {"labels": {"tier": str(chance.randrange(3))}},
        ]
        for option in options:
            if chance.random() < 0.25:
                spec |= option
        return spec

    def _shared(self, weight: int) -> dict[str, Any]:
        return {"container": 80, "host": self._port, "balance": "round_robin", "weight": weight}

    def _declare(self, name: str) -> None:
        spec, path = self._spec(), f"{MOORING}/containers/{name}"
        status, answer = self._site.ask("PUT", path, spec)
        if status not in (200, 201):
            # A network that is not there, or a port that another one has for itself.
            if status < 500 and "network" not in answer["message"] and status != 409:
                self._site.fault("declared is not taken:", status, answer, spec)
            return
        before = self._site.moment
        _, found = self._site.expect({200}, "GET", path)
        wanted = spec.get("state", "running")
        if (found["state"] == "running") != (wanted == "running") and self._site.moment == before:
            self._site.fault(name, "is", found["state"], "and not", wanted, spec)
        before = self._site.moment
        status, again = self._site.ask("PUT", path, spec)
        if status == 200 and again["changed"] and self._site.moment == before:
            self._site.fault(name, "changed once more:", again["actions"], spec)

    def _plan(self, name: str) -> None:
        path = f"{MOORING}/containers/{name}"
        _, before = self._site.ask("GET", path)
        self._site.ask("PUT", f"{path}?dry_run=true", self._spec())
        _, after = self._site.ask("GET", path)
        if before.get("id") != after.get("id"):
            self._site.fault(name, "was changed by a plan")

    def _delete(self, name: str) -> None:
        status, _ = self._site.expect({200, 404}, "DELETE", f"{MOORING}/containers/{name}")
        if status == 200:
            self._site.expect({404}, "GET", f"{MOORING}/containers/{name}")

    def _act(self, name: str) -> None:
        action = self._chance.choice(["start", "stop?timeout=1", "restart", "drain?timeout=1", "exec"])
        path = f"{MOORING}/containers/{name}/{action}"
        body = {"argv": ["echo", "hello"]} if action == "exec" else None
        status, answer = self._site.expect({200, 400, 404, 409}, "POST", path, body)
        if action == "exec" and status == 200 and (answer["exit_code"], answer["stdout"]) == (0, ""):
            self._site.fault(name, "exec is told to have succeeded, and said nothing")

    def _state(self, name: str) -> None:
        spec = self._spec()
        for option in ("networks", "ports"):
            spec.pop(option, None)
        self._site.expect({200}, "PUT", f"{MOORING}/state", {"containers": {self._whole: spec}})

    def _networks(self, name: str) -> None:
        path = f"{MOORING}/networks/{self._chance.choice(_NETWORKS)}"
        if self._chance.random() < 0.7:
            self._site.expect({200, 201, 409}, "PUT", path, {"ipv6": self._chance.random() < 0.3})
        else:
            self._site.expect({200, 404, 409}, "DELETE", path)
