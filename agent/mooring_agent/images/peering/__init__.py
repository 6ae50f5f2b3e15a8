# SPDX-License-Identifier: Apache-2.0
"""Blobs from the other hosts of the fleet, ahead of the registry (docs/decisions/0009-peers.md)."""
