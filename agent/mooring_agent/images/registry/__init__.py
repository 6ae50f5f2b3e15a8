# SPDX-License-Identifier: Apache-2.0
"""The client of image registries, for worker threads: OCI distribution-spec 1.1, Docker's registry API v2."""
