# SPDX-License-Identifier: Apache-2.0
"""Snapshotters: layers on disk."""
