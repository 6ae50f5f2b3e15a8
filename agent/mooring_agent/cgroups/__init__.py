# SPDX-License-Identifier: Apache-2.0
"""One model of control groups over v1, v2 and hybrid hosts."""
