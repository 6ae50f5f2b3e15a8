# SPDX-License-Identifier: Apache-2.0
"""A network's part of the host is made or changed as a whole, or what was there before stays."""

from __future__ import annotations

import logging

from ..errors import MooringError
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from .driver import Driver
from .records import Network

logger = logging.getLogger(__name__)


def make(driver: Driver, netlink: RouteSocket, network: Network) -> None:
    """Make what a new network needs; if that is not possible, nothing of it stays. Raises as
    `Driver.ensure`.
    """
    others = {link.name for link in netlink.links()}
    try:
        driver.ensure(netlink, network)
    except MooringError:
        driver.forget(network)
        made = [name for name in driver.links(netlink, network) if name not in others]
        rtnetlink.delete_links(netlink, made)
        raise


def change(driver: Driver, netlink: RouteSocket, before: Network, after: Network) -> None:
    """Make a network that is used what it is from now on; if that is not possible, what it was. Raises as
    `Driver.ensure`.
    """
    try:
        driver.ensure(netlink, after)
    except MooringError:
        try:
            driver.ensure(netlink, before)
        except MooringError as error:
            logger.error("network not as before name=%s error=%r", before.name, error.message)
        raise
