"""References, the configuration of registries, and credentials: what people write, and what it means."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gear import process, registries, registry_auth, yamlfile
from gear.addresses import Address, proxy_for, split_url
from gear.errors import GearError, RemoteError, UsageError
from gear.model import Layout
from gear.oci import Reference
from gear.reference import Remote, full_names, meant, registry_host
from gear.registry_auth import Credentials, challenges, check_realm

DIGEST = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("me/tool", "docker.io/me/tool:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/me/tool", "docker.io/me/tool:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("Quay.IO/a/b:T", "quay.io/a/b:T"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b:1@{DIGEST}"),
    ],
)
def test_full_references(text: str, full: str) -> None:
    assert str(Remote.parse(text)) == full
    assert Remote.parse(full) == Remote.parse(text)


@pytest.mark.parametrize(
    "text", ["", "UP", "a//b", "a:b:c", "http://x/y", "x/y@sha256:1", "h:0/x", "h:99999/x", "-a.b/x"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        Remote.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        remote = Remote.parse(text)
    except UsageError:
        return
    assert Remote.parse(str(remote)) == remote
    assert split_url(f"https://{remote.registry}/v2/")[0].host


def test_short_names_are_looked_for_in_each_registry() -> None:
    found = meant("x/y", ("quay.io", "docker.io"), {})
    assert [str(remote) for remote in found] == ["quay.io/x/y:latest", "docker.io/x/y:latest"]
    assert [str(remote) for remote in meant("y:2", (), {"y": "quay.io/z/y"})] == ["quay.io/z/y:2"]
    assert [str(remote) for remote in meant("r.example/y", ("quay.io",))] == ["r.example/y:latest"]
    assert full_names(Reference.parse("y")) == ["docker.io/library/y:latest", "localhost/y:latest"]


def test_names_of_registries() -> None:
    assert registry_host("https://index.docker.io/v1/") == "docker.io"
    assert registry_host("Quay.io:443") == "quay.io:443"
    for text in ("", "a/b", "a b", "x:0", "ftp://x"):
        with pytest.raises(UsageError):
            registry_host(text)


# -- yaml --------------------------------------------------------------------------------------------------------


def test_yaml_has_no_surprises() -> None:
    text = b"a: 22:22\nb: no\nc: 0755\nd: true\ne: 1.5\nf: [x, ~]\ng: 2020-01-01\n"
    expected = {"a": "22:22", "b": "no", "c": 755, "d": True, "e": 1.5, "f": ["x", None], "g": "2020-01-01"}
    assert yamlfile.parse(text, "f") == expected


@pytest.mark.parametrize(
    "text",
    [
        b"a: 1\na: 2", b"a: &x 1\nb: *x", b"a: !!python/name:os.system 1", b"a: [", b"1: 2",
        b"\xff\xfe\x00", b"[" * 1000,
        b"a: 1\n---\nb: 2", b"a: " + b"x" * yamlfile.LIMIT,
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"^f.yaml"):
        yamlfile.parse(text, "f.yaml")


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registries, "CONTAINERS_CONF", tmp_path / "registries.conf")
    monkeypatch.setattr(registries, "CERTS_D", (tmp_path / "certs.d",))
    return tmp_path


def loaded(conf: Path, text: str = "") -> registries.Registries:
    (conf / "registries.yaml").write_text(text)
    return registries.load(Layout(config=conf))


def places(settings: registries.Registries, text: str) -> list[str]:
    return [f"{place.host}/{place.repository}" for place in settings.endpoints(Remote.parse(text))]


def test_nothing_is_configured(conf: Path) -> None:
    settings = loaded(conf)
    assert places(settings, "nginx") == ["registry-1.docker.io/library/nginx"]
    assert registries.load(Layout(config=conf / "none")) == settings


def test_mirrors_locations_and_the_longest_prefix(conf: Path) -> None:
    settings = loaded(
        conf,
        "search: [quay.io]\ntimeout: 5\nregistries:\n"
        "  docker.io: {mirrors: [m.example:5000, cache.example/hub], ca: /etc/ca.pem}\n"
        "  quay.io/team: {location: intern.example/t, insecure: true}\n"
        "  '*.bad.example': {blocked: true}\n"
        "  m.example:5000: {insecure: true}\n",
    )
    assert settings.search == ("quay.io",) and settings.timeout == 5
    assert places(settings, "docker.io/nginx") == [
        "m.example:5000/library/nginx", "cache.example/hub/library/nginx", "registry-1.docker.io/library/nginx",
    ]  # fmt: skip
    assert settings.endpoints(Remote.parse("nginx"))[0].rule.insecure
    assert places(settings, "quay.io/team/x") == ["intern.example/t/x"]
    assert places(settings, "quay.io/teams/x") == ["quay.io/teams/x"]
    assert settings.target(Remote.parse("quay.io/team/x")).rule.insecure
    with pytest.raises(GearError, match="is blocked"):
        places(settings, "a.bad.example/x")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("registry: {}", "unknown member 'registry'"),
        ("registries: {docker.io: {mirror: [x]}}", "unknown member 'mirror'"),
        ("registries: {docker.io: {insecure: 'yes'}}", "insecure is neither true nor false"),
        ("registries: {docker.io: {ca: ca.pem}}", "ca is not an absolute path"),
        ("registries: {docker.io: {key: /k}}", "key is given without certificate"),
        ("registries: {'a b': {}}", "can't be"),
        ("timeout: 0", "timeout is not a number from 1 to 3600"),
        ("timeout: true", "timeout is not a number"),
        ("search: docker.io", "search is not a list"),
        ("[]", "is not a mapping"),
        ("aliases: {x: 'a b'}", "can't be"),
    ],
)
def test_configuration_that_is_wrong(conf: Path, text: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(conf, text)
    assert word in caught.value.message and "registries.yaml" in caught.value.message


def test_containers_configuration_is_read(conf: Path) -> None:
    (conf / "registries.conf").write_text(
        'unqualified-search-registries = ["quay.io", "docker.io"]\nshort-name-mode = "enforcing"\n'
        '[[registry]]\nprefix = "docker.io"\nlocation = "hub.example"\n'
        '[[registry.mirror]]\nlocation = "m.example/hub"\ninsecure = true\n'
        '[[registry]]\nlocation = "lab.example:5000"\ninsecure = true\n'
    )
    (conf / "registries.conf.d").mkdir()
    (conf / "registries.conf.d/aliases.conf").write_text('[aliases]\ndebian = "docker.io/library/debian"\n')
    settings = loaded(conf, "registries: {lab.example:5000: {}}")
    assert settings.search == ("quay.io", "docker.io") and settings.aliases["debian"].endswith(
        "library/debian"
    )
    assert places(settings, "docker.io/a/b") == ["m.example/hub/a/b", "hub.example/a/b"]
    assert settings.rules["m.example/hub"].insecure
    assert not settings.rules["lab.example:5000"].insecure  # gear's own file counts more
    (conf / "registries.conf").write_text("[[")
    with pytest.raises(UsageError, match="not valid TOML"):
        loaded(conf)


def test_certificates_of_a_host(conf: Path) -> None:
    (conf / "certs.d/r.example:5000").mkdir(parents=True)
    for name in ("a.crt", "client.cert", "client.key", "lone.cert"):
        (conf / "certs.d/r.example:5000" / name).touch()
    found = registries.certificates("r.example:5000", registries.Rule(ca="/ca.pem"))
    here = f"{conf}/certs.d/r.example:5000"
    assert found == (["/ca.pem", f"{here}/a.crt"], f"{here}/client.cert", f"{here}/client.key")


# -- credentials -------------------------------------------------------------------------------------------------


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_where_credentials_are_found(tmp_path: Path, environ: dict[str, str]) -> None:
    assert registry_auth.find("docker.io", "a/b", environ) is None
    write(tmp_path / "home/.docker/config.json", {"auths": {"https://index.docker.io/v1/": auth("d:p:q")}})
    assert registry_auth.find("docker.io", "a/b", environ) == Credentials("d", "p:q")
    entries = {"docker.io": auth("c:1"), "docker.io/a": auth("n:2"), "quay.io": {}}
    write(tmp_path / "home/.config/containers/auth.json", {"auths": entries})
    assert registry_auth.find("docker.io", "a/b", environ) == Credentials("n", "2")
    assert registry_auth.find("docker.io", "ab/c", environ) == Credentials("c", "1")
    assert registry_auth.find("quay.io", "x", environ) is None
    write(tmp_path / "own.json", {"auths": {"docker.io": {"username": "o", "password": "3"}}})
    own = {**environ, "REGISTRY_AUTH_FILE": str(tmp_path / "own.json")}
    assert registry_auth.find("docker.io", "a/b", own) == Credentials("o", "3")
    assert "3" not in repr(registry_auth.find("docker.io", "a/b", own))


@pytest.mark.parametrize("document", [[], {"auths": {"quay.io": {"auth": "!!"}}}, {"credsStore": "../x"}])
def test_files_that_are_wrong(tmp_path: Path, environ: dict[str, str], document: object) -> None:
    write(tmp_path / "home/.docker/config.json", document)
    with pytest.raises(UsageError):
        registry_auth.find("quay.io", "x", environ)


def test_logging_in_and_out(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "home/.docker/config.json"
    write(path, {"auths": {"quay.io": auth("old:1")}, "other": 1})
    assert registry_auth.save("quay.io", Credentials("me", "s"), environ) == str(path)
    assert registry_auth.save("docker.io", Credentials("hub", "s"), environ) == str(path)
    assert path.stat().st_mode & 0o777 == 0o600 and json.loads(path.read_text())["other"] == 1
    assert registry_auth.find("quay.io", "x", environ) == Credentials("me", "s")
    assert registry_auth.forget("quay.io", environ) == [str(path)]
    assert registry_auth.forget("quay.io", environ) == []
    assert registry_auth.find("docker.io", "", environ) == Credentials("hub", "s")


def test_credential_helpers(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: dict[str, dict[str, str]] = {}

    def exchange(arguments: list[str], data: bytes, timeout_s: float) -> tuple[int, bytes]:
        assert arguments[0] == "docker-credential-safe"
        if arguments[1] == "store":
            entry = json.loads(data)
            secrets[entry.pop("ServerURL")] = entry
            return 0, b""
        if data.decode() not in secrets:
            return 1, b"credentials not found in native keychain\n"
        return 0, json.dumps(
            secrets[data.decode()] if arguments[1] == "get" else secrets.pop(data.decode())
        ).encode()

    monkeypatch.setattr(process, "exchange", exchange)
    path = tmp_path / "home/.docker/config.json"
    write(path, {"credHelpers": {"quay.io": "safe"}})
    assert registry_auth.find("quay.io", "x", environ) is None
    registry_auth.save("quay.io", Credentials("me", "s3cret"), environ)
    assert "s3cret" not in path.read_text() and registry_auth.find("quay.io", "x", environ) == Credentials(
        "me", "s3cret"
    )
    assert registry_auth.forget("quay.io", environ) == ["the helper safe", str(path)]
    secrets["quay.io"] = {"Username": "<token>", "Secret": "id"}
    assert registry_auth.find("quay.io", "x", environ) == Credentials("", identity="id")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "s", "scope": "x:pull,push"})]),
        ('Basic realm="r", Bearer realm=x', [("basic", {"realm": "r"}), ("bearer", {"realm": "x"})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (r'Basic realm="a\"b"', [("basic", {"realm": 'a"b'})]),
        ("", []),
        ('realm="x"', []),
        ("Basic " + "a=b," * 100000, [("basic", {"a": "b"})]),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, dict(found.parameters)) for found in challenges(header)] == expected


@given(st.text(max_size=200))
def test_any_challenge_is_read(header: str) -> None:
    challenges(header)


@pytest.mark.parametrize(
    ("realm", "registry", "good"),
    [
        ("https://auth.docker.io/token", "registry-1.docker.io", True),
        ("https://gitlab.com/jwt/auth", "registry.gitlab.com", True),
        ("https://ghcr.io/token", "ghcr.io", True),
        ("https://r.example:5001/t", "r.example:5000", True),
        ("https://evil.example/token", "registry-1.docker.io", False),
        ("https://docker.io.evil.example/", "registry-1.docker.io", False),
        ("https://auth.docker.io@evil.example/", "registry-1.docker.io", False),
        ("http://auth.docker.io/token", "registry-1.docker.io", False),
        ("https://10.0.0.2/t", "10.0.0.1", False),
        ("https://1.0.0.1/t", "2.0.0.1", False),
        ("https://localhost/t", "registry.localhost", False),
        ("//x", "x", False),
    ],
)
def test_who_may_be_told_the_password(realm: str, registry: str, good: bool) -> None:
    if good:
        check_realm(realm, registry, secure=True, trusted=())
    else:
        with pytest.raises(RemoteError):
            check_realm(realm, registry, secure=True, trusted=())


# -- proxies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "host", "proxied"),
    [
        ({"https_proxy": "http://p:3128"}, "r.example", True),
        ({"HTTPS_PROXY": "p:3128"}, "r.example", True),
        ({"http_proxy": "http://p:3128"}, "r.example", False),
        ({"https_proxy": "http://p:3128"}, "127.0.0.1", False),
        ({"https_proxy": "http://p:3128", "no_proxy": "a,.example"}, "r.example", False),
        ({"https_proxy": "http://p:3128", "no_proxy": "r.example:444"}, "r.example", True),
        ({"https_proxy": "http://p:3128", "NO_PROXY": "10.0.0.0/8"}, "10.1.2.3", False),
        ({"https_proxy": "http://p:3128", "no_proxy": "*"}, "r.example", False),
    ],
)
def test_proxies(environ: dict[str, str], host: str, proxied: bool) -> None:
    found = proxy_for(Address(True, host, 443), environ)
    assert (found is not None) is proxied
    assert found is None or found == (Address(False, "p", 3128), {})


def test_a_proxy_with_a_password() -> None:
    found = proxy_for(Address(False, "r.example", 80), {"http_proxy": "http://me" + ":p%40@p:1"})
    assert found is not None and found[1] == {"Proxy-Authorization": Credentials("me", "p@").basic()}
    with pytest.raises(UsageError):
        proxy_for(Address(False, "r.example", 80), {"http_proxy": "socks5://p:1"})
