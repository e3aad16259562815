//! `egw-probe report` on pages behind TLS: a client's, and a Prometheus server's, with certificates of a CA of their own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::common::files::Folder;
use crate::common::told::skip;
use crate::common::{Program, free_port, status, target, wait_for};

/// A CA, and a server's certificate that it vouches for.
struct Authority {
    certificate: rcgen::Certificate,
    server: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str, server: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![server.to_owned()]).unwrap();
        let server = server.signed_by(&key, &Issuer::from_params(&params, &ca_key)).unwrap();
        Self { certificate, server, key }
    }

    /// Takes TLS off whatever comes, and hands it on to `behind`, as an ingress does.
    fn terminate(&self, behind: SocketAddr) -> SocketAddr {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![self.server.der().clone()], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap());
                // Who does not trust us goes away in the middle of it.
                let _ = hand_on(tls, behind);
            }
        });
        at
    }
}

fn hand_on(mut tls: StreamOwned<ServerConnection, TcpStream>, behind: SocketAddr) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let length = tls.read(&mut request)?;
    let mut plain = TcpStream::connect(behind)?;
    plain.write_all(&request[..length])?;
    plain.shutdown(std::net::Shutdown::Write)?;
    let mut answer = vec![];
    plain.read_to_end(&mut answer)?;
    tls.write_all(&answer)?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// The report of these pages, trusting in the CAs of this file.
fn json(args: &[&str], authorities: &str) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_egw-probe"))
        .args(["report", "--output=json"])
        .args(args)
        .env("SSL_CERT_FILE", authorities)
        .output()
        .unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

fn refusal(report: &Value) -> &str {
    report["run"]["read"]["skipped_documents"][0]["reason"].as_str().unwrap()
}

/// A client whose test is over; its page.
fn client() -> (Program, Program, SocketAddr) {
    let target = target(&["--allowed-cidr=127.0.0.0/8"]);
    let address = format!("127.0.0.1:{}", target.port);
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let client =
        Program::start(&["client", "--external-target-addr", &address, "--metrics-addr", &at.to_string()]);
    wait_for("the test to be over", || status(at, "/readyz") == 200);
    (target.program, client, at)
}

#[test]
fn a_page_behind_tls_is_read_from_a_server_that_its_ca_vouches_for_and_from_no_other() {
    let (_target, _client, behind) = client();
    let folder = Folder::new();
    let ours = Authority::new("a private CA", "127.0.0.1");
    let trusted = folder.write("ca.pem", &ours.certificate.pem());
    let others = folder.write("other.pem", &Authority::new("another CA", "127.0.0.1").certificate.pem());
    let page = format!("https://{}/metrics", ours.terminate(behind));

    let (code, report) = json(&[&page], &trusted);
    assert_eq!((code, report["run"]["clients"]["masqueraded"].as_u64()), (0, Some(1)), "{report:#}");
    assert_eq!(report["run"]["worst"][0]["client_id"], page.as_str());

    let (code, report) = json(&[&page], &others);
    let unknown = "unreadable: the certificate is of an unknown CA: name a file with it in SSL_CERT_FILE";
    assert_eq!((code, refusal(&report)), (3, unknown));

    let (code, report) = json(&[&page], "/no/such/file");
    assert_eq!((code, refusal(&report)), (3, unknown));
}

#[test]
fn a_certificate_for_another_name_and_a_server_without_tls_are_refused_and_told() {
    let (_target, _client, behind) = client();
    let folder = Folder::new();
    let other = Authority::new("a private CA", "gateway.example");
    let trusted = folder.write("ca.pem", &other.certificate.pem());
    let (code, report) = json(&[&format!("https://{}/metrics", other.terminate(behind))], &trusted);
    let told = refusal(&report);
    assert_eq!(code, 3);
    assert!(
        told.starts_with("unreadable: invalid peer certificate: certificate not valid for name"),
        "{told}"
    );

    let (code, report) = json(&[&format!("https://{behind}/metrics")], &trusted);
    assert_eq!((code, refusal(&report)), (3, "unreadable: no TLS is spoken there: write http://"));
}

#[test]
fn a_prometheus_server_behind_tls_is_asked_like_any_other() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        return skip("needs the Debian package prometheus");
    }
    let (_target, _client, client_at) = client();
    let folder = Folder::new();
    let authority = Authority::new("a private CA", "127.0.0.1");
    let trusted = folder.write("ca.pem", &authority.certificate.pem());
    folder.write("server.pem", &authority.server.pem());
    folder.write("server.key", &authority.key.serialize_pem());
    let web = folder.write("web.yml", "tls_server_config: {cert_file: server.pem, key_file: server.key}\n");
    let config = folder.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: probes\n  static_configs:\n  - targets: ['{client_at}']\n"
        ),
    );
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _server = Program::start_command(
        Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!("--web.config.file={web}"))
            .arg(format!("--storage.tsdb.path={}/data", folder.path()))
            .arg(format!("--web.listen-address={at}")),
    );
    let url = format!("https://{at}");
    wait_for("the client to be scraped", || {
        json(&["--prometheus", &url], &trusted).1["run"]["clients"]["masqueraded"] == 1
    });
}
