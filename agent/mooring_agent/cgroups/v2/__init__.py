# SPDX-License-Identifier: Apache-2.0
"""Controllers of cgroups version 2, one file each."""
