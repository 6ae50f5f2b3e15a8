# SPDX-License-Identifier: Apache-2.0
"""The small process that is the parent of every container."""
