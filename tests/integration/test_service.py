"""droverd as a service of systemd: what the unit and the list of users say is good, and enough."""

import os
import re
import shutil
import subprocess

import pytest

from droverlab.paths import BUILD
from vms import Guest, allow_userfaultfd, drover

UNIT = BUILD / "src" / "daemon" / "droverd.service"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


def settings(name):
    """What a setting of the unit's says, in all its lines."""
    return " ".join(re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)).split()


@pytest.fixture(name="installed", scope="module")
def fixture_installed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True,
                   env={**os.environ, "DESTDIR": str(directory)}, stdout=subprocess.DEVNULL)
    return directory


@needs_systemd
def test_systemd_has_nothing_against_the_unit(installed):
    unit, = installed.rglob("droverd.service")
    checked = subprocess.run(
        ["systemd-analyze", "verify", f"--root={installed}", "--man=no", "--recursive-errors=no",
         f"/{unit.relative_to(installed)}"], text=True, capture_output=True, check=False)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr


@needs_systemd
def test_users_and_groups_are_made(installed, tmp_path):
    listed, = installed.rglob("sysusers.d/drover.conf")
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", listed], check=True, capture_output=True)
    users = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()
             if line.startswith("drover")}
    groups = {line.split(":")[2]: line.split(":")[0]
              for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert set(users) == {"drover-vm", "drover-wire"}, users
    assert groups[users["drover-vm"][3]] == "kvm" and "drover" in groups.values(), groups
    assert all(user[-1].endswith("nologin") for user in users.values()), users


def test_a_vm_runs_moves_and_ends_with_the_rights_of_the_unit(make_lab, tiny_guest):  # pylint: disable=unused-argument
    lab = make_lab("service", nodes=2)
    rights = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}"
                                 for name in settings("CapabilityBoundingSet"))])
    assert rights.count("+") > 3 and settings("NoNewPrivileges") == ["yes"], rights
    for node in lab.nodes:
        allow_userfaultfd(node)
        node.stop_daemon()
        node.start_daemon(under=("setpriv", "--no-new-privs", f"--bounding-set={rights}"))
    node1, node2 = lab.nodes
    guest = Guest(lab, node1, "vm1", disk="disk0.qcow2,size=16M")
    drover(node1, "migrate", guest.name, "node2")
    drover(node2, "migrate", guest.name, "node1", "--postcopy=1000")
    guest.assert_runs_only_on(node1)
    guest.remove(node1)
