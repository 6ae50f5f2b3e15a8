# SPDX-License-Identifier: Apache-2.0
"""Thin functions over system calls."""
