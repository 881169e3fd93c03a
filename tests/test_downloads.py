"""Addresses of strangers lead nowhere but to public hosts that are allowed, and never to half a file."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from creative_upscaler.pipelines.connections import is_public
from creative_upscaler.pipelines.downloads import DownloadPolicy, check_url, open_public
from creative_upscaler.pipelines.errors import Cancelled, DownloadError, DownloadRefused
from https_server import HttpsServer, Served, running

BODY = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpsServer]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: HttpsServer) -> HttpsServer:
    shared.served = {"/model": Served(BODY)}
    shared.asked.clear()
    return shared


def test_a_file_is_read_whole(server: HttpsServer) -> None:
    with open_public(server.url("/model"), server.policy()) as response:
        assert (response.status, response.length, response.read()) == (200, len(BODY), BODY)


def test_an_unknown_certificate_is_refused(server: HttpsServer) -> None:
    with pytest.raises(DownloadError, match="certificate is not trusted"):
        open_public(server.url("/model"), server.policy(ssl_context=None))


PUBLIC = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:1::",
    "2001:db8::1",
    "fc00::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
    "127.1",
]


def test_only_addresses_of_the_open_internet_are_public() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in NOT_PUBLIC if is_public(address)] == []


@pytest.mark.parametrize("address", ["127.0.0.2", "169.254.169.254", "::1"])
def test_a_name_that_leads_into_the_own_network_is_refused(server: HttpsServer, address: str) -> None:
    policy = server.policy(resolve=lambda host, port: ["127.0.0.1", address])
    with pytest.raises(DownloadRefused, match="not a public one"):
        open_public(server.url("/model"), policy)
    assert server.asked == []


def test_a_redirect_into_the_own_network_is_refused(server: HttpsServer) -> None:
    server.served["/away"] = Served(status=302, location=server.url("/model", "127.0.0.2"))
    with pytest.raises(DownloadRefused, match=r"address 127.0.0.2 is not a public one"):
        open_public(server.url("/away"), server.policy())
    assert [asked[":path"] for asked in server.asked] == ["/away"]


def test_a_name_that_is_rebound_between_two_requests_is_refused(server: HttpsServer) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    server.served["/away"] = Served(status=307, location="/model")
    with pytest.raises(DownloadRefused, match="not a public one"):
        open_public(server.url("/away"), server.policy(resolve=lambda host, port: next(answers)))


def test_the_name_is_looked_up_once_and_the_checked_address_is_connected_to(
    server: HttpsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"]

    def rebound(*arguments: object, **others: object) -> None:
        raise AssertionError("looked up again, where another address may be answered")

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.2:9")
    with open_public(server.url("/model"), server.policy(resolve=resolve)) as response:
        assert response.read() == BODY
    assert lookups == ["models.test"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://models.test/a", "https"),
        ("file:///etc/passwd", "https"),
        ("https://user:word@models.test/a", "user name"),
        ("https://models.test:22/a", "port 22"),
        ("https://models.test:x/a", "no address"),
        ("https:///a", "no host"),
        ("https://modéls.test/a", "no address"),
        ("https://models.test/a\r\nHost: evil", "characters"),
        ("https://evil.test/a", "allowed hosts"),
        ("https://models.test.evil.test/a", "allowed hosts"),
        ("https://notmodels.test/a", "allowed hosts"),
    ],
)
def test_an_address_that_is_not_allowed_is_refused_before_anything_is_asked(url: str, reason: str) -> None:
    policy = DownloadPolicy(hosts=frozenset({"models.test", ".hf.co"}))
    with pytest.raises(DownloadRefused, match=reason):
        check_url(url, policy)
    check_url("https://cdn.hf.co/a", policy)


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(server: HttpsServer) -> None:
    server.served["/away"] = Served(status=302, location=server.url("/model", "other.test"))
    with pytest.raises(DownloadRefused, match="allowed hosts"):
        open_public(server.url("/away"), server.policy(hosts=frozenset({"models.test"})))
    server.served["/plain"] = Served(status=302, location="http://models.test/model")
    with pytest.raises(DownloadRefused, match="https"):
        open_public(server.url("/plain"), server.policy())


def test_redirects_have_an_end(server: HttpsServer) -> None:
    server.served["/round"] = Served(status=302, location="/round")
    with pytest.raises(DownloadError, match="more than 3 redirects"):
        open_public(server.url("/round"), server.policy(max_redirects=3))
    assert len(server.asked) == 4


def test_a_token_goes_to_its_host_only_and_not_again_after_a_detour(server: HttpsServer) -> None:
    server.served["/a"] = Served(status=302, location=server.url("/b"))
    server.served["/b"] = Served(status=302, location=server.url("/c", "other.test"))
    server.served["/c"] = Served(status=302, location=server.url("/model"))
    policy = server.policy(tokens={"models.test": "secret"})
    open_public(server.url("/a"), policy).close()
    tokens = [asked.get("Authorization") for asked in server.asked]
    assert tokens == ["Bearer secret", "Bearer secret", None, None]
    assert "secret" not in repr(policy)


def test_errors_do_not_show_what_may_be_secret(server: HttpsServer) -> None:
    with pytest.raises(DownloadError) as caught:
        open_public(server.url("/gone?token=secret"), server.policy())
    assert caught.value.status == 404
    assert "secret" not in str(caught.value) and "/gone" in str(caught.value)


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (Served(BODY, dies_after=1000), "ended after|broke off"),
        (Served(BODY, length=len(BODY) + 1), "ended after|broke off"),
        (Served(BODY, stalls_after=1000), "silent for 0.3 seconds"),
        (Served(BODY, headers={"Content-Encoding": "gzip"}), "compressed"),
        (Served(BODY, length=10**12), "at most"),
        (Served(BODY, headers={"Content-Length": "many"}), "no number|broke off"),
        (Served(b"", status=403), "rights"),
        (Served(b"", status=302), "to nowhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_is_not_whole_is_an_error(server: HttpsServer, served: Served, reason: str) -> None:
    server.served["/bad"] = served
    policy = server.policy(max_bytes=len(BODY) + 1)
    with pytest.raises(DownloadError, match=reason), open_public(server.url("/bad"), policy) as response:
        response.read()


def test_a_body_without_an_announced_length_is_limited_too(server: HttpsServer) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(BODY), BODY) for _ in range(3)) + b"0\r\n\r\n"
    server.served["/chunked"] = Served(chunked, headers={"Transfer-Encoding": "chunked"})
    with open_public(server.url("/chunked"), server.policy()) as response:
        assert response.length is None and response.read() == BODY * 3
    with (
        pytest.raises(DownloadRefused, match="more than the"),
        open_public(server.url("/chunked"), server.policy(max_bytes=len(BODY))) as response,
    ):
        response.read()


def test_the_time_for_everything_is_limited(server: HttpsServer) -> None:
    server.served["/bad"] = Served(BODY, stalls_after=1000)
    policy = server.policy(idle_seconds=60.0, total_seconds=0.5)
    with (
        pytest.raises(DownloadError, match="whole download"),
        open_public(server.url("/bad"), policy) as response,
    ):
        response.read()


def test_waiting_for_a_silent_server_can_be_stopped(server: HttpsServer) -> None:
    server.served["/bad"] = Served(BODY, stalls_after=1000)
    calls = threading.Event()

    def stop() -> None:
        calls.set()
        raise Cancelled

    policy = server.policy(idle_seconds=60.0)
    with pytest.raises(Cancelled), open_public(server.url("/bad"), policy, waiting=stop) as response:
        response.read()
    assert calls.is_set()
