"""An authority of our own, and a certificate of it for 127.0.0.1 and localhost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coldcache.lab.server import lab_server
from conftest import needed_on_ci


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, a server and a client."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *, names: str = "IP:127.0.0.1,DNS:localhost") -> Certificates:
    """Make an authority and a certificate that it has signed, both good for a day."""
    if shutil.which("openssl") is None:
        needed_on_ci("openssl")
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    # Python 3.13's strict verification wants the key usage of an authority to be told.
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *key, *usage, "-subj", "/CN=coldcache test authority", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", *key[1:5], "-subj", "/CN=coldcache test server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    return Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")


@contextmanager
def tls_server(binary: str, files: Certificates, *options: str, ask_clients: bool = False) -> Iterator[tuple[str, str]]:
    """Run a server with a plain and a TLS port; yield both URLs, the second without an authority."""
    from coldcache.lab.server import _free_port

    port = _free_port()
    with lab_server(
        binary,
        "--tls-port", str(port),
        "--tls-cert-file", str(files.certificate),
        "--tls-key-file", str(files.key),
        "--tls-ca-cert-file", str(files.authority),
        "--tls-auth-clients", "yes" if ask_clients else "no",
        *options,
    ) as url:  # fmt: skip
        yield url, f"rediss://127.0.0.1:{port}/0"
