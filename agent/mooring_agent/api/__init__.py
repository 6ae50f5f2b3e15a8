# SPDX-License-Identifier: Apache-2.0
"""The HTTP APIs on the unix socket."""
