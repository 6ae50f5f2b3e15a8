# SPDX-License-Identifier: Apache-2.0
"""Containers' output, sent on from their logs to a syslog server or the journal
(docs/decisions/0019-log-drivers.md).

`forwarding` is the service, `receiver` sends to one of those who receive, `links` are the ways to them,
`backlog` is what of one log is not sent yet, `syslog` and `journal` are the formats.
"""
