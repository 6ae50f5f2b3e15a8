# SPDX-License-Identifier: Apache-2.0
"""The on-host agent of Mooring: a container runtime, its desired state and the APIs that drive it."""

__version__ = "0.1.0"
