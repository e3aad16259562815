//! Whom a page over TLS is taken from: whoever the system's CAs vouch for, or those in the file that `SSL_CERT_FILE` names, as with
//! every other program. A server behind a private CA is a server like any other then.

use std::io;
use std::sync::Arc;

use rustls::{CertificateError, Error};
use rustls_native_certs::load_native_certs;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

pub(super) fn config() -> TlsConfig {
    let found = load_native_certs();
    for error in &found.errors {
        tracing::warn!("CA certificates: {error}");
    }
    let roots = found.certs.iter().map(|one| Certificate::from_der(one).to_owned());
    TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

/// What TLS has against a server, and what to do; nothing if it was not TLS that failed.
pub(super) fn why_not(error: &io::Error) -> Option<String> {
    Some(match error.get_ref()?.downcast_ref()? {
        Error::InvalidMessage(_) => "no TLS is spoken there: write http://".to_owned(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the certificate is of an unknown CA: name a file with it in SSL_CERT_FILE".to_owned()
        }
        other => other.to_string(),
    })
}
