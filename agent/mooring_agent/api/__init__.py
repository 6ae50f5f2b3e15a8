# SPDX-License-Identifier: Apache-2.0
"""The HTTP server over the unix socket and the two APIs behind it: `docker/` and `fleet/`."""
