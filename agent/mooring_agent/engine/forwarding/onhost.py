# SPDX-License-Identifier: Apache-2.0
"""What a log driver needs of this host: sockets that are there, certificates that can be read."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat

from ...errors import InvalidSpec, NotSupported
from ..resources.logdrivers import JOURNALD, SYSLOG, LogOptions, SyslogAddress, parse_address, parse_flag
from .journal import SOCKET

LOCAL_SYSLOG = "/dev/log"
_FILES = ("syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key")


def check_receiver(name: str, log: LogOptions) -> None:
    """Raise NotSupported where a container's log has nowhere to go here, InvalidSpec where what its options
    name is not there.
    """
    if log.driver == JOURNALD and not _is_socket(SOCKET):
        raise NotSupported(
            f"container {name} is to log to journald, and this host has no socket {SOCKET}: start "
            "systemd-journald, or use another log driver"
        )
    if log.driver != SYSLOG:
        return
    address = address_of(log)
    if address is None and not _is_socket(LOCAL_SYSLOG):
        raise NotSupported(
            f"container {name} is to log to syslog, and this host has no socket {LOCAL_SYSLOG}: name a "
            "server with syslog-address, or start one here"
        )
    if address is not None and address.path and (problem := _refusal(address)):
        raise InvalidSpec(
            f"container {name} is to log to {address}, which cannot be ({problem}): start the server, or "
            "name another one with syslog-address"
        )
    if address is not None and address.transport == "tcp+tls":
        try:
            tls_context(log)
        except OSError as error:
            named = ", ".join(log.options[option] for option in _FILES if option in log.options)
            raise InvalidSpec(
                f"container {name} is to log to {address} with {named}, which cannot be used "
                f"({error.strerror or error}): expected files of certificates and keys in PEM"
            ) from None


def address_of(log: LogOptions) -> SyslogAddress | None:
    """The server that a container logs to; None for the syslog of this host."""
    given = log.options.get("syslog-address")
    return None if given is None else parse_address(given, "syslog-address")


def tls_context(log: LogOptions) -> ssl.SSLContext:
    """What connections to a server with TLS are made with. Reads files. Raises OSError (ssl.SSLError)."""
    authorities, certificate, key = files = [log.options.get(option) for option in _FILES]
    for path in filter(None, files):
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading might wait for a writer
            raise OSError(errno.EINVAL, "it is not a file", path)
    context = ssl.create_default_context(cafile=authorities)
    if parse_flag(log.options.get("syslog-tls-skip-verify", "false"), "syslog-tls-skip-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key, password="")  # nobody is asked for one
    return context


def _refusal(address: SyslogAddress) -> str | None:
    """Why a socket of this host takes no messages; that of datagrams is another one than that of streams."""
    kind = socket.SOCK_DGRAM if address.transport == "unixgram" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(address.path)
        except BlockingIOError:
            return None  # it has others to answer first
        except OSError as error:
            return error.strerror or str(error)
    return None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
