# SPDX-License-Identifier: Apache-2.0
"""Controllers of cgroups version 1, one file each."""
