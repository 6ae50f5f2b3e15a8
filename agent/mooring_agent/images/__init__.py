# SPDX-License-Identifier: Apache-2.0
"""Images: content store, archives, templates."""
