# SPDX-License-Identifier: Apache-2.0
"""The process of the kernel: sockets, heartbeat and loop are those of ipykernel."""

from __future__ import annotations

from typing import Any

from ipykernel.kernelapp import IPKernelApp

from .kernel import MooringKernel


class MooringKernelApp(IPKernelApp):
    """Launches one kernel with the connection file that it is given."""

    name = "mooring-kernel"
    kernel_class = MooringKernel

    def init_control(self, context: Any) -> None:
        """Make the control channel as usual, and no threads for subshells: there is one shell."""
        super().init_control(context)  # type: ignore[no-untyped-call]
        self.shell_channel_thread = None

    def init_signal(self) -> None:
        """Leave SIGINT to the kernel, which is made later."""

    def init_kernel(self) -> None:
        """Make the kernel, and let it take signals."""
        super().init_kernel()  # type: ignore[no-untyped-call]
        self.kernel.install_signal_handlers()

    def init_path(self) -> None:
        """Leave the import path alone: cells are no Python."""

    def init_pdb(self) -> None:
        """Leave the debugger alone: cells are no Python."""


def launch(argv: list[str]) -> None:
    """Run a kernel until it is told to shut down."""
    app = MooringKernelApp.instance()
    app.initialize(argv)  # type: ignore[no-untyped-call]
    app.start()  # type: ignore[no-untyped-call]
