# SPDX-License-Identifier: Apache-2.0
"""Random work of several clients while the processes of one agent are killed: `script/soak`."""
