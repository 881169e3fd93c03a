"""Keys: where they come from, where they go, and where they must never be seen."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import traceback
from pathlib import Path

import pytest

from creative_upscaler.pipelines.errors import UpscalerError
from creative_upscaler.pipelines.remote import credentials
from creative_upscaler.pipelines.remote.credentials import find_credential, store_credential
from creative_upscaler.pipelines.remote.errors import CredentialError, RemoteError
from creative_upscaler.pipelines.remote.scrubbing import Scrubber
from creative_upscaler.pipelines.remote.settings import FAL_SERVER, load_settings
from creative_upscaler.pipelines.remote.transport import Transport
from fal_records import Fault
from fal_server import KEY, FalServer
from fal_storage import TOKEN
from remote_calls import all_bytes, photo, pictures, remote, upscale, write_settings

SECRETS = (KEY, *KEY.split(":"))


def test_the_environment_comes_before_the_file_and_names_are_of_the_file(tmp_path: Path) -> None:
    store_credential("default", "stored-default", folder=tmp_path)
    store_credential("work", "stored-work", folder=tmp_path)

    def find(name: str, **environment: str) -> tuple[str, str]:
        found = find_credential(name, folder=tmp_path, environment=environment)
        return found.key, found.source

    assert find("") == find("default") == ("stored-default", "file")
    assert find("default", FAL_KEY="from-environment") == ("from-environment", "environment")
    assert find("default", FAL_KEY_ID="an-id", FAL_KEY_SECRET="a-secret")[0] == "an-id:a-secret"
    assert find("work", FAL_KEY="from-environment") == ("stored-work", "file")
    with pytest.raises(CredentialError, match="no key under the name home"):
        find("home", FAL_KEY="from-environment")
    listed = credentials.list_credentials(folder=tmp_path, environment={"FAL_KEY": "from-environment"})
    assert listed == [("default", "environment"), ("work", "file")]
    path = tmp_path / credentials.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    credentials.delete_credential("work", folder=tmp_path)
    assert list(json.loads(path.read_text())) == ["default"]
    path.chmod(0o644)
    with pytest.raises(CredentialError, match="chmod 600"):
        find("default")


@pytest.mark.parametrize(
    "damage", [" {}", "{}\n", "{}\r\nHost: evil", "a {}", "{}\x00", "'{}'", "ключ{}", "{}" * 30]
)
def test_a_malformed_key_is_refused_without_showing_it(tmp_path: Path, damage: str) -> None:
    key = damage.format(*[KEY] * 30)
    (tmp_path / "file").mkdir()
    with pytest.raises(CredentialError) as stored:
        store_credential("default", key, folder=tmp_path / "file")
    with pytest.raises(CredentialError) as found:
        find_credential("default", folder=tmp_path, environment={"FAL_KEY": key})
    with pytest.raises(CredentialError) as named:
        find_credential(key, folder=tmp_path, environment={})
    for error in (stored, found, named):
        assert all(secret not in "".join(traceback.format_exception(error.value)) for secret in SECRETS)
    assert not (tmp_path / "file" / credentials.FILE).exists()


def test_scrubbing_removes_keys_and_what_looks_like_one() -> None:
    scrub = Scrubber([KEY])
    for secret in SECRETS:
        assert secret not in scrub(f"Illegal header value b'Key {secret}' at https://a.b/?k={secret}")
    text = scrub(
        "GET https://u:p@x.org/a?sig=abcdef failed: Bearer tok-1 data:image/png;base64,AAAA== Key other-key"
    )
    assert [part for part in ("u:p", "sig", "abcdef", "tok-1", "AAAA", "other-key") if part in text] == []
    assert "https://x.org/a" in text and "failed" in text
    assert KEY not in repr(scrub) and KEY not in repr(credentials.Credential("a", "file", KEY))


ECHO = json.dumps(
    {"detail": [{"loc": ["body", "scale"], "msg": f"bad: Key {KEY}", "type": "t", "input": KEY}]}
)
FAULTS = {
    "nothing": [],
    "refused key": [("submit", Fault(status=401, body=json.dumps({"detail": f"invalid: {KEY}"})))],
    "echo": [("submit", Fault(status=422, body=ECHO))],
    "page": [("submit", Fault(status=418, body=f"Authorization: Key {KEY}"))],
    "redirect": [("submit", Fault(status=302, headers={"Location": f"https://evil.example/{KEY}"}))],
    "dropped": [("submit", Fault(drop=True, after=True))],
    "status": [("status", Fault(status=403, body=f'"{KEY}"'))],
    "result": [("result", Fault(status=500, body=ECHO, headers={"x-fal-request-id": "a"}))],
    "token": [("token", Fault(status=403, body=ECHO))],
    "upload": [("upload", Fault(status=400, body=f"{TOKEN} {KEY}"))],
    "file": [("file", Fault(status=403, body=KEY))] * 3,
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_key_is_seen_nowhere_and_goes_nowhere_else(
    fal: FalServer, private_folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for call, fault in FAULTS[name]:
        fal.faults[call].append(fault)
    events: list[object] = []
    seen = ""
    try:
        upscale(fal, private_folder, [photo(height=40)], report=events.append, upload="storage")
        assert name == "nothing"
    except UpscalerError as error:
        seen = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        assert name != "nothing"
    seen += caplog.text + repr(events) + all_bytes(private_folder).decode(errors="replace")
    assert [secret for secret in (*SECRETS, TOKEN) if secret in seen] == []
    for call in fal.calls:
        holds_key = any(secret in str(call.headers) for secret in SECRETS)
        assert holds_key == (call.name in ("submit", "status", "result", "cancel", "token", "price")), call
        assert call.name != "elsewhere"


def test_a_key_goes_to_listed_servers_only(fal: FalServer, private_folder: Path, tmp_path: Path) -> None:
    write_settings(private_folder, fal, credentials=["box"])
    with pytest.raises(CredentialError, match="default is not for the server local"):
        upscale(fal, private_folder, [photo()])
    fal.key = None
    write_settings(private_folder, fal, credentials=[])
    upscale(fal, private_folder, [photo()])
    assert all("authorization" not in call.headers for call in fal.calls if call.name != "upload")
    bad = [
        "https://evil.example/fal-ai/x",
        "evil:fal-ai/x",
        "fal-ai",
        "a/b/../c",
        "http://127.0.0.1/a/b",
        "a/b?c=d",
    ]
    for endpoint in bad:
        with pytest.raises(RemoteError):
            remote(private_folder, endpoint=endpoint)
    for url in ("http://example.com/queue", "https://u:p@box/queue", "ftp://box", "https://box/?a=b"):
        write_settings(private_folder, fal, queue_url=url)
        with pytest.raises(RemoteError, match="queue_url"):
            load_settings(private_folder)

    async def send() -> None:
        async with Transport(FAL_SERVER, KEY, Scrubber([KEY])) as transport:
            for url in (
                "https://v3.fal.media/x",
                "http://queue.fal.run/x",
                "https://queue.fal.run.evil.example/",
            ):
                with pytest.raises(RemoteError, match="refused to send a key"):
                    await transport.send("GET", url)

    asyncio.run(send())


def test_addresses_in_an_answer_lead_the_key_nowhere(fal: FalServer, private_folder: Path) -> None:
    summary = fal._summary

    def elsewhere(job: object, request: object) -> dict[str, object]:
        content = summary(job, request)
        return {
            **content,
            **{
                name: f"http://localhost:{fal.port}/stolen/{content['request_id']}"
                for name in content
                if name.endswith("_url")
            },
        }

    fal._summary = elsewhere
    upscale(fal, private_folder, [photo()])
    assert fal.named("elsewhere") == []


def test_submitting_from_two_accounts_is_two_requests(fal: FalServer, private_folder: Path) -> None:
    store_credential("other", KEY, folder=private_folder)
    upscale(fal, private_folder, [photo()])
    upscale(fal, private_folder, [photo()], credential="other")
    assert len(fal.jobs) == 2
    assert pictures([photo()])[0].label == "picture 1"
