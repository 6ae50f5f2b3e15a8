# SPDX-License-Identifier: Apache-2.0
"""Declared resources: parsing, normal form, comparison."""
