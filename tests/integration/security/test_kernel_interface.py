# SPDX-License-Identifier: Apache-2.0
"""What the kernel still offers to root in a container: system calls, capabilities, control groups, /proc."""

from __future__ import annotations

import errno
import json
import os
import platform
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

from .attackers import Attacker, Declare, status_of, view

pytestmark = pytest.mark.root

# Docker's fourteen: capabilities(7) numbers.
FOURTEEN = {
    *(
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
    ),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
}
MASK = "00000000a80425fb"
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def _table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


# Numbers of system calls: asm/unistd_64.h, asm-generic/unistd.h; from 424 on they are alike on all machines.
CALLS = {
    "x86_64": _table("""
        unshare 272  clone 56  mount 165  umount2 166  pivot_root 155  setns 308  add_key 248
        request_key 249  keyctl 250  bpf 321  userfaultfd 323  swapon 167  perf_event_open 298
        open_by_handle_at 304  init_module 175  finit_module 313  delete_module 176  kexec_load 246
        kexec_file_load 320  reboot 169  acct 163  settimeofday 164  sethostname 170  setdomainname 171
        iopl 172  quotactl 179  syslog 103  lookup_dcookie 212  vhangup 153  move_pages 279
        nfsservctl 180  fanotify_init 300  clock_settime 227  kcmp 312  process_vm_readv 310  socket 41
        personality 135  ptrace 101  uselib 134  ustat 136  sysfs 139
    """),
    "aarch64": _table("""
        unshare 97  clone 220  mount 40  umount2 39  pivot_root 41  setns 268  add_key 217
        request_key 218  keyctl 219  bpf 280  userfaultfd 282  swapon 224  perf_event_open 241
        open_by_handle_at 265  init_module 105  finit_module 273  delete_module 106  kexec_load 104
        kexec_file_load 294  reboot 142  acct 89  settimeofday 170  sethostname 161  setdomainname 162
        quotactl 60  syslog 116  vhangup 58  move_pages 239  nfsservctl 42  fanotify_init 262
        clock_settime 112  kcmp 272  process_vm_readv 270  socket 198  personality 92  ptrace 117
    """),
}
NEWER = _table("""
    io_uring_setup 425  io_uring_enter 426  io_uring_register 427  open_tree 428  move_mount 429
    fsopen 430  fsconfig 431  fsmount 432  fspick 433  clone3 435  pidfd_getfd 438  mount_setattr 442
    quotactl_fd 443
""")
NEW_USER, NEW_NS = 0x10000000, 0x00020000  # linux/sched.h

# Makes each call of a list in a child of its own, and tells the error numbers.
MAKE_CALLS = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, number, arguments in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
        os.write(writer, str(ctypes.get_errno() if result < 0 else 0).encode())
        os._exit(0)
    os.close(writer)
    found[name] = int(os.read(reader, 100) or -1)
    os.close(reader)
    os.waitpid(child, 0)
print(json.dumps(found))
"""
# The same call through the gate for 32-bit programs: mov eax, N; mov ebx, FLAGS; int 0x80; ret.
MAKE_32_BIT_CALL = """
import ctypes, json, mmap, sys
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
for argument, register in ((sys.argv[1], b'\\xb8'), (sys.argv[2], b'\\xbb')):
    code.write(register + int(argument).to_bytes(4, 'little'))
