# SPDX-License-Identifier: Apache-2.0
"""Building images from Dockerfiles. What runs a command of RUN is whoever uses this: see running.Runner."""
