# SPDX-License-Identifier: Apache-2.0
"""The fixtures of these tests."""

from __future__ import annotations

from .containing import contain, layer

__all__ = ("contain", "layer")
