# SPDX-License-Identifier: Apache-2.0
"""The options of the command line that are about networks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..network.encryption import ENCRYPTIONS
from .grammar import add_command

if TYPE_CHECKING:
    from .grammar import Commands


def networking(run: argparse.ArgumentParser) -> None:
    """The networks of a new container, and whom it asks for names."""
    run.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NETWORK",
        help="NAME, container:NAME, or name=NAME,alias=…,link=…,ip=…,ip6=…,mac-address=…,sysctl=…,"
        "link-local-ip=…,driver-opt=…,default-route,spoofing",
    )
    run.add_argument("--dns", action="append", default=[], metavar="ADDRESS", help="whom it asks for names")
    run.add_argument("--dns-search", action="append", default=[], metavar="DOMAIN")
    run.add_argument("--dns-option", action="append", default=[], metavar="OPTION")
    run.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS|NAME:host-gateway")
    run.add_argument("--link", action="append", default=[], metavar="CONTAINER[:ALIAS]")


def published(run: argparse.ArgumentParser) -> None:
    """The ports of a new container that answer on the host."""
    run.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[[IP:]HOST:]PORT[/udp][,balance=…][,weight=N]",
        help="balance=round_robin or balance=source shares the port with other containers, by weight",
    )


def attachment(connect: argparse.ArgumentParser) -> None:
    """A container's place on a network."""
    connect.add_argument("--ip", metavar="ADDRESS")
    connect.add_argument("--ip6", metavar="ADDRESS")
    connect.add_argument("--mac-address", metavar="ADDRESS")
    connect.add_argument("--alias", action="append", default=[], metavar="NAME")
    connect.add_argument("--link", action="append", default=[], metavar="CONTAINER[:ALIAS]")
    connect.add_argument("--sysctl", action="append", default=[], metavar="NAME=VALUE")
    connect.add_argument("--link-local-ip", action="append", default=[], metavar="ADDRESS")
    connect.add_argument("--driver-opt", action="append", default=[], metavar="NAME=VALUE")
    connect.add_argument("--default-route", action="store_true", help="its way out leads through it")
    connect.add_argument("--spoofing", action="store_true", help="it may speak for others, as a router does")


def traffic(command: argparse.ArgumentParser) -> None:
    """How fast a container sends and receives, and as what."""
    command.add_argument(
        "--network-limit",
        action="append",
        metavar="in=RATE,out=RATE[,burst=SIZE][,network=NAME]",
        help='rates such as "in=10mbit,out=5mbit", on one network or on all others',
    )
    command.add_argument(
        "--network-class",
        metavar="MAJOR:MINOR",
        help="the class of the host's queueing disciplines that what it sends is of, as of tc(8)",
    )


def declared(network: argparse.ArgumentParser) -> None:
    """What a network should be."""
    network.add_argument("--driver", choices=("bridge", "macvlan", "overlay"))
    for suffix in ("", "6"):
        network.add_argument(f"--subnet{suffix}", metavar="CIDR")
        network.add_argument(f"--gateway{suffix}", metavar="ADDRESS")
        network.add_argument(f"--ip-range{suffix}", metavar="CIDR", help="what containers get")
    network.add_argument("--ipv6", action="store_true", help="IPv6 as well, with a subnet that is chosen")
    network.add_argument("--no-ipv4", action="store_true", help="IPv6 alone")
    network.add_argument(
        "--reserve", action="append", default=[], metavar="[NAME=]ADDRESS", help="given to nobody"
    )
    network.add_argument("--mtu", type=int, metavar="BYTES")
    network.add_argument("--parent", metavar="INTERFACE", help="what a macvlan network is on")
    network.add_argument("--mode", choices=("bridge", "private", "vepa", "passthru"), help="of macvlan")
    network.add_argument("--internal", action="store_true", help="no way out of the host")
    network.add_argument(
        "--reachable-from", action="append", metavar="NAME", help="a network whose containers may connect"
    )
    network.add_argument(
        "--rule", action="append", metavar="RULE", help='such as "deny out tcp 25 to 0.0.0.0/0 for mail"'
    )
    network.add_argument(
        "--overlay",
        action="append",
        metavar="HOST=ADDRESS[,slice=NUMBER]",
        help="a host of a network across hosts",
    )
    network.add_argument("--host", metavar="NAME", help="which of them this one is")
    network.add_argument("--vni", type=int, metavar="NUMBER", help="the number of that network")
    network.add_argument("--encryption", choices=ENCRYPTIONS, help="how that network is encrypted")
    network.add_argument(
        "--public-key", action="append", default=[], metavar="HOST=KEY", help="of a host of that network"
    )
    network.add_argument("--port", type=int, metavar="NUMBER", help="the UDP port of its encryption")
    network.add_argument(
        "--slice-prefix", type=int, metavar="LENGTH", help="of the part of the subnet that each of them has"
    )
    network.add_argument(
        "--no-nat", action="store_true", help="keep the containers' addresses on the way out"
    )
    network.add_argument("--bridge-name", metavar="INTERFACE", help="what its bridge is called on the host")
    network.add_argument(
        "--port-isolation", action="store_true", help="its containers do not reach each other"
    )
    network.add_argument(
        "--interface-prefix", metavar="NAME", help="of the containers' interfaces, in place of eth"
    )
    network.add_argument(
        "--publish-address", metavar="ADDRESS", help="of the host, for ports that are published at none"
    )
    network.add_argument("--attachable", action="store_true", help="kept and shown, for Docker's clients")
    network.add_argument("-l", "--label", action="append", default=[], metavar="K=V")


def key(group: Commands) -> None:
    """This host's key."""
    command = add_command(
        group, "key", "tell this host's public key for encrypted networks", "networking.key"
    )
    command.add_argument("--renew", action="store_true", help="make another one first")
