# SPDX-License-Identifier: Apache-2.0
"""Mooring for Jupyter: shells in the containers of a fleet."""

__version__ = "0.1.0"
