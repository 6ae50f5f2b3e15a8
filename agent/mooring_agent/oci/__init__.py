# SPDX-License-Identifier: Apache-2.0
"""`mooring oci`: the command line of an OCI runtime, on the launcher that the agent's keeper uses.

It needs the standard library only, and imports what a command needs when it runs it: a runtime is started for
every step of a container's life, so its own start is part of each.
"""
