# SPDX-License-Identifier: Apache-2.0
"""What a container to be created has to do with others: networks by their ids, links, volumes of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from ...engine.resources import ContainerSpec
from ...engine.resources.attachments import is_alone
from ...errors import InvalidSpec, NotFound
from .convert_networks import DEFAULT_NETWORK
from .inspect import exposed_ports
from .networks import network_named
from .rules import refused

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine

# What of a container's environment its links do not tell.
_NOT_TOLD = ("HOME", "PATH")


def name_networks(engine: Engine, spec: dict[str, Any]) -> None:
    """Put names for the networks that are given by their ids; settings under either are of one network."""
    if not all(isinstance(network, dict) for network in spec.get("networks", ())):
        return
    named: dict[str, dict[str, Any]] = {}
    for network in spec.get("networks", ()):
        name = network_named(engine, network["name"])
        named[name] = {**named.get(name, {}), **network, "name": name}
        links = {alias: _called(engine, target) for alias, target in named[name].get("links", {}).items()}
        if links:
            named[name]["links"] = links
    if named:
        spec["networks"] = list(named.values())


def _called(engine: Engine, reference: str) -> str:
    """The name of the container that a link leads to; one that is not there yet is given by its name."""
    try:
        return engine.containers.get(reference).name
    except NotFound:
        return reference


async def link(engine: Engine, links: tuple[tuple[str, str], ...], name: str, spec: dict[str, Any]) -> None:
    """`--link`: the others get another name on the first network that they and the container `name` are on.

    On the network that every container is on, the environment tells of them too, as dockerd has it there.
    """
    if not links:
        return
    networks = [network.differing() for network in ContainerSpec.parse(spec).networks]
    for target, alias in links:
        try:
            other = engine.containers.get(target)
        except NotFound as error:
            raise InvalidSpec(f"a link leads nowhere: {error.message}") from None
        theirs = {network.name for network in other.spec.networks}
        shared = next((network for network in networks if network["name"] in theirs), None)
        if shared is None or is_alone(shared["name"]):
            raise InvalidSpec(
                f"the link to {other.name} leads nowhere: they share no network; put both on one"
            )
        shared["links"] = {**shared.get("links", {}), alias: other.name}
        if shared["name"] == DEFAULT_NETWORK:
            told = await _environment(engine, other, name, alias)
            spec["env"] = told | spec.get("env", {})
    spec["networks"] = networks


async def _environment(engine: Engine, other: Container, name: str, alias: str) -> dict[str, str]:
    """The variables by which a container that is linked by `alias` is known to the container `name`."""
    try:
        image: Mapping[str, Any] = (await engine.image_service.get(other.image_id)).config
    except NotFound:
        image = {}
    address = next((one.ipv4 for one in other.endpoints if one.network == DEFAULT_NETWORK), None) or ""
    return dict(link_variables(other.env, exposed_ports(other, image), address, name, alias))


def link_variables(
    env: tuple[str, ...], ports: tuple[str, ...], address: str, name: str, alias: str
) -> Iterator[tuple[str, str]]:
    """Docker's variables of a link: where the other container is, and what is in its environment. Pure."""
    prefix = alias.upper().replace("-", "_")
    for number, port in enumerate(ports):
        digits, _, protocol = port.partition("/")
        url = f"{protocol}://{address}:{digits}"
        if number == 0:
            yield f"{prefix}_PORT", url
        one = f"{prefix}_PORT_{digits}_{protocol.upper()}"
        yield one, url
        yield f"{one}_ADDR", address
        yield f"{one}_PORT", digits
        yield f"{one}_PROTO", protocol
    yield f"{prefix}_NAME", f"/{name}/{alias}"
    for variable in env:
        key, mark, value = variable.partition("=")
        if mark and key not in _NOT_TOLD:
            yield f"{prefix}_ENV_{key}", value


def take_volumes(
    engine: Engine, references: list[str], spec: dict[str, Any], anonymous: tuple[str, ...]
) -> None:
    """`--volumes-from`: give it the binds and volumes of others, where it has nothing of its own.

    A reference is NAME, NAME:ro or NAME:rw. Raises NotFound.
    """
    volumes = list(spec.get("volumes", ()))
    taken = {normpath(target) for target in (*(volume["target"] for volume in volumes), *anonymous)}
    for reference in references:
        other, _, mode = reference.partition(":")
        if mode not in ("", "ro", "rw"):
            raise refused("HostConfig.VolumesFrom", reference, "CONTAINER, CONTAINER:ro or CONTAINER:rw")
        for volume in engine.containers.get(other).spec.volumes:
            if volume.type == "tmpfs" or volume.target in taken:
                continue
            taken.add(volume.target)
            taken_over = volume.differing() | ({"read_only": True} if mode == "ro" else {})
            # What the other one's image has was for its volumes; this one's is not, as with dockerd.
            volumes.append(taken_over | ({"nocopy": True} if volume.type == "volume" else {}))
    if volumes:
        spec["volumes"] = volumes
