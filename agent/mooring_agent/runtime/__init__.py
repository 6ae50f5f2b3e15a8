# SPDX-License-Identifier: Apache-2.0
"""From an OCI runtime-spec config to a running process."""
