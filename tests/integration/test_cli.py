"""The command against a droverd that is played by the test: its words, what it sends, and
what it makes of the answers. No lab is needed."""

import json
import re
import subprocess

import pytest
from clilab import (DAEMON, DEFINITION, DROVER, ID, NAME, NO_NODE, NO_VM, REQUEST, UNDECIDED,
                    USAGE, error_object, fixture_droverd, run)
from droverlab.paths import ROOT

FIXTURES = (fixture_droverd,)


def verbs():
    """Every verb, as --help lists them."""
    out = subprocess.run([str(DROVER), "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (\w+(?: \w+)?) {2,}[A-Z]", out, re.MULTILINE)


def test_help_lists_the_verbs_and_each_has_examples():
    assert {"migrate", "task new", "node ls", "console"} <= set(verbs())
    assert "receive" not in verbs()
    for verb in verbs():
        result = run("/nowhere", *verb.split(), "--help")
        assert result.returncode == 0, verb
        assert f"drover {verb}" in result.stdout
        assert re.search(rf"Examples:\n  drover {verb.split()[0]}", result.stdout), verb


def test_help_shows_what_is_to_stand_before_a_queued_verb():
    assert "drover task new [OPTION...] VERB...\n" in run("/nowhere", "task", "new", "-h").stdout
    assert "drover migrate VM NODE [OPTION...]\n" in run("/nowhere", "migrate", "-h").stdout


@pytest.mark.parametrize("before", ["help", "--help", "-h"])
def test_help_of_a_verb_can_be_asked_for_before_it(before):
    for verb in ("migrate", "task new", "task", ""):
        asked = run("/nowhere", before, *verb.split())
        assert asked.returncode == 0
        assert asked.stdout == run("/nowhere", *verb.split(), "--help").stdout
    unknown = run("/nowhere", before, "migrat")
    assert unknown.returncode == USAGE and 'is "migrate" meant' in unknown.stderr


def test_the_manual_names_every_verb_and_exit_status():
    manual = (ROOT / "man/drover.1").read_text()
    for verb in verbs():
        assert f".It Ic {verb}" in manual, verb
    kinds = re.findall(r'\[ERROR_\w+\] = \{"([\w-]+)"', (ROOT / "src/base/error.c").read_text())
    assert re.findall(r"^\.It (\d+) Ta ([\w-]+) Ta", manual, re.MULTILINE) == [
        (str(number), kind) for number, kind in enumerate(kinds, 1)]


def test_without_words_help_is_an_error():
    result = run("/nowhere")
    assert result.returncode == USAGE
    assert "migrate" in result.stderr and result.stdout == ""


@pytest.mark.parametrize("words, part", [
    (["migrat", "web1", "node2"], '"migrate"'),
    (["task", "sl"], '"task ls"'),
    (["vm", "ls"], '"vm" is no verb; `drover --help`'),
    (["move", "web1", "node2"], 'is "migrate" meant'),
    (["resume", "web1"], 'is "start" meant'),
    (["node", "list"], 'is "node ls" meant'),
    (["task", "delete", "1"], '"task delete" is no verb; `drover --help`'),
    (["node"], "ls, show, rm, add"),
    (["migrate", "web1"], "NODE is missing"),
    (["migrate", "web1", "node2", "node3"], "too many"),
    (["migrate", "web1", "node2", "--downtme", "5"], "--downtime"),
    (["migrate", "web1", "node2", "--downtime", "soon"], "downtime is a number"),
    (["migrate", "web1", "node2", "--bandwidth", "fast"], "800mbit"),
    (["migrate", "web1", "node2", "--bandwidth", "7"], "at least 1M"),
    (["migrate", "web1", "node2", "--bandwidth", "900K"], "at least 1M"),
    (["migrate", "web1", "node2", "--bandwidth", "99999999999999T"], "at most 1T"),
    (["migrate", "web1", "node2", "--postcopy="], "--postcopy needs a value, ROUNDS|auto: "),
    (["migrate", "web1", "node2", "--postcopy=abc"], "number of rounds from 0 to 1000, or auto"),
    (["migrate", "web1", "node2", "downtime="], "downtime needs a value, MS: longest"),
    (["migrate", "web1", "node2", "--downtime=0"], "milliseconds from 1 to 600000"),
    (["migrate", "jname=", "node2"], "jname needs a value, VM: "),
    (["migrate", "web1", "node2", "jname=web2"],
     'jname "web2" is one too many: VM is given by its place already, as "web1"'),
    (["migrate", "jname=web1", "vm=web2"], 'vm is given twice: "web1" and "web2"'),
    (["create", "web1", "--name", "foo"], "VM is given by its place already"),
    (["migrate", "web1", "node2", "--check", "--detach"], "--check and --detach exclude"),
    (["migrate", "web1", "node2", "--check", "--estimate"], "--check and --estimate exclude"),
    (["migrate", "web1", "node2", "--pause", "downtime=50"], "--pause and --downtime exclude"),
    (["migrate", "web1", "node2", "--warm", "--pause"], "--pause and --warm exclude"),
    (["migrate", "web1", "node2", "--no-estimate"], "--no-estimate goes only with --check"),
    (["create", "web1", "memroy=1G"], "memory="),
    (["create", "web1", "--cpus", "2", "--sockets", "3", "--cores", "7"], "2 CPUs are not 3"),
    (["create", "web1", "--disk", "a,sise=1"], "sise"),
    (["create", "web1", "--disk", "size=1G"], "file is missing"),
    (["create", "web1", "--disk", "a,size=0"], "out of range"),
    (["create", "web1", "--disk", "disk0.qcow2,size="], "its size is empty"),
    (["set", "web1", "memory"], '"memory" has no value: write memory=SIZE'),
    (["set", "web1", "disk0.cache"], "write disk0.cache=VALUE"),
    (["set", "web1", "--", "memory"], "one word too many"),
    (["migrate", "web1", "node2", "downtime", "50"], "write downtime=MS"),
    (["set", "web1"], "nothing to set"),
    (["task", "new", "migrate", "web1"], "NODE is missing"),
    (["task", "new", "migrate", "web1", "node2", "--bandwidth", "fast"], "800mbit"),
    (["task", "new", "migrate", "web1", "node2", "--postcopy=abc"], "or auto"),
    (["task", "new", "stop", "web1", "--timeout", "long"], "seconds from 0 to 600"),
    (["task", "new", "migrate", "web1", "node2", "--at", "+60"],
     "goes before the verb: `drover task new --at TIME migrate ...`"),
    (["task", "new", "migrate", "web1", "node2", "--detach"], "--detach of migrate is not for a"),
    (["task", "new", "bmigrate", "jname=web1", "node=node2", "check=1"], "--check of migrate is"),
    (["task", "new", "stop", "web1", "exclusive=1"], "`drover task new --exclusive stop ...`"),
    (["task", "new", "set", "web1", "vnc=unix", "--after", "3"], "--after ID set ...`"),
    (["task", "new", "stop", "web1", "--nowhere"], "the task: --nowhere is not known here; --help"),
    (["ls", "-l"], "-l is not known here; "),
    (["migrate", "web1", "node2", "-downtime", "5"], "is --downtime meant"),
    (["task", "show", "twelve"], "a number from 1 on"),
    (["task", "new", "sh", "-c", "reboot"], '"sh"'),
    (["task", "new", "rm", "web1"], "--yes"),
    (["task", "new", "--at", "tomorrow", "stop", "web1"], "02:03"),
    (["task", "new", "--at", "2099-02-31T00:00:00Z", "stop", "web1"], "02:03"),
    (["task", "new", "--at", "2020-01-01T00:00:00Z", "stop", "web1"], "is past"),
    (["init"], "--pool"),
    (["join", "10.0.0.1"], "--token"),
    (["ls", "x" * 5000], "too many"),
])
def test_usage_errors_name_what_is_wrong(words, part):
    plain, as_json = run("/nowhere", *words), run("/nowhere", "--json", *words)
    assert plain.returncode == as_json.returncode == USAGE
    assert plain.stderr.startswith("drover: ") and plain.stderr.count("\n") == 1
    assert part in plain.stderr
    assert plain.stdout == ""
    error = json.loads(as_json.stdout)["error"]
    assert error["kind"] == "usage" and error["exit"] == USAGE and part in error["message"]


@pytest.mark.parametrize("words, what", [
    *[([*verb.split(), "../x"], "VM") for verb in (
        "start", "stop", "suspend", "recover", "show", "set", "rename", "console", "migrate",
        "create", "rm", "task new start")],
    (["rename", "web1", "../x"], "VM"), (["start", "jname=.."], "VM"),
    *[([*verb.split(), "../x"], "node") for verb in (
        "node show", "node rm", "migrate web1", "ls --node", "start web1 --node", "cpu",
        "topology", "status --node", "task ls --node", "migration show 1 --node")],
    *[([*verb.split(), "../x"], "image") for verb in ("image rm", "image add /x --name")],
    (["image", "add", "/srv/.x"], "image")])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(words, what):
    result = run("/nowhere", *words)
    assert result.returncode == NAME
    assert re.match(rf"drover: (the task: )?an? {what}'s name starts with a letter or a digit: ",
                    result.stderr), result.stderr


@pytest.mark.parametrize("before", [[], ["task", "new"]])
@pytest.mark.parametrize("words, part", [
    (["create", "web1", "--memory", "0"], 'memory cannot be "0": it is a multiple of 1M from 16M'),
    (["create", "web1", "--machine", "nosuch"], 'machine cannot be "nosuch"'),
    (["create", "web1", "--disk", "a,cache=fast"], 'disk0.cache cannot be "fast"'),
    (["set", "web1", "vnc=here"], 'vnc cannot be "here"')])
def test_a_value_that_no_definition_can_have_is_refused_at_once(before, words, part):
    result = run("/nowhere", *before, *words)
    assert result.returncode == DEFINITION and part in result.stderr, result.stderr


@pytest.mark.parametrize("words", [
    ["status"], ["ls"], ["node", "ls"], ["node", "rm", "node2", "--yes"], ["start", "web1"],
    ["stop", "web1"], ["rm", "web1", "--yes"], ["migrate", "web1", "node2"],
    ["migration", "show", ID], ["task", "ls"], ["task", "new", "stop", "web1"],
    ["console", "web1"], ["receive", ID], ["init", "--pool", "/pool"]])
def test_without_droverd_all_verbs_say_so(tmp_path, words):
    result = run(tmp_path / "none", *words, "--json")
    assert result.returncode == DAEMON
    assert json.loads(result.stdout)["error"]["kind"] == "daemon"
    assert "does not answer" in result.stderr


def test_socket_option_counts_more_than_the_environment(droverd, tmp_path):
    assert run(tmp_path / "none", "status", "--socket", str(droverd.path)).returncode == 0


@pytest.mark.parametrize("words", [
    ["migrate", "web1", "node2", "--downtime", "50", "--bandwidth", "800mbit", "--detach"],
    ["migrate", "--node=node2", "--vm=web1", "--downtime=50", "--bandwidth=800mbit", "--detach"],
    ["migrate", "jname=web1", "node=node2", "downtime=50", "bandwidth=800mbit", "detach=1",
     "pause=0"]])
def test_all_spellings_send_the_same(droverd, words):
    result = run(droverd.path, *words)
    assert (result.returncode, result.stdout) == (0, ID + "\n")
    assert droverd.sent("POST /v1/migrations") == [{
        "vm": "web1", "node": "node2",
        "options": {"downtime_ms": 50, "bandwidth": 100000000, "timeout_ms": 0, "reconnect_s": 0,
                    "postcopy": 0, "pause": False}}]


def test_links_are_verbs_in_cbsds_spelling(droverd, tmp_path):
    droverd.answers["POST /v1/vms"] = {"name": "web1"}
    for link, words, request in [
            ("bmigrate", ["jname=web1", "node=node2", "detach=1"], "POST /v1/migrations"),
            ("bls", [], "GET /v1/vms"), ("bstart", ["jname=web1"], "POST /v1/vms/web1/start"),
            ("bstop", ["jname=web1"], "POST /v1/vms/web1/stop"),
            ("bsuspend", ["jname=web1"], "POST /v1/vms/web1/suspend"),
            ("bcreate", ["jname=web1", "vm_ram=1g", "vm_cpus=2", "imgsize=10g"], "POST /v1/vms"),
            ("brename", ["jname=web1", "new=www"], "POST /v1/vms/web1/rename")]:
        (tmp_path / link).symlink_to(DROVER)
        run(droverd.path, *words, program=tmp_path / link)
        assert droverd.sent(request), link
    assert droverd.sent("POST /v1/vms")[-2] == {
        "name": "web1", "set": {"memory": "1g", "cpus": "2"},
        "disks": [{"file": "disk0.qcow2", "size": 10 << 30}], "nics": []}


def test_create_sends_disks_and_nics_as_given(droverd):
    droverd.answers["POST /v1/vms"] = {"name": "web1"}
    result = run(droverd.path, "create", "web1", "--disk",
                 "disk0.qcow2,backing=images/debian.qcow2,format=qcow2", "--disk", "/srv/b.raw",
                 "--nic", "bridge=br0,mac=52:54:00:00:00:01", "--append", "root=/dev/vda quiet")
    assert result.returncode == 0, result.stderr
    assert droverd.sent("POST /v1/vms") == [{
        "name": "web1", "set": {"append": "root=/dev/vda quiet"},
        "disks": [{"file": "disk0.qcow2", "backing": "images/debian.qcow2", "format": "qcow2"},
                  {"file": "/srv/b.raw"}],
        "nics": [{"bridge": "br0", "mac": "52:54:00:00:00:01"}]}]


def test_set_removes_a_key_that_is_given_no_value(droverd):
    droverd.answers["PATCH /v1/vms/web1"] = {"running": True}
    result = run(droverd.path, "set", "web1", "memory=2G", "disk0.cache=none", "vnc=")
    assert droverd.sent("PATCH")[0] == {
        "set": {"memory": "2G", "disk0.cache": "none", "vnc": None}}
    assert "started again" in result.stdout


def test_names_are_escaped_in_paths(droverd):
    run(droverd.path, "receive", "../status?x=1&node=node2")
    assert droverd.requests[0][0] == (
        "POST /v1/migrations/..%2Fstatus%3Fx%3D1%26node%3Dnode2/receive")


def test_an_error_of_droverd_is_the_exit_status(droverd):
    droverd.answers["GET /v1/vms/web9"] = (404, error_object("no-vm", NO_VM, "no VM named web9"))
    result = run(droverd.path, "show", "web9", "--json")
    assert result.returncode == NO_VM
    assert result.stderr == "drover: no VM named web9\n"
    assert json.loads(result.stdout)["error"]["kind"] == "no-vm"


@pytest.mark.parametrize("answer", [
    b"", b"<html>", b'{"vms": ', b"[" * 100000, b'"text"', b"\xff\xfe", b"null"])
def test_an_answer_that_cannot_be_read_is_an_error(droverd, answer):
    droverd.answers["GET /v1/vms"] = answer
    result = run(droverd.path, "ls")
    assert result.returncode == REQUEST, result.stderr
    assert result.stderr.startswith("drover: ")


@pytest.mark.parametrize("answer", [
    {}, {"vms": 7}, {"vms": [1, {}, {"name": 5, "memory": "x", "operation": ["a"]}]}])
def test_an_answer_with_odd_members_is_shown_as_far_as_it_goes(droverd, answer):
    droverd.answers["GET /v1/vms"] = answer
    assert run(droverd.path, "ls").returncode == 0


def test_ls_is_aligned_and_says_undecided_loudly(droverd):
    droverd.answers["GET /v1/vms"] = {"vms": [
        {"name": "web1", "node": "node1", "state": "paused", "memory": 1 << 30, "cpus": 2,
         "operation": None},
        {"name": "a-long-name", "node": None, "state": "stopped", "memory": 512 << 20,
         "cpus": 1, "operation": "being moved to node2"}]}
    droverd.migration.info["state"] = "undecided"
    droverd.answers["GET /v1/migrations"] = {"migrations": [droverd.migration.info]}
    out = run(droverd.path, "ls").stdout
    assert out.splitlines()[:3] == [
        "VM           NODE   STATE       MEMORY  CPUS  OPERATION",
        "web1         node1  UNDECIDED    1 GiB     2",
        "a-long-name  -      stopped    512 MiB     1  being moved to node2"]
    assert f"drover migration show {ID}" in out


def test_task_new_sends_words_and_no_shell_line(droverd):
    droverd.answers["POST /v1/tasks"] = {"id": 12}
    droverd.answers["GET /v1/nodes/node3"] = {"name": "node3"}
    result = run(droverd.path, "task", "new", "--after", "3", "--exclusive", "--node", "node2",
                 "bmigrate", "jname=web1", "node=node3", "--pause", "detach=0")
    assert (result.returncode, result.stdout) == (0, "12\n")
    assert droverd.requests[1:] == [("POST /v1/tasks?node=node2", {
        "argv": ["migrate", "jname=web1", "node=node3", "--pause", "detach=0"], "after": 3,
        "at_ms": 0, "exclusive": True})]


def test_a_vm_or_node_that_is_not_there_is_not_queued(droverd):
    """In the words that the verb would say at night; what runs after another may be made by that."""
    droverd.answers["POST /v1/tasks"] = {"id": 1}
    droverd.answers["GET /v1/vms/web9"] = (404, error_object("no-vm", NO_VM, "no VM named web9"))
    droverd.answers["GET /v1/nodes/node9"] = (
        404, error_object("no-node", NO_NODE, "no node named node9"))
    for words, status, message in [
            (["start", "web9"], NO_VM, "no VM named web9"),
            (["--at", "+60", "rm", "web9", "--yes"], NO_VM, "no VM named web9"),
            (["migrate", "web1", "node9"], NO_NODE, "no node named node9"),
            (["--after", "3", "start", "web9", "--node", "node9"], NO_NODE, "no node named node9")]:
        result = run(droverd.path, "task", "new", *words)
        assert (result.returncode, result.stderr) == (status, f"drover: {message}\n"), words
    assert not droverd.sent("POST")
    for words in (["create", "web9"], ["--after", "1", "start", "web9"], ["start", "web1"]):
        assert run(droverd.path, "task", "new", *words).returncode == 0, words
    assert len(droverd.sent("POST")) == 3


def test_start_says_what_became_of_a_guest_that_was_suspended(droverd):
    droverd.answers["POST /v1/vms/web1/start"] = {"state": "running"}
    result = run(droverd.path, "start", "web1", "--discard")
    assert (result.returncode, result.stdout) == (0, "web1 runs on node1\n")
    assert "nothing to discard" in result.stderr
    assert run(droverd.path, "start", "web1").stdout == "web1 runs on node1\n"
    suspended = droverd.answers["GET /v1/vms/web1"] | {"saved": {"node": "node1"}}
    droverd.answers["GET /v1/vms/web1"] = suspended
    anew = run(droverd.path, "start", "web1", "--discard")
    assert (anew.stdout, anew.stderr) == (
        "web1 runs on node1, started anew; its guest's saved state is gone\n", "")
    on = run(droverd.path, "start", "web1", "--node", "node2")
    assert (on.stdout, on.stderr) == (
        "web1 runs on node2, and goes on from where it was suspended\n", "")
    del droverd.answers["GET /v1/vms/web1"]
    unknown = run(droverd.path, "start", "web1", "--discard")
    assert (unknown.stdout, unknown.stderr) == ("web1 runs on node1\n", "")


def test_one_is_one(droverd):
    droverd.answers["GET /v1/status"] = {"node": "node1", "vms_running": 1,
                                         "migrations_running": 2}
    assert "1 VM, 2 migrations" in run(droverd.path, "status").stdout
    droverd.answers["DELETE /v1/tasks"] = {"removed": 1}
    assert run(droverd.path, "task", "flush").stdout == "1 task removed\n"


@pytest.mark.parametrize("image, sent", [
    ("debian.raw", "debian.raw"), ("./debian.raw", "{}/debian.raw"),
    ("images/debian.raw", "{}/images/debian.raw"), ("/srv/debian.raw", "/srv/debian.raw")])
def test_an_image_is_named_by_its_name_or_by_any_path(droverd, tmp_path, image, sent):
    run(droverd.path, "image", "index", image, cwd=tmp_path)
    assert droverd.sent("POST /v1/indexes") == [{"image": sent.format(tmp_path)}]


def test_task_log_follows_to_the_end(droverd):
    parts = iter([{"text": "one ", "offset": 4, "ended": False},
                  {"text": "two\n", "offset": 8, "ended": False},
                  {"text": "", "offset": 8, "ended": True}])
    droverd.answers["GET /v1/tasks/1/log"] = lambda query, body: next(parts)
    assert run(droverd.path, "task", "log", "1", "--follow").stdout == "one two\n"
    assert [line for line, _ in droverd.requests][1].startswith("GET /v1/tasks/1/log?offset=4&")


def test_node_mode_add_makes_a_token_or_uses_one(droverd):
    droverd.answers["POST /v1/tokens"] = {"token": "T", "command": "drover join A --token T"}
    droverd.answers["POST /v1/join"] = {"node": "node2", "cluster": "c"}
    result = run(droverd.path, "node", "mode=add", "node=10.0.0.2")
    assert "drover join A --token T" in result.stdout and "10.0.0.2" in result.stdout
    run(droverd.path, "node", "mode=add", "node=10.0.0.1", "token=T", "pool=/mnt/p")
    assert droverd.sent("POST /v1/join") == [
        {"address": "10.0.0.1", "token": "T", "pool": "/mnt/p"}]
