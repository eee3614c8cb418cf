"""Who may ask what over TCP: each request of the API with each kind of certificate."""

import http.client
import json
import ssl

import pytest
from daemons import fixture_directory, fixture_new_daemon
from test_daemon import fixture_pair, free_port, unused_port
from test_requests import routes_of_the_document

# Found by pytest in this module.
FIXTURES = (fixture_directory, fixture_new_daemon, fixture_pair)

MAY_NOT = "may not be asked by another node"
# What a name in a path stands for: nothing that is there, so that no request that is let in changes
# anything.
NAMES = {"{vm}": "nosuch", "{node}": "nosuch", "{image}": "nosuch",
         "{id}": "00000000000000000000000000000000"}


def client(directory=None, version=None):
    """A context that shows the certificate of the node whose droverd lives in `directory`. It
    checks nothing: the server is what is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    if directory:
        context.load_cert_chain(directory / "node.crt", directory / "node.key")
    return context


def ask(daemon, context, method, path):
    """(status, answer)."""
    for name, value in NAMES.items():
        path = path.replace(name, value)
    connection = http.client.HTTPSConnection("127.0.0.1", free_port(daemon), timeout=60,
                                             context=context)
    try:
        connection.request(method, path, b"{}" if method in ("POST", "PATCH") else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def wrong_answers(daemon, context, is_right):
    """The requests of docs/api.md, which are all that there are (test_requests.py), for which
    is_right(who, status, error) does not hold."""
    wrong = []
    for method, path, who in sorted(routes_of_the_document()):
        status, answer = ask(daemon, context, method, path)
        error = answer.get("error", {})
        if not is_right(who, status, error):
            wrong.append((method, path, who, status, answer))
    return wrong


def stranger(who, status, error):
    """Nothing but what anyone may; and there, the caller's certificate does not matter."""
    if who == "anyone":
        return error.get("kind") != "certificate"
    return status >= 400 and error.get("kind") == "certificate"


def member(who, status, error):
    """All but what only the node itself may."""
    if who == "local":
        return status >= 400 and error.get("kind") == "refused" and MAY_NOT in error["message"]
    return error.get("kind") != "certificate" and MAY_NOT not in error.get("message", "")


def test_caller_without_a_certificate_gets_what_anyone_may(pair):
    assert ask(pair[0], client(), "GET", "/v1/ca")[0] == 200
    assert wrong_answers(pair[0], client(), stranger) == []


def test_caller_of_another_cluster_gets_what_anyone_may(pair, new_daemon, directory):
    port = unused_port()
    foreign = new_daemon("foreign", port=port).start()
    # Of the name that a member has.
    status, answer = foreign.ask("POST", "/v1/init", {
        "pool": str(directory / "otherpool"), "name": "node2", "address": f"127.0.0.1:{port}"})
    assert status == 200, answer
    assert wrong_answers(pair[0], client(foreign.state), stranger) == []


def test_member_may_ask_what_a_node_needs_and_nothing_else(pair):
    assert wrong_answers(pair[0], client(pair[1].state), member) == []


def test_removed_node_gets_what_anyone_may(pair):
    context = client(pair[1].state)
    assert ask(pair[0], context, "GET", "/v1/status")[0] == 200
    assert pair[0].ask("DELETE", "/v1/nodes/node2")[0] == 200
    assert wrong_answers(pair[0], context, stranger) == []


def test_tls_1_2_is_refused(pair):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", free_port(pair[0]), timeout=60,
        context=client(pair[1].state, ssl.TLSVersion.TLSv1_2))
    # A refusal of TLS, not because nobody listened.
    with pytest.raises(ssl.SSLError):
        connection.connect()
    connection.close()
    assert ask(pair[0], client(pair[1].state, ssl.TLSVersion.TLSv1_3), "GET", "/v1/ca")[0] == 200
