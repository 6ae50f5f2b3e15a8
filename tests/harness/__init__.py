# SPDX-License-Identifier: Apache-2.0
"""What the tests share: an agent of their own, a root file system, and what this host can do."""
