# SPDX-License-Identifier: Apache-2.0
"""What containers read about names: /etc/resolv.conf, resolv.conf(5), and /etc/hosts, hosts(5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from .records import Endpoint

RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""Where the host says whom it asks. The second names who is behind systemd-resolved on 127.0.0.53."""

PUBLIC_RESOLVERS = {4: ("8.8.8.8", "8.8.4.4"), 6: ("2001:4860:4860::8888", "2001:4860:4860::8844")}
"""Asked where the host names no resolver that a container can reach; the same as Docker's."""

IPV4_ALONE = frozenset({4})

_LOCAL_NAMES = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class HostResolvers:
    """The host's resolv.conf, as containers get it; read again whenever it is another one."""

    def __init__(self, sources: Sequence[Path] = RESOLVERS) -> None:
        self._sources = sources
        self._seen: tuple[tuple[int, int, int] | None, ...] | None = None
        self._texts: dict[frozenset[int], str] = {}

    def text(self, versions: frozenset[int] = IPV4_ALONE) -> str:
        """For a container with addresses of these IP versions that has no wishes of its own."""
        seen = tuple(_signature(source) for source in self._sources)
        if seen != self._seen:
            self._texts.clear()
            self._seen = seen
        if versions not in self._texts:
            self._texts[versions] = resolver_configuration(self._sources, versions)
        return self._texts[versions]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def resolver_configuration(
    sources: Sequence[Path] = RESOLVERS, versions: Collection[int] = IPV4_ALONE
) -> str:
    """A container's /etc/resolv.conf: the first of the host's with a resolver that containers can reach which
    have addresses of these IP versions.
    """
    present = [source for source in sources if source.exists()]
    texts = [source.read_text(encoding="utf-8", errors="replace") for source in present]
    for text in texts:
        if _reachable(text, versions):
            return reachable_resolvers(text, versions)
    return reachable_resolvers(texts[0] if texts else "", versions)


def reachable_resolvers(text: str, versions: Collection[int] = IPV4_ALONE) -> str:
    """A resolv.conf without the resolvers that only the host itself can reach.

    Those are loopback and link-local addresses, and those of an IP version that the container has not. If
    none is left, public ones take their place. Everything else (search, options) is kept.
    """
    kept = [line for line in text.splitlines() if _nameserver(line) is None]
    resolvers = _reachable(text, versions) or PUBLIC_RESOLVERS[min(versions)]
    return "".join(f"{line}\n" for line in (*kept, *(f"nameserver {resolver}" for resolver in resolvers)))


def container_resolvers(
    host: str, resolvers: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """A container's own wishes put into `host`, the resolv.conf that it has otherwise.

    What is asked for takes the place of the host's of the same kind, as in Docker; a search of "." is none.
    """
    replaced = {"nameserver": resolvers, "search": search, "options": options}
    kept = []
    for line in host.splitlines():
        word = (line.split() or [""])[0]
        if not replaced.get("search" if word == "domain" else word):
            kept.append(line)
    if list(search) not in ([], ["."]):
        kept.append(f"search {' '.join(search)}")
    kept += (f"nameserver {resolver}" for resolver in resolvers)
    if options:
        kept.append(f"options {' '.join(options)}")
    return "".join(f"{line}\n" for line in kept)


def asking(text: str, server: str) -> str:
    """The resolv.conf `text` for a container that asks the name server at an address, and nobody else.

    Where nothing is said of it, a name without a dot is looked up as it is first, as Docker has it: it may be
    another container's.
    """
    kept = [line for line in text.splitlines() if _nameserver(line) is None]
    if not any(line.startswith("options") and "ndots:" in line for line in kept):
        kept.append("options ndots:0")
    return "".join(f"{line}\n" for line in (*kept, f"nameserver {server}"))


def hosts_file(
    hostname: str, endpoints: Iterable[Endpoint] = (), extra: Iterable[tuple[str, str]] = ()
) -> str:
    """A container's /etc/hosts: the loopback names, its own name on each of its networks, and `extra`
    (address, name).

    Without an endpoint its name stands for the loopback address, so that it always resolves.
    """
    short = hostname.partition(".")[0]
    own = hostname if short == hostname else f"{hostname} {short}"
    addresses = [address for endpoint in endpoints for address in endpoint.addresses] or ["127.0.1.1"]
    lines = [f"{address}\t{own}\n" for address in addresses]
    lines += (f"{address}\t{name}\n" for address, name in extra)
    return _LOCAL_NAMES + "".join(lines)


def host_addresses(endpoints: Iterable[Endpoint]) -> list[str]:
    """The addresses under which a container reaches its host: the gateways of its first bridge network."""
    for endpoint in endpoints:
        if endpoint.host_ifname:
            return [address for address in (endpoint.gateway, endpoint.gateway6) if address is not None]
    return []


def _nameserver(line: str) -> str | None:
    words = line.split()
    return words[1] if len(words) > 1 and words[0] == "nameserver" else None


def _reachable(text: str, versions: Collection[int]) -> list[str]:
    found = []
    for line in text.splitlines():
        name = _nameserver(line)
        try:
            address = ipaddress.ip_address(name or "")
        except ValueError:
            continue
        of_host = address.is_loopback or address.is_unspecified or address.is_link_local
        if address.version in versions and not of_host:
            found.append(str(address))
    return found
