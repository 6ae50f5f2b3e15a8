# SPDX-License-Identifier: Apache-2.0
"""Stores for the tests of what is done with them."""

from __future__ import annotations

from unit.images.houses import house, other

__all__ = ["house", "other"]