code.seek(0); body = code.read(10); code.seek(0)
code.write(b'\\x53' + body + b'\\xcd\\x80\\x5b\\xc3')
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print(json.dumps(call()))
"""


def _number(name: str) -> int | None:
    return CALLS.get(platform.machine(), {}).get(name, NEWER.get(name))


def _calls() -> list[tuple[str, str, tuple[int, ...], int]]:
    """List name, system call, arguments and the expected error, of the calls that this machine has."""
    blocked = sorted(({*CALLS["x86_64"], *NEWER}) - {"socket", "personality", "ptrace", "clone", "clone3"})
    blocked.remove("process_vm_readv")  # allowed since Linux 4.8, as by docker
    calls = [
        *((name, name, (0, 0, 0, 0, 0), errno.EPERM) for name in blocked),
        ("clone3", "clone3", (0, 0), errno.ENOSYS),
        ("unshare a user namespace", "unshare", (NEW_USER,), errno.EPERM),
        ("unshare a mount namespace", "unshare", (NEW_NS,), errno.EPERM),
        ("clone a user namespace", "clone", (NEW_USER | 17, 0, 0, 0, 0), errno.EPERM),
        ("AF_ALG", "socket", (38, 5, 0), errno.EPERM),
        ("AF_VSOCK", "socket", (40, 1, 0), errno.EPERM),
        ("AF_UNIX", "socket", (1, 1, 0), 0),
        ("AF_INET raw", "socket", (2, 3, 1), 0),
        ("personality: ask", "personality", (0xFFFFFFFF,), 0),
        ("personality: ADDR_NO_RANDOMIZE", "personality", (0x0040000,), errno.EPERM),
        ("personality: READ_IMPLIES_EXEC", "personality", (0x0400000,), errno.EPERM),
        ("ptrace: TRACEME", "ptrace", (0, 0, 0, 0), 0),
        ("ptrace: attach to init", "ptrace", (16, 1, 0, 0), 0),
    ]
    return [call for call in calls if _number(call[1]) is not None]


@pytest.fixture(scope="module")
def answers(attacker: Attacker) -> dict[str, int]:
    """Return the error number of every call that is tried."""
    wanted = [(name, _number(call), arguments) for name, call, arguments, _ in _calls()]
    found: dict[str, int] = attacker.python(MAKE_CALLS, json.dumps(wanted))
    return found


@pytest.mark.parametrize(("name", "expected"), [(one[0], one[3]) for one in _calls()])
def test_the_default_seccomp_profile(answers: dict[str, int], name: str, expected: int) -> None:
    """Docker's profile: what the kernel's bugs were found through is refused, and nothing that is needed.

    (CVE-2022-0185 fsconfig, CVE-2016-0728 keyctl, CVE-2021-3490 bpf, io_uring's, userfaultfd's, …)
    """
    assert answers[name] == expected, errno.errorcode.get(answers[name], answers[name])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have one table of calls")
def test_the_profile_holds_for_the_other_tables_of_calls(attacker: Attacker) -> None:
    """A filter that knows only 64-bit numbers is passed by through int 0x80 or the x32 numbers.

    Each table has its own part of the filter: the 32-bit unshare is 310, keyctl 288, x32 adds bit 30.
    """
    for number, argument in ((310, NEW_USER), (288, 0), (21, 0)):
        answer = attacker.python(MAKE_32_BIT_CALL, str(number), str(argument))
        assert -answer in (errno.EPERM, errno.ENOSYS), number
    x32 = [("x32 unshare", 0x40000000 | 272, (NEW_USER,)), ("x32 keyctl", 0x40000000 | 250, (0,))]
    for name, error in attacker.python(MAKE_CALLS, json.dumps(x32)).items():
        assert error in (errno.EPERM, errno.ENOSYS), name


def test_a_container_has_docker_s_fourteen_capabilities(agent: AgentUnderTest, attacker: Attacker) -> None:
    """These fourteen, bounding set included, no inheritable one, no ambient one; in starts and in execs."""
    expected = {**dict.fromkeys(SETS, MASK), "CapInh": "0" * 16, "CapAmb": "0" * 16}
    host = status_of(view(agent, attacker.name)["pid"])
    assert {name: host[name] for name in SETS} == expected
    assert host["Seccomp"] == "2"
    for user in ("", "0", "0:0"):
        options = {"user": user} if user else {}
        inside = attacker.sh("cat /proc/self/status", **options)["stdout"]
        found = dict(line.split(":\t", 1) for line in inside.splitlines() if ":\t" in line)
        assert {name: found[name] for name in SETS} == expected
        assert found["Seccomp"] == "2"
    assert len(FOURTEEN) == int(MASK, 16).bit_count()


@pytest.mark.parametrize("user", ["1000", "1000:1000", "daemon", "nobody:0"])
def test_cve_2022_27650_an_exec_inherits_no_capability(attacker: Attacker, user: str) -> None:
    """crun exec gave its processes inheritable capabilities: a file's inheritable ones then became real.

    (Also CVE-2022-24769.) The inheritable and ambient sets are empty whoever runs; a user has nothing at all.
    """
    found = attacker.sh("cat /proc/self/status", user=user)["stdout"]
    fields = dict(line.split(":\t", 1) for line in found.splitlines() if ":\t" in line)
    assert {fields[name] for name in SETS if name != "CapBnd"} == {"0" * 16}
    assert fields["CapBnd"] == MASK


RELEASE_AGENT = """
import ctypes, glob, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
got = []
def attempt(what, work):
    try:
        work()
    except OSError:
        return
    got.append(what)
def write(path):
    with open(path, 'w') as file:
        file.write('/payload')
def mounted(kind, options):
    os.makedirs('/tmp/cg', exist_ok=True)
    if libc.mount(b'cgroup', b'/tmp/cg', kind, 0, options) < 0:
        raise OSError('mount')
for name in ('release_agent', 'notify_on_release', 'cgroup.procs', 'devices.allow', 'memory.limit_in_bytes'):
    for path in glob.glob(f'/sys/fs/cgroup/**/{name}', recursive=True):
        attempt(path, lambda: write(path))
for path in glob.glob('/sys/fs/cgroup/*'):
    attempt(path + '/x', lambda: os.mkdir(path + '/x'))
for options in (b'memory', b'rdma', b'pids', b'none,name=x', b'devices', b''):
    attempt(f'mount {options}', lambda: mounted(b'cgroup', options))
attempt('mount v2', lambda: mounted(b'cgroup2', b''))
for flags in (0x10000000, 0x10020000, 0x02000000, 0x12020000):
    child = os.fork()
    if not child:
        os._exit(0 if libc.unshare(flags) == 0 else 1)
    if os.waitpid(child, 0)[1] == 0:
        got.append(f'unshare {flags:x}')
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hotplug',
             '/sys/kernel/uevent_helper', '/sys/kernel/mm/transparent_hugepage/enabled',
             '/proc/sys/vm/panic_on_oom', '/proc/sys/fs/binfmt_misc/register', '/sys/class/mem/null/uevent'):
    attempt(path, lambda: write(path))
