# SPDX-License-Identifier: Apache-2.0
"""Apache, MariaDB and PHP as layers of Debian's packages: after an update of PHP only its layer is built, and
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

from .building import blobs, build, layers, write_context

pytestmark = [pytest.mark.root, pytest.mark.bench, pytest.mark.timeout(900)]

_APT = (
    "RUN --mount=type=bind,source=apt/apt.conf.d,target=/etc/apt/apt.conf.d "
    "--mount=type=bind,source=apt/sources.list.d,target=/etc/apt/sources.list.d "
    "--mount=type=bind,source=apt/auth.conf.d,target=/etc/apt/auth.conf.d "
    "--mount=type=cache,target=/var/lib/apt/lists --mount=type=cache,target=/var/cache/apt "
    "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "
)
_PAGE = """\
<?php
$version = mysqli_connect('localhost', 'www-data')->query('SELECT VERSION()')->fetch_row()[0];
echo 'PHP ', PHP_MAJOR_VERSION, extension_loaded('intl') ? ' with intl' : '', ' on ', $version;
"""
_USER = "CREATE USER 'www-data'@'localhost' IDENTIFIED VIA unix_socket"
_PHP = f"{_APT}php libapache2-mod-php php-mysql"
_DOCKERFILE = f"""\
FROM deb:12
{_APT}apache2
COPY --chmod=644 index.php /var/www/html/
{_APT}mariadb-server \\
    && service mariadb start && mariadb -e "{_USER}" && service mariadb stop
{_PHP}
CMD ["sh", "-c", "service mariadb start && exec apache2ctl -D FOREGROUND"]
"""
_BELOW = 4  # layers: Debian's, and those of Apache, the page and MariaDB
_WRAPPING = 64 << 10  # bytes: manifest, configuration, headers of HTTP


def size_of_last_layer(agent: AgentUnderTest, image_id: str) -> int:
    """Bytes of its blob."""
    return (blobs(agent) / layers(agent, image_id)[-1].removeprefix("sha256:")).stat().st_size


def test_after_an_update_of_php_only_its_layer_is_built_and_moved(
    start_agent: Callable[..., AgentUnderTest], tmp_path: Path
) -> None:
    here, there = start_agent(image=False), start_agent(image=False)
    here.api("PUT", "/mooring/v1/images/deb:12", {"template": "debian"}, timeout=600)
    context = write_context(tmp_path / "lamp", _DOCKERFILE, {"index.php": _PAGE})
    for name in ("apt.conf.d", "sources.list.d", "auth.conf.d"):
        shutil.copytree(f"/etc/apt/{name}", context / "apt" / name)

    with RegistryUnderTest() as registry:
        name = f"{registry.host}/lamp"
        first = build(here, context, tags=[f"{name}:1"])
        assert first.hits == 0
        assert len(layers(here, first.id)) == _BELOW + 1
        here.api("POST", f"/mooring/v1/images/{name}:1/push", {}, timeout=600)
        there.api("PUT", f"/mooring/v1/images/{name}:1", {"pull": True}, timeout=600)
        whole = registry.traffic
        assert answer_of(there, f"{name}:1").startswith("PHP 8 on ")

        (context / "Dockerfile").write_text(_DOCKERFILE.replace(_PHP, f"{_PHP} php-intl"))
        registry.forget()
        second = build(here, context, tags=[f"{name}:2"])
        assert second.hits == _BELOW - 1
        assert layers(here, second.id)[:_BELOW] == layers(here, first.id)[:_BELOW]
        here.api("POST", f"/mooring/v1/images/{name}:2/push", {}, timeout=600)
        pushed = registry.traffic.sent
        registry.forget()
        there.api("PUT", f"/mooring/v1/images/{name}:2", {"pull": True}, timeout=600)
        pulled = registry.traffic.received
        assert answer_of(there, f"{name}:2").startswith("PHP 8 with intl on ")

    layer = size_of_last_layer(here, second.id)
    print(
        f"the image: {whole.sent} bytes up, {whole.received} down; PHP's layer: {layer}; after its update: "
        f"{pushed} up ({pushed / whole.sent:.1%}), {pulled} down ({pulled / whole.received:.1%})"
    )
    assert min(whole.sent, whole.received) > 100 << 20
    assert layer < pushed < layer + _WRAPPING
    assert layer < pulled < layer + _WRAPPING
    assert layer < whole.sent / 3


def answer_of(agent: AgentUnderTest, image: str) -> str:
    """What the page says in a container of the image."""
    agent.api("PUT", "/mooring/v1/containers/lamp", {"image": image, "stop_timeout": 1})
    fetch = "exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET /index.php HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
    argv = [
        "timeout",
        "60",
        "bash",
        "-c",
        f"until {fetch} | grep -a '^PHP .* on .*MariaDB'; do sleep 0.2; done",
    ]
    answer = agent.api("POST", "/mooring/v1/containers/lamp/exec", {"argv": argv}, timeout=90)
    assert answer["exit_code"] == 0, answer
    agent.api("DELETE", "/mooring/v1/containers/lamp?force=true")
    return str(answer["stdout"])
