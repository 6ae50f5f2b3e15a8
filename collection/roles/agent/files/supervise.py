# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep one program running, where there is no systemd that would.

    supervise.py start|restart|stop|status CONFIG

CONFIG is a JSON file with `command` (a list), `pid_file` and `log_file`. A program that ends with another
status than 0 is started again, after a pause that doubles from 1 to 30 seconds and begins anew once the
program has run for a minute. SIGTERM ends the program, by SIGTERM too, and the supervisor. The log is cut at
10 MiB, and one file of what was before is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
RAN_WELL = 60.0
LOG_LIMIT = 10 * 1024 * 1024
LOG_CHECK_PERIOD = 60.0
PATIENCE = 30.0
STOP_TIMEOUT = 60.0
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def main(arguments: list[str]) -> int:
    """Do what the command line says; returns the exit status."""
    actions = {"start": start, "restart": restart, "stop": stop, "status": status}
    if len(arguments) != 2 or arguments[0] not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    return actions[arguments[0]](json.loads(Path(arguments[1]).read_text()))


def start(config: dict[str, Any]) -> int:
    """Start the supervisor in the background, unless it runs."""
    pid_file = Path(config["pid_file"])
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not locked(lock):
        print("running")
        return 0
    # From here on nothing ends the supervisor but itself; and whoever sees the lock held finds who holds it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        os.truncate(lock, 0)
        os.write(lock, f"{child}\n".encode())
        print("started")
        return 0
    os.setsid()
    os.chdir("/")
    detach(config["log_file"])
    supervise(config["command"], config["log_file"])
    return 0


def restart(config: dict[str, Any]) -> int:
    """Stop the supervisor and its program, and start them anew."""
    return stop(config) or start(config)


def stop(config: dict[str, Any]) -> int:
    """Stop the supervisor and its program, and wait until they have ended."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while (pid := supervisor_of(config)) is not None:
        if time.monotonic() > deadline:
            print(f"process {pid} has not ended within {STOP_TIMEOUT:g} s of SIGTERM", file=sys.stderr)
            return 1
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    return 0


def status(config: dict[str, Any]) -> int:
    """Tell whether the supervisor runs."""
    pid = supervisor_of(config)
    print("stopped" if pid is None else f"running as process {pid}")
    return 3 if pid is None else 0


def supervisor_of(config: dict[str, Any]) -> int | None:
    """Return the supervisor's process, which holds the lock on its pid file while it lives."""
    try:
        lock = os.open(config["pid_file"], os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if locked(lock):
            return None
        text = os.read(lock, 32).strip()
        return int(text) if text else None
    finally:
        os.close(lock)


def locked(descriptor: int) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def detach(log_file: str) -> None:
    """Read nothing, and write to the log."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)


def supervise(command: list[str], log_file: str) -> None:
    """Run the program again and again, until SIGTERM."""
    pause = SHORTEST_PAUSE
    while True:
        began = time.monotonic()
        code = run(command, log_file)
        if code in (None, 0):
            return
        if time.monotonic() - began >= RAN_WELL:
            pause = SHORTEST_PAUSE
        say(f"{command[0]} ended with {code}, starting it again in {pause:g} s")
        if signal.sigtimedwait(SIGNALS - {signal.SIGCHLD}, pause) is not None:
            return
        pause = min(2 * pause, LONGEST_PAUSE)


def run(command: list[str], log_file: str) -> int | None:
    """Run the program to its end and return its status, or None if it was ended by a signal to this
    process."""
    try:
        process = subprocess.Popen(command, preexec_fn=unblock)
    except OSError as error:
        say(f"{command[0]} cannot be executed: {error.strerror}")
        return 127
    while True:
        received = signal.sigtimedwait(SIGNALS, LOG_CHECK_PERIOD)
        code = process.poll()
        if code is not None:
            return code
        if received is not None and received.si_signo != signal.SIGCHLD:
            end(process)
            return None
        cut(log_file)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the program; what the agent has started runs on however it ends."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        say(f"process {process.pid} has not ended within {PATIENCE:g} s of SIGTERM, killing it")
        process.kill()
        process.wait()


def unblock() -> None:
    """Give the program the signals that this process waits for."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def cut(log_file: str) -> None:
    """Begin the log anew if it is long; the program goes on to append to the same file."""
    try:
        if os.path.getsize(log_file) > LOG_LIMIT:
            shutil.copyfile(log_file, f"{log_file}.1")
            os.truncate(log_file, 0)
    except OSError as error:
        # Somebody has removed it, or the disk is full: no reason to leave the program alone.
        say(f"{log_file} cannot be cut: {error.strerror}")


def say(message: str) -> None:
    """Write a line to the log."""
    print(f"supervise: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
