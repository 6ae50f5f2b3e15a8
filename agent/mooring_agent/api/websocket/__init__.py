# SPDX-License-Identifier: Apache-2.0
"""WebSockets (RFC 6455), the side of the server: `handshake`, `frames`, and the `channel` made of them.

A codec of our own rather than a library: what an attachment needs is a stream of bytes, so that the payload
of a frame is passed on as it arrives and a message of any length takes no memory. Libraries that hand out
whole messages have to bound them.
"""
