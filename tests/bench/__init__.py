# SPDX-License-Identifier: Apache-2.0
"""Measurements beside the peers, run by script/bench."""
