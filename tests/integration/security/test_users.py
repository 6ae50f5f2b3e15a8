# SPDX-License-Identifier: Apache-2.0
"""Who a process becomes, when the files that say so are the attacker's."""

from __future__ import annotations

from typing import Any

import pytest

from harness.agent import AgentUnderTest

from .attackers import Attacker, Declare, Workshop, file, refused, run

pytestmark = pytest.mark.root

# Every entry tries to become root, or to be more than it says.
PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
good:x:1500:1500:good:/home:/bin/sh
hex:x:0x0:0:hex:/:/bin/sh
blank:x: 0: 0:blank:/:/bin/sh
empty:x:::empty:/:/bin/sh
minus:x:-1:-1:minus:/:/bin/sh
plus:x:+0:+0:plus:/:/bin/sh
under:x:0_0:0:under:/:/bin/sh
wide:x:4294967296:4294967296:wide:/:/bin/sh
nearly:x:4294967295:4294967295:nearly:/:/bin/sh
long:x:00000000000000000000000000000000000:0:long:/:/bin/sh
arabic:x:\xd9\xa0:\xd9\xa0:arabic:/:/bin/sh
cr:x:1501:1501:cr:/:/bin/sh\r
1502:x:0:0:a name that is a number:/:/bin/sh
short:x:0
shorter
:x:0:0:nameless:/:/bin/sh
+::::::
+@admins::0:0:::
-good:x:0:0:::
good:x:0:0:the second good:/:/bin/sh
nul\0:x:0:0:nul:/:/bin/sh
"""
GROUP = b"""\
root:x:0:
good:x:1500:
extra:x:1600:good,root
hex:x:0x0:good
minus:x:-1:good
wide:x:4294967296:good
blank:x: 0:good
also:x:0:other,,good
trap:x:1700:go od,goodness
short:x
:x:0:good
"""


@pytest.fixture(scope="module")
def crowd(agent: AgentUnderTest, workshop: Workshop) -> str:
    """Return an image with hostile passwd(5) and group(5)."""
    return workshop.image(
        "crowd", file("etc/passwd", PASSWD + b"x" * (1 << 20) + b"\n"), file("etc/group", GROUP)
    )


def _ids(told: str) -> dict[str, Any]:
    user, group, groups = told.splitlines()
    return {"uid": int(user), "gid": int(group), "groups": {int(each) for each in groups.split()}}


IDS = ("sh", "-c", "id -u; id -g; id -G")


@pytest.mark.parametrize(
    "user", ["hex", "blank", "empty", "minus", "plus", "under", "wide", "nearly", "long", "arabic", "nul"]
)
def test_cve_2026_30892_a_number_that_is_none_is_not_root(
    agent: AgentUnderTest, declare: Declare, crowd: str, user: str
) -> None:
    """crun exec took what it could not read in `-u` for 0, and the process was root.

    Only decimal digits from 0 to 2^31-1 are a number, in the request and in passwd alike; nothing else is,
    and an entry without one does not exist.
    """
    declare("crowded", image=crowd)
    body = {"argv": list(IDS), "user": user}
    answer = agent.request("POST", "/mooring/v1/containers/crowded/exec", body)
    assert answer.status >= 400, answer.json()
    assert f"unable to find user {user}" in answer.json()["message"]


@pytest.mark.parametrize(
    "user",
    [
        *("-1", "4294967295", "4294967296", "18446744073709551616", "0x0", "0x3e8", "1e3", "²", "٠", "1 000"),
        *(
            "0:-1",
            "0:4294967295",
            "1000:0x0",
            "1000:nothing",
            "good:",
            ":::",
            "good:good:good",
            "../etc",
            "$USER",
        ),
        *("99999999999999999999999999999999999999", "0\n0", "root\t", "\ufeff0", "0,0"),
    ],
)
def test_cve_2026_30892_what_is_no_user_is_refused(
    agent: AgentUnderTest, declare: Declare, crowd: str, user: str
) -> None:
    """The same from the side of the request: no spelling of a user that is none makes a process at all.

    What is left open, "good:", is the user without a group.
    """
    declare("crowded", image=crowd)
    body = {"argv": list(IDS), "user": user}
    answer = agent.request("POST", "/mooring/v1/containers/crowded/exec", body)
    if user == "good:":
        assert _ids(answer.json()["stdout"])["uid"] == 1500
        return
    assert answer.status >= 400, answer.json()
    assert "unable to find" in answer.json()["message"] or "is out of range" in answer.json()["message"]
    refused(agent, "nobody", image=crowd, user=user)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("good", {"uid": 1500, "gid": 1500, "groups": {1500, 1600, 0}}),
        ("cr", {"uid": 1501, "gid": 1501, "groups": {1501}}),
        ("good:extra", {"uid": 1500, "gid": 1600, "groups": {1600}}),
        ("1500:1700", {"uid": 1500, "gid": 1700, "groups": {1700}}),
        ("12345", {"uid": 12345, "gid": 0, "groups": {0}}),
        ("2147483647", {"uid": 2147483647, "gid": 0, "groups": {0}}),
    ],
)
def test_a_user_is_who_the_first_well_formed_entry_says(
    agent: AgentUnderTest, declare: Declare, crowd: str, user: str, expected: dict[str, Any]
) -> None:
    """What is well formed among hostile entries holds, in starts and in execs (also CVE-2022-2989).

    The supplementary groups are those that name the user in full: no part of a name, no number that is none.
    """
    declare("crowded", image=crowd)
    assert _ids(run(agent, "crowded", *IDS, user=user)["stdout"]) == expected
    declare("crowded-start", image=crowd, user=user)
    assert _ids(run(agent, "crowded-start", *IDS, user=user)["stdout"]) == expected


def test_a_passwd_that_is_no_file_is_none(agent: AgentUnderTest, declare: Declare) -> None:
    """A pipe, a device or a link in a circle in its place neither holds up an exec nor is read."""
    declare("strange")
    box = Attacker(agent, "strange")
    for made in (
        "mkfifo /etc/passwd",
        "ln -s /dev/zero /etc/passwd",
        "ln -s passwd /etc/passwd",
        "mkdir /etc/passwd",
    ):
        box.sh(f"rm -rf /etc/passwd; {made}")
        told = run(agent, "strange", "grep", "Uid", "/proc/self/status", user="77")["stdout"]
        assert told.split()[1:] == ["77"] * 4
        body = {"argv": ["true"], "user": "root"}
        assert agent.request("POST", "/mooring/v1/containers/strange/exec", body).status >= 400


def test_the_home_of_a_hostile_entry_is_only_a_string(agent: AgentUnderTest, declare: Declare) -> None:
    """HOME comes from passwd: whatever is in it, it goes to the environment and nowhere else."""
    declare("home")
    box = Attacker(agent, "home")
    box.sh("printf 'evil:x:1:1::$(touch /pwned);../../%%s=LD_PRELOAD:/bin/sh\\n' > /etc/passwd")
    told = box.sh('echo "$HOME"', user="evil")["stdout"]
    assert told == "$(touch /pwned);../../%s=LD_PRELOAD\n"
    assert box.sh("ls /pwned")["exit_code"] != 0
