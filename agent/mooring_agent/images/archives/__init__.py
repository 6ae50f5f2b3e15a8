# SPDX-License-Identifier: Apache-2.0
"""Images in tar archives: as `docker save`, `podman save` and `skopeo copy` write them, and as we do."""
