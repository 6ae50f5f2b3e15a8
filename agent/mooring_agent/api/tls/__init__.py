# SPDX-License-Identifier: Apache-2.0
"""The APIs on a TCP address: TLS 1.2 and 1.3, for clients with a certificate of the configured CA."""
