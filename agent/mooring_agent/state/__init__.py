# SPDX-License-Identifier: Apache-2.0
"""Durable state in SQLite."""
