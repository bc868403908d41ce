//! The settings of a server.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{KeyLogFile, ServerConfig};

use super::directory::Directory;
use super::identity::ServerIdentities;
use super::reload::Reloadable;
use super::settings::{Common, Credentials, settings_of_both_roles, unsupported};
use super::trust::ClientCheck;
use super::{Authorization, Fingerprint, Identity, Provider, Trust, Version};
use crate::error::{Error, Result};

/// What a server of TLS shows and believes: [`build`](Self::build) makes of it what
/// [`server`](super::server) takes.
///
/// By default: TLS 1.2 and 1.3, sessions are resumed, and clients are not asked for certificates.
/// An identity must be given.
///
/// ```no_run
/// use qio::layer::tls::{ClientCertificates, Identity, ServerSettings};
///
/// let config = ServerSettings::new()
///     .identity(Identity::files("server-cert.pem", "server-key.pem"))
///     .ca_file("clients-ca.pem")
///     .client_certificates(ClientCertificates::Required)
///     .build()?;
/// # Ok::<(), qio::Error>(())
/// ```
#[doc(alias = "tls-creds-x509")]
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerSettings {
    pub(super) common: Common,
    client_certificates: Option<ClientCertificates>,
}

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked, and may have none; one that is shown must be good.
    Optional,
    /// Who has none is refused.
    #[doc(alias = "verify-peer")]
    Required,
}

