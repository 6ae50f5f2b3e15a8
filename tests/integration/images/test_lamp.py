# SPDX-License-Identifier: Apache-2.0
"""Apache, MariaDB and PHP as layers of Debian's packages: after a change of the last only that is built, and
moved.

It gets packages from the host's mirror, and takes minutes: it runs only when asked for with `-m bench`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.registry import RegistryUnderTest

from .building import build, write_context

pytestmark = [pytest.mark.root, pytest.mark.bench, pytest.mark.timeout(900)]

_APT = (
    "RUN --mount=type=bind,source=apt/apt.conf.d,target=/etc/apt/apt.conf.d "
    "--mount=type=bind,source=apt/sources.list.d,target=/etc/apt/sources.list.d "
    "--mount=type=bind,source=apt/auth.conf.d,target=/etc/apt/auth.conf.d "
    "--mount=type=cache,target=/var/lib/apt/lists --mount=type=cache,target=/var/cache/apt "
    "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "
)
_PAGE = "<?php echo 'made by PHP ', PHP_MAJOR_VERSION, ' {text}'; ?>\n"
_DOCKERFILE = f"""\
FROM deb:12
{_APT}apache2
{_APT}mariadb-server
{_APT}php libapache2-mod-php php-mysql
COPY --chmod=644 index.php /var/www/html/
CMD ["apache2ctl", "-D", "FOREGROUND"]
"""
_LAYERS = 5  # Debian's, and those of the instructions but the last
_WRAPPING = 64 << 10  # bytes: manifest, configuration, headers of HTTP


def test_only_the_layer_that_changed_is_built_and_moved(
    start_agent: Callable[..., AgentUnderTest], tmp_path: Path
) -> None:
    here, there = start_agent(image=False), start_agent(image=False)
    here.api("PUT", "/mooring/v1/images/deb:12", {"template": "debian"}, timeout=600)
    context = write_context(tmp_path / "lamp", _DOCKERFILE, {"index.php": _PAGE.format(text="one")})
    for name in ("apt.conf.d", "sources.list.d", "auth.conf.d"):
        shutil.copytree(f"/etc/apt/{name}", context / "apt" / name)

    with RegistryUnderTest() as registry:
        name = f"{registry.host}/lamp"
        assert build(here, context, tags=[f"{name}:1"]).hits == 0
        here.api("POST", f"/mooring/v1/images/{name}:1/push", {}, timeout=600)
        there.api("PUT", f"/mooring/v1/images/{name}:1", {"pull": True}, timeout=600)
        whole = registry.traffic.sent

        (context / "index.php").write_text(_PAGE.format(text="two"))
        registry.forget()
        assert build(here, context, tags=[f"{name}:2"]).hits == _LAYERS - 2
        here.api("POST", f"/mooring/v1/images/{name}:2/push", {})
        pushed = registry.traffic.received
        there.api("PUT", f"/mooring/v1/images/{name}:2", {"pull": True})
        pulled = registry.traffic.sent

        print(f"the image: {whole >> 20} MiB; after the change: {pushed} bytes up, {pulled} bytes down")
        assert whole > 100 << 20
        assert pushed < _WRAPPING
        assert pulled < _WRAPPING
        spec = {"image": f"{name}:2", "ports": ["127.0.0.1:18080:80"], "stop_timeout": 1}
        there.api("PUT", "/mooring/v1/containers/lamp", spec)
        fetch = "exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET /index.php HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        argv = [
            "timeout",
            "20",
            "bash",
            "-c",
            f"until {fetch} | grep 'made by PHP 8 two'; do sleep 0.2; done",
        ]
        answer = there.api("POST", "/mooring/v1/containers/lamp/exec", {"argv": argv})
        assert answer["exit_code"] == 0, answer
