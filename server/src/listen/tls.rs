//! The server's certificate and key.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig, crypto};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM of the expected kind.
    #[error("`{path}` holds no {expected} in PEM form")]
    Pem {
        /// Its path.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// Others can read the key.
    #[error("key file `{path}` is accessible to others (mode {mode:04o}), run `chmod 600 {path}`")]
    Permissions {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Certificate and key do not fit together, or are not supported.
    #[error("certificate `{certificate}` and key `{key}` cannot be used")]
    Rejected {
        /// Path of the certificate chain.
        certificate: PathBuf,
        /// Path of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// TLS as this server offers it: 1.2 and 1.3, HTTP/2 first.
#[derive(Clone)]
pub struct TlsSetup {
    acceptor: TlsAcceptor,
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSetup").finish_non_exhaustive()
    }
}

impl TlsSetup {
    /// Reads the certificate chain and the private key, both PEM. The key must be readable by its owner alone.
    ///
    /// # Errors
    /// [`Error`], with the path and the fix.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
        };
        let pem = |path: &Path, expected| Error::Pem { path: path.to_owned(), expected };

        let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<_, _>>()
            .map_err(|_malformed| pem(certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(pem(certificate, "certificate"));
        }
        let meta =
            std::fs::metadata(key).map_err(|source| Error::Io { path: key.to_owned(), source })?;
        let mode = meta.mode() & 0o7777;
        // Group read is how secrets are mounted for a non-root user in a pod; others never.
        if mode & 0o037 != 0 {
            return Err(Error::Permissions { path: key.to_owned(), mode });
        }
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|_malformed| pem(key, "private key"))?;

        let rejected = |source| Error::Rejected {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        };
        // Named, not taken from the process: two crates that install one each would otherwise race.
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(rejected)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(rejected)?;
        // HTTP/1.1 is for the pages alone.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(super) const fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}
