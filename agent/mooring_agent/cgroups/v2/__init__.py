# SPDX-License-Identifier: Apache-2.0
"""Controllers of cgroup v2."""
