"""The URL of a database: what is read of it, and what is refused because it would not mean what was meant."""

from pathlib import Path

import pytest

from service_kit.database.database import service_database_url
from service_kit.database_url import BadDatabaseUrl, read_database_url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "is not a URL: it must look like mysql://user:password@host:3306/database"),
        ("mysql://u:sEcret@h:port/shop", "is not a URL"),
        ("postgresql://u:sEcret@h/shop", "begins with postgresql://"),
        ("mysql://u:p@sEcret@h/shop", "@ is written %40"),
        ("mysql://u:pa/ss@sEcret@h/shop", "/ %2F"),
        ("mysql:///shop", "its host can't be told"),
        ("mysql://u:sEcret@h/", "names no database"),
        ("mysql://u:sEcret@h/shop?ssl_ca=ca.pem", "the option ssl_ca, which is not known here: write tls_ca=FILE"),
        ("mysql://u:sEcret@h/shop?ssl=true", "write tls=on"),
        ("mysql://u:sEcret@h/shop?ssl-mode=REQUIRED", "write tls=on"),
        ("mysql://u:sEcret@h/shop?tsl=on", "write tls=..."),
        ("mysql://u:sEcret@h/shop?TLS=on", "write tls=..."),
        ("mysql://u:sEcret@h/shop?tls=yes", "neither on nor off"),
        ("mysql://u:sEcret@h/shop?tls=", "neither on nor off"),
        ("mysql://u:sEcret@h/shop?ssl", "write tls=on"),
        ("mysql://u:sEcret@h/shop?tls=on&tls=off", "neither on nor off"),
        ("mysql://u:sEcret@h/shop?tls=off&tls_ca=ca.pem", "both tls=off and tls_ca"),
        ("mysql://u:sEcret@h/shop?tls=on&tls_ca=", "a file: name it"),
        ("mysql://u:sEcret@h/shop?charset=latin1", "the options are tls and tls_ca"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadDatabaseUrl) as caught:
        read_database_url(text)
    assert why in str(caught.value)
    assert "sEcret" not in str(caught.value)


def test_what_is_read() -> None:
    plain = read_database_url("mysql://u:p%40ss%2Fword@h:3307/shop")
    assert (plain.url.password, plain.host_and_port, plain.url.database, plain.tls) == (
        "p@ss/word",
        "h:3307",
        "shop",
        False,
    )
    assert plain.tls_context() is None
    assert read_database_url("mysql://u@[::1]/shop?tls=off").host_and_port == "::1:3306"
    assert read_database_url("mysql+aiomysql://u@h/shop?tls=on").tls
    assert not read_database_url("mysql://u@h", needs_database=False).url.database


def test_a_ca_alone_means_tls() -> None:
    address = read_database_url("mysql://u@h/shop?tls_ca=/nowhere/ca.pem")
    assert (address.tls, address.tls_ca) == (True, "/nowhere/ca.pem")
    with pytest.raises(BadDatabaseUrl, match=r"/nowhere/ca\.pem, can't be used: No such file"):
        address.tls_context()


def test_a_ca_file_that_holds_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(BadDatabaseUrl, match="is no PEM file with certificates"):
        read_database_url(f"mysql://u@h/shop?tls_ca={tmp_path}/ca.pem").tls_context()


def test_the_options_of_the_url_of_a_server_are_those_of_its_databases() -> None:
    assert service_database_url("mysql://u@h/shop?tls=on", "orders") == "mysql://u@h/shop_orders?tls=on"
    with pytest.raises(BadDatabaseUrl, match="write tls=on"):
        service_database_url("mysql://u@h?ssl=on", "orders")
