# SPDX-License-Identifier: Apache-2.0
"""What a notebook needs of a fleet, and nothing of Jupyter: inventory, transport, client, shell, tables."""