impl ServerSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of(common: Common) -> Self {
        Self { common, ..Self::default() }
    }

    settings_of_both_roles!();

    /// Whose certificates are believed of clients; without a default, as long as
    /// [`client_certificates`](Self::client_certificates) are not off.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.common.trust = Some(trust);
        self
    }

    /// Takes certificates from a directory in QEMU's layout (`-object tls-creds-x509,dir=`):
    /// `server-cert.pem` with `server-key.pem`, then if they exist `server-cert-0.pem` with
    /// `server-key-0.pem` and so on; `ca-cert.pem` for whom to believe, unless
    /// [`trust`](Self::trust) says otherwise; and `ca-crl.pem` if it exists.
    ///
    /// As with QEMU, clients must have a certificate then, unless
    /// [`client_certificates`](Self::client_certificates) says otherwise. A directory with
    /// `keys.psk` and without `ca-cert.pem` and `server-cert.pem` is one of pre-shared keys
    /// ([`psk_file`](Self::psk_file)).
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.common.directory = Some(Directory(path.into()));
        self
    }

    /// Adds an identity. Of several, the one is shown that has the name which the client asks
    /// for (SNI), else the first.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.common.identities.push(identity);
        self
    }

    /// Which of the clients with a good certificate are let in; all of them by default.
    /// Clients without a certificate are refused where the rules
    /// [`deny_others`](Authorization::deny_others).
    #[must_use]
    pub fn authorization(mut self, rules: Authorization) -> Self {
        self.common.authorization = Some(rules);
        self
    }

    /// The protocols to offer (ALPN, RFC 7301), the preferred one first; none by default.
    /// A client that offers some, but none of these, is refused; one that offers none is not.
    #[must_use]
    pub fn alpn<T: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.common.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether later connections continue earlier sessions, which saves signatures and round trips
    /// of certificates; on by default. What was checked when a session began is not checked again
    /// when it goes on. Tickets are sealed with a key of this configuration, which changes every few
    /// hours and at every reload.
    #[must_use]
    pub fn resumption(mut self, resumes: bool) -> Self {
        self.common.resumes = resumes;
        self
    }

    /// Whether clients must show a certificate; required with a
    /// [`directory`](Self::directory), off without.
    #[must_use]
    pub fn client_certificates(mut self, ask: ClientCertificates) -> Self {
        self.client_certificates = Some(ask);
        self
    }

    /// Whether rustls cannot do it: pre-shared keys, or nobody to be authenticated.
    pub(crate) fn needs_openssl(&self) -> Result<bool> {
        Ok(self.common.credentials(ROLE)? != Credentials::Certificates)
    }

    /// Reads all files, and makes a configuration for any number of connections.
    ///
    /// # Errors
    ///
    /// Of class `Open` for files that cannot be read, and `Usage` for what is wrong in them, where
    /// the file is named, and for settings that contradict each other.
    pub fn build(&self) -> Result<Arc<ServerConfig>> {
        let common = &self.common;
        common.require_certificates(ROLE)?;
        let parts = self.parts()?;
        let provider = common.provider.get();
        let verifier = match parts.clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(Clients { trust, rules, is_mandatory }) => {
                let crls = &parts.crl_files;
                Arc::new(ClientCheck::new(&trust, crls, rules, is_mandatory, &provider)?)
            }
        };
        let identities = parts.identities;
        let identities: Result<_> =
            identities.iter().map(|identity| identity.load(&provider)).collect();
        common.check_alpn()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&common.versions()?)
            .map_err(unsupported)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ServerIdentities(identities?)));
        config.alpn_protocols.clone_from(&common.alpn);
        if common.resumes {
            config.ticketer = common.provider.ticketer().map_err(unsupported)?;
        } else {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        if common.logs_keys {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(Arc::new(config))
    }

    /// What is shown and who is asked, with what a directory adds.
    pub(super) fn parts(&self) -> Result<Parts> {
        let common = &self.common;
        let mut trust = common.trust.clone();
        let mut crl_files = common.crl_files.clone();
        let mut identities = common.identities.clone();
        let ask = match (self.client_certificates, &self.common.directory) {
            (Some(ask), _) => ask,
            (None, Some(_)) => ClientCertificates::Required,
            (None, None) => ClientCertificates::Off,
        };
        if let Some(directory) = &self.common.directory {
            trust = trust.or_else(|| Some(Trust::Files(vec![directory.authority()])));
            crl_files.extend(directory.revocations());
            identities.append(&mut directory.identities(ROLE)?);
        }
        if identities.is_empty() {
            let error = refuse("a server needs a certificate and its key");
            return Err(match &self.common.directory {
                None => error,
                Some(Directory(path)) => {
                    error.hint(format!("{} has no server-cert.pem", path.display()))
                }
            });
        }
        let is_asked = ask != ClientCertificates::Off;
        let clients = match (is_asked, trust, &common.authorization) {
            (true, Some(trust), rules) => {
                let keeps_others_out = rules.as_ref().is_some_and(|rules| !rules.allows_others());
                let is_mandatory = ask == ClientCertificates::Required || keeps_others_out;
                Some(Clients { trust, rules: rules.clone(), is_mandatory })
            }
            (true, None, _) => {
                let error = refuse("clients are asked for certificates, but whose are believed?");
                return Err(error.hint("name the certificate of the authority that signs them"));
            }
            (false, _, Some(_)) => {
                let reason = "there are rules about clients, who are not asked for certificates";
                return Err(refuse(reason).hint("require certificates from clients"));
            }
            (false, Some(_), None) if self.common.directory.is_none() => {
                let reason = "it is said which clients are believed, but they are not asked";
                return Err(refuse(reason).hint("require certificates from clients"));
            }
            (false, ..) => None,
        };
        Ok(Parts { identities, crl_files, clients })
    }

    /// Whether it was said that clients are asked for certificates, or not.
    #[cfg(feature = "openssl")]
    pub(super) fn asks_explicitly(&self) -> bool {
        self.client_certificates.is_some()
    }

    /// Builds a configuration that can be made anew from the same files.
    ///
    /// # Errors
    ///
    /// As of [`build`](Self::build).
    pub fn reloadable(self) -> Result<Reloadable<ServerConfig>> {
        Reloadable::new(move || self.build())
    }
}

/// What a server shows, and whom it asks.
pub(super) struct Parts {
    pub(super) identities: Vec<Identity>,
    pub(super) crl_files: Vec<PathBuf>,
    /// `None` where clients are not asked.
    pub(super) clients: Option<Clients>,
}

/// Which clients are believed.
pub(super) struct Clients {
    pub(super) trust: Trust,
    pub(super) rules: Option<Authorization>,
    pub(super) is_mandatory: bool,
}

/// What files in a directory begin with.
pub(super) const ROLE: &str = "server";

fn refuse(reason: &'static str) -> Error {
    Error::usage("configure", "TLS server", reason)
}
