# SPDX-License-Identifier: Apache-2.0
"""Desired state to plan to actions; the life of containers."""
