# SPDX-License-Identifier: Apache-2.0
"""Names: what containers on the networks of an agent are called, and the servers that say so."""
