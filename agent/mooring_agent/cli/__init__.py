# SPDX-License-Identifier: Apache-2.0
"""The command `mooring`: one file a command family, each imported only when its command is given."""
