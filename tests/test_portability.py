"""drover is written for Linux and FreeBSD: what only Linux has is in files of its own.

Nothing here runs on FreeBSD. Sources that are for both are compiled against POSIX.1-2008 and what
FreeBSD 14 has besides (tests/portability/freebsd14.h); FreeBSD's own against declarations of what
they use (tests/portability/include). docs/portability.md says what that shows."""

import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from droverlab.paths import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "portability"
SOURCES = sorted((ROOT / "src").rglob("*.[ch]"))
LIBRARIES = ("gnutls", "jansson", "sqlite3", "inih", "libcurl", "libmicrohttpd", "libzstd",
             "libxxhash")

# Headers, files and calls that FreeBSD 14 does not have. It does have, and they are not here:
# accept4, pipe2, SOCK_CLOEXEC, O_PATH, O_DIRECT, eventfd, timerfd, memfd_create, close_range,
# getrandom, ppoll, copy_file_range, flock, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC, TCP_INFO, endian.h.
LINUX_ONLY = re.compile(
    r"<linux/|<asm/|<netlink/|<seccomp\.h>|<byteswap\.h>|<sys/(?:prctl|epoll|signalfd|inotify|"
    r"fanotify|sysinfo|vfs|sendfile|statfs|capability|syscall)\.h>|"
    r"\"/(?:proc|sys)/|/dev/(?:kvm|net/tun)|"
    r"\b(?:prctl|epoll_\w+|signalfd|inotify_\w+|pidfd_\w+|statx|syscall|splice|tee|vmsplice|"
    r"unshare|setns|renameat2|fallocate|name_to_handle_at|io_uring_\w+|gettid|strchrnul|"
    r"secure_getenv|mremap|sync_file_range|readahead|ioprio_set)\s*\(|"
    r"\b(?:SO_PEERCRED|O_TMPFILE|AF_NETLINK|MAP_POPULATE|TUNSETIFF|F_ADD_SEALS|SYS_\w+)\b")
# QEMU's driver is for Linux alone; bhyve's is its counterpart.
ALLOWED = re.compile(r"_linux\.[ch]$|^src/host/linux\.c$|^src/hv/qemu/")
# Where a line says of both systems what each has.
EXPECTED = {"src/pool/mount.c": "/proc/self/mountinfo",  # a comment on whose options these are
            "src/daemon/api_cpu.c": '"/sys"'}            # passed over by FreeBSD's topology
FREEBSD = re.compile(r"freebsd\.[ch]$")


def name_of(path):
    return str(path.relative_to(ROOT))


def code(path):
    """Its text, comments left out but for their newlines."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment.group().count("\n"), text,
                  flags=re.DOTALL)


def for_both():
    return [path for path in SOURCES if path.suffix == ".c" and not ALLOWED.search(name_of(path))
            and not FREEBSD.search(path.name)]


def flags():
    found = subprocess.run(["pkg-config", "--cflags", *LIBRARIES], check=True, text=True,
                           capture_output=True).stdout
    return [*shlex.split(found), f"-I{ROOT}/src", "-Wall", "-Werror", "-Wno-unused-value",
            '-DDROVER_VERSION="0"', '-DDROVER_BINARY="/"', '-DDROVER_WIRE_BINARY="/"']


def compile_all(paths, *options):
    """What the compiler says of those that it does not take."""
    command = ["gcc", "-std=gnu17", "-fsyntax-only", *flags(), *options]

    def one(path):
        run = subprocess.run([*command, path], text=True, check=False, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        return run.stdout if run.returncode else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [said for said in pool.map(one, paths) if said]


def test_what_only_linux_has_is_in_files_of_its_own():
    found = [f"{name_of(path)}:{number}: {line.strip()}" for path in SOURCES
             if not ALLOWED.search(name_of(path))
             for number, line in enumerate(code(path).splitlines(), 1)
             if LINUX_ONLY.search(line) and EXPECTED.get(name_of(path), "\0") not in line]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["#include <sys/prctl.h>", 'open("/proc/self/exe", 0);',
                                  "syscall(SYS_gettid);", "fd = signalfd(-1, &set, 0);",
                                  "getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len)"])
def test_a_line_that_only_linux_understands_is_seen(line):
    assert LINUX_ONLY.search(line)


def test_sources_for_both_need_no_more_than_freebsd_has():
    said = compile_all(for_both(), "-D_POSIX_C_SOURCE=200809L", "-D_DEFAULT_SOURCE", "-include",
                       HERE / "freebsd14.h")
    assert not said, "\n".join(said)


def test_a_call_that_freebsd_lacks_does_not_compile(tmp_path):
    source = tmp_path / "one.c"
    source.write_text("#include <string.h>\nchar *f(char *s) { return strchrnul(s, 'x'); }\n")
    assert compile_all([source], "-D_POSIX_C_SOURCE=200809L", "-D_DEFAULT_SOURCE", "-include",
                       HERE / "freebsd14.h")


def test_sources_of_freebsd_compile_against_what_they_use():
    paths = [path for path in SOURCES if FREEBSD.search(path.name) and path.suffix == ".c"]
    assert len(paths) >= 3
    said = compile_all(paths, "-D_GNU_SOURCE", f"-I{HERE}/include")
    assert not said, "\n".join(said)


def exported(path):
    """Functions that a source defines for others."""
    return set(re.findall(r"^(?!static\b)[a-z_][\w \*]*?\b(\w+)\([^;{]*\)\n\{", code(path),
                          re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("folder", ["base", "host", "wire"])
def test_freebsd_has_what_linux_has(folder):
    mine = [path for path in SOURCES if path.parent.name == folder and path.suffix == ".c"]
    linux = [path for path in mine if ALLOWED.search(name_of(path))]
    other = [path for path in mine if FREEBSD.search(path.name) or path.stem.endswith("_none")]
    assert linux and other
    missing = set().union(*map(exported, linux)) - set().union(*map(exported, other))
    assert not missing, f"only Linux has {', '.join(sorted(missing))}"


def test_the_port_lists_what_is_installed(tmp_path):
    subprocess.run(["meson", "install", "-C", PROGRAMS, "--no-rebuild"], check=True,
                   env={**os.environ, "DESTDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)
    prefix = next(tmp_path.glob("**/bin")).parent
    installed = {str(path.relative_to(prefix)) for path in prefix.rglob("*")
                 if path.is_symlink() or path.is_file()}
    # Of systemd's in the place of rc.d's; a port packs its manual pages.
    installed = {name for name in installed if not name.startswith(("lib/systemd", "lib/sysusers"))}
    wanted = {name + ".gz" if "/man/" in name else name for name in installed}
    listed = (ROOT / "contrib/freebsd-port/pkg-plist").read_text(encoding="utf-8").split()
    assert listed == sorted(wanted | {"etc/rc.d/droverd"})
