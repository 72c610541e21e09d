import os

import pytest

from agentctl_signals import BadTarget, Target, read_token
from agentctl_signals.monitor import main


@pytest.mark.parametrize(
    ("address", "plaintext", "expected"),
    [
        ("127.0.0.1:7443", False, ("127.0.0.1:7443", False)),
        ("[::1]:7443", False, ("[::1]:7443", False)),
        ("localhost:7443", False, ("localhost:7443", False)),
        ("https://localhost:7443", False, ("localhost:7443", True)),
        ("agentd.example:7443", False, ("agentd.example:7443", True)),
        ("agentd.example:7443", True, ("agentd.example:7443", False)),
    ],
)
def test_plain_text_stays_on_this_host(address, plaintext, expected):
    target = Target.parse(address, plaintext=plaintext)
    assert (target.authority, target.tls) == expected


@pytest.mark.parametrize("address", ["", "web", "web:", "web:0x50", "web:99999", "ftp://web:1", "a@web:1", "web:1/x"])
def test_what_is_no_address_is_refused_with_its_value(address):
    with pytest.raises(BadTarget, match="invalid address"):
        Target.parse(address)


def test_a_token_does_not_cross_the_network_in_plain_text_by_accident():
    with pytest.raises(BadTarget, match="plain text"):
        Target.parse("http://agentd.example:7443")


def test_a_token_comes_from_a_file_or_from_the_environment(tmp_path):
    file = tmp_path / "token"
    file.write_text("agt_file\n")
    file.chmod(0o600)
    env = {"AGENTCTL_TOKEN": "agt_env"}
    assert read_token(str(file), env) == "agt_file"
    assert read_token(None, env) == "agt_env"
    assert read_token(None, env | {"AGENTCTL_TOKEN_FILE": str(file)}) == "agt_file"
    with pytest.raises(BadTarget, match="no token"):
        read_token(None, {})


def test_a_token_file_that_others_can_read_is_not_used(tmp_path):
    file = tmp_path / "token"
    file.write_text("agt_x")
    os.chmod(file, 0o644)
    with pytest.raises(BadTarget, match="chmod 600"):
        read_token(str(file), {})


@pytest.mark.parametrize("content", [b"", b"two words", b"agt_\x1b[31m", b"\xff\xfe", b"x" * 600])
def test_what_is_no_token_is_never_sent_and_never_shown(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(BadTarget, match="holds no token") as error:
        read_token(str(file), {})
    assert "words" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--app", "web", "--env", "stage", "--url", "x", "--token", "agt_x"], "--token"),
        (["--app", "web", "--env", "stage"], "nothing to measure"),
        (["--app", "web", "--env", "stage", "--host", "--pid", "1"], "leave out one"),
        (["--app", "web", "--env", "stage", "--host", "--every", "5"], "invalid time"),
    ],
)
def test_a_wrong_command_line_is_answered_with_what_to_do(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