print(json.dumps(got))
"""


def test_cve_2022_0492_no_release_agent_can_be_set(attacker: Attacker) -> None:
    """In a new user and cgroup namespace a container mounted a v1 hierarchy and named a program of the host.

    The hierarchies are mounted read-only, and neither unshare(2) nor mount(2) is to be had; nor are the
    kernel's other ways to have a program run on the host (core_pattern, modprobe, uevent_helper, binfmt).
    """
    assert attacker.python(RELEASE_AGENT) == []


def test_devices_of_the_host_cannot_be_opened(attacker: Attacker) -> None:
    """With CAP_MKNOD a node for the host's disk can be made, but the control group does not let it be opened.

    Allowed are null, zero, full, random, urandom, tty, ptmx and the terminals, nothing else.
    """
    script = (
        "import json, os, stat\n"
        "got = []\n"
        "for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0), (stat.S_IFBLK, 7, 0),"
        " (stat.S_IFBLK, 259, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 1, 2), (stat.S_IFCHR, 1, 4),"
        " (stat.S_IFCHR, 1, 11), (stat.S_IFCHR, 10, 200), (stat.S_IFCHR, 10, 229), (stat.S_IFCHR, 10, 232),"
        " (stat.S_IFCHR, 4, 0), (stat.S_IFCHR, 13, 0), (stat.S_IFCHR, 108, 0), (stat.S_IFCHR, 10, 237)):\n"
        "    path = f'/tmp/{kind}-{major}-{minor}'\n"
        "    os.mknod(path, kind | 0o666, os.makedev(major, minor))\n"
        "    try:\n"
        "        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)); got.append((major, minor))\n"
        "    except PermissionError:\n"
        "        pass\n"
        "    except OSError as error:\n"
        "        got.append((major, minor, str(error)))\n"
        "    os.unlink(path)\n"
        "print(json.dumps(got))\n"
    )
    assert attacker.python(script) == []


def test_the_standard_paths_are_masked_and_read_only(agent: AgentUnderTest, attacker: Attacker) -> None:
    """Docker's lists: what tells of the host or changes it is covered, or cannot be written."""
    root = f"/proc/{view(agent, attacker.name)['pid']}/root"
    seen = 0
    for path in MASKED_PATHS:
        if not os.path.exists(path):
            continue
        seen += 1
        if os.path.isdir(path):
            assert os.listdir(root + path) == [], path
        else:
            assert Path(root + path).read_bytes() == b"", path
    for path in (*READ_ONLY_PATHS, "/sys", "/sys/fs/cgroup"):
        if os.path.exists(path):
            seen += 1
            assert os.statvfs(root + path).f_flag & os.ST_RDONLY, path
    assert seen >= 5
    wanted = {
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys/firmware",
        "/proc/interrupts",
        "/proc/acpi",
    }
    assert wanted <= set(MASKED_PATHS)
    assert set(READ_ONLY_PATHS) == {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}


@pytest.mark.parametrize(
    "script",
    [
        "umount /proc/keys",
        "umount /proc/sys",
        "mount -o remount,rw /proc/sys",
        "mount -t proc none /mnt",
        "mount -o bind /proc/1/root /mnt",
        "mount -o remount,rw /sys",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "chroot /proc/1/root/../../.. test -e /var/lib/dpkg",
        "dmesg",
        "hostname other",
        "nsenter -t 1 -m true && false",
        "losetup /dev/loop0 /etc/passwd",
        "insmod /tmp/x.ko",
        'date -s "@$(date +%s)"',
        "swapon /tmp/x",
    ],
)
def test_root_in_a_container_is_refused(attacker: Attacker, script: str) -> None:
    """The usual first tries."""
    assert attacker.sh(script)["exit_code"] != 0


def test_a_container_sees_only_its_own(agent: AgentUnderTest, declare: Declare) -> None:
    """No process, terminal, queue or key of another container or of the host."""
    declare("one", command=["sleep", "1111"])
    declare("two", command=["sleep", "2222"])
    one = Attacker(agent, "one")
    seen = one.sh("ps; ls /proc")["stdout"]
    assert "1111" in seen
    assert "2222" not in seen
    assert one.sh("ls /dev/pts")["stdout"].split() == ["ptmx"]
    assert one.sh("ls /dev/mqueue /dev/shm")["stdout"].split() == ["/dev/mqueue:", "/dev/shm:"]


def test_the_host_s_resources_are_bounded(attacker: Attacker, agent: AgentUnderTest) -> None:
    """/dev is 64 MiB at most and /dev/shm too: memory that no limit of the container would count."""
    for path, size in (("/dev", 64 << 20), ("/dev/shm", 64 << 20)):
        found = os.statvfs(f"/proc/{view(agent, attacker.name)['pid']}/root{path}")
        assert found.f_blocks * found.f_frsize <= size
