# SPDX-License-Identifier: Apache-2.0
"""Networks, addresses and published ports."""
