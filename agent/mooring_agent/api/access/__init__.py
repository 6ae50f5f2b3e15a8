# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a connection, and what the configuration lets them do."""
