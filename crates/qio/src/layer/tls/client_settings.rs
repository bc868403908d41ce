//! The settings of a client.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, KeyLogFile};

use super::directory::Directory;
use super::identity::ClientIdentities;
use super::reload::Reloadable;
use super::settings::{Common, Credentials, settings_of_both_roles, unsupported};
use super::trust::ServerCheck;
use super::{Authorization, Fingerprint, Identity, Provider, Trust, Version};
use crate::error::{Error, Result};

/// What a client of TLS believes and shows: [`build`](Self::build) makes of it what
/// [`client`](super::client) takes.
///
/// By default: servers are verified against the roots of the system, TLS 1.2 and 1.3, the name of
/// the server is sent (SNI), sessions are resumed, and the client shows no certificate.
///
/// A server's certificate must name the host in subjectAltName: the common name (CN) is not
/// looked at, unlike in QEMU with GnuTLS. With the engine of OpenSSL (`build_openssl`, feature
/// `openssl`) it is, where there are no alternative names of hosts.
///
/// ```no_run
/// use qio::layer::tls::ClientSettings;
///
/// let settings = ClientSettings::new().ca_file("/etc/qio/ca-cert.pem").alpn(["nbd"]);
/// let name = settings.server_name(Some("disks.example"))?;
/// let config = settings.build()?;
/// # Ok::<(), qio::Error>(())
/// ```
#[doc(alias = "tls-creds-x509")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientSettings {
    pub(super) common: Common,
    pub(super) name: Option<String>,
    pub(super) sends_name: bool,
    pub(super) psk_user: Option<String>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { common: Common::default(), name: None, sends_name: true, psk_user: None }
    }
}

impl ClientSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of(common: Common) -> Self {
        Self { common, ..Self::default() }
    }

    settings_of_both_roles!();

    /// Whose certificates are believed; [`Trust::System`] by default.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.common.trust = Some(trust);
        self
    }

    /// Takes certificates from a directory in QEMU's layout (`-object tls-creds-x509,dir=`):
    /// `ca-cert.pem` for whom to believe, unless [`trust`](Self::trust) says otherwise;
    /// `ca-crl.pem` if it exists; and if they exist `client-cert.pem` with `client-key.pem`, then
    /// `client-cert-0.pem` with `client-key-0.pem` and so on. A directory with `keys.psk` and
    /// without `ca-cert.pem` and `client-cert.pem` is one of pre-shared keys
    /// ([`psk_file`](Self::psk_file)).
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.common.directory = Some(Directory(path.into()));
        self
    }

    /// Adds an identity. Of several, the first is shown that the server's authorities have
    /// signed, else the first whose key fits; none by default.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.common.identities.push(identity);
        self
    }

    /// Which of the servers with a good certificate are let in; all of them by default.
    #[must_use]
    pub fn authorization(mut self, rules: Authorization) -> Self {
        self.common.authorization = Some(rules);
        self
    }

    /// The protocols to offer (ALPN, RFC 7301), the preferred one first; none by default.
    /// A server that speaks none of them refuses.
    #[must_use]
    pub fn alpn<T: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.common.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether later connections continue earlier sessions, which saves signatures and round trips
    /// of certificates; on by default. What was checked when a session began is not checked again
    /// when it goes on.
    #[must_use]
    pub fn resumption(mut self, resumes: bool) -> Self {
        self.common.resumes = resumes;
        self
    }

    /// The name, or IP address, that the server's certificate must have, where that is not the one
    /// that is connected to.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The user by whose pre-shared key the server knows us; `qemu` by default, as in QEMU. At most
    /// 128 bytes.
    #[must_use]
    pub fn psk_user(mut self, user: impl Into<String>) -> Self {
        self.psk_user = Some(user.into());
        self
    }

    /// Whether the server is told its name (SNI, RFC 6066, section 3); yes by default. An IP
    /// address is never sent.
    #[must_use]
    pub fn sni(mut self, sends: bool) -> Self {
        self.sends_name = sends;
        self
    }

    /// What to give [`client`](super::client) as the name: the one of the settings, else that of
    /// the `host` that is connected to.
    ///
    /// Where no name is checked and none is known, it is an address that stands for none.
    ///
    /// # Errors
    ///
    /// Of class `Usage`, for what is neither a name nor an address, and when a name must be checked
    /// and none is known.
    pub fn server_name(&self, host: Option<&str>) -> Result<ServerName<'static>> {
        match self.name.as_deref().or(host) {
            Some(name) => {
                let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
                // A scope is of this machine, and in no certificate.
                let bare = bare.unwrap_or(name).split('%').next().unwrap_or(name);
                ServerName::try_from(bare.to_owned()).map_err(|_| {
                    let reason = "neither the name of a host nor an IP address";
                    Error::usage("verify", format!("server {name}"), reason)
                })
            }
            None if !self.checks_names()? => {
                Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))))
            }
            None => {
                let reason = "there is no name that its certificate must have";
                Err(Error::usage("verify", "server", reason).hint("give the name of the server"))
            }
        }
    }

    /// Whether rustls cannot do it: pre-shared keys, or nobody to be authenticated.
    pub(crate) fn needs_openssl(&self) -> Result<bool> {
        Ok(self.common.credentials(ROLE)? != Credentials::Certificates)
    }

    /// Reads all files, and makes a configuration for any number of connections.
    ///
    /// # Errors
    ///
    /// Of class `Open` for files that cannot be read, and `Usage` for what is wrong in them; the
    /// file is named.
    pub fn build(&self) -> Result<Arc<ClientConfig>> {
        let common = &self.common;
        common.require_certificates(ROLE)?;
        if self.psk_user.is_some() {
            return Err(without_key());
        }
        let (crl_files, identities) = self.files()?;
        let provider = common.provider.get();
        let check =
            ServerCheck::new(&self.trusts(), &crl_files, common.authorization.clone(), &provider)?;
        let identities: Result<_> =
            identities.iter().map(|identity| identity.load(&provider)).collect();
        common.check_alpn()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&common.versions()?)
            .map_err(unsupported)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(ClientIdentities(identities?)));
        config.alpn_protocols.clone_from(&common.alpn);
        config.enable_sni = self.sends_name;
        if !common.resumes {
            config.resumption = Resumption::disabled();
        }
        if common.logs_keys {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(Arc::new(config))
    }

    /// Builds a configuration that can be made anew from the same files.
    ///
    /// # Errors
    ///
    /// As of [`build`](Self::build).
    pub fn reloadable(self) -> Result<Reloadable<ClientConfig>> {
        Reloadable::new(move || self.build())
    }

    /// Lists of revoked certificates, and who we are.
    pub(super) fn files(&self) -> Result<(Vec<PathBuf>, Vec<Identity>)> {
        let mut crl_files = self.common.crl_files.clone();
        let mut identities = self.common.identities.clone();
        if let Some(directory) = &self.common.directory {
            crl_files.extend(directory.revocations());
            identities.append(&mut directory.identities(ROLE)?);
        }
        Ok((crl_files, identities))
    }

    /// Whether the server has to prove a name.
    fn checks_names(&self) -> Result<bool> {
        Ok(match self.common.credentials(ROLE)? {
            Credentials::Certificates => self.trusts().checks_names(),
            Credentials::Psk(_) | Credentials::Anonymous => false,
        })
    }

    pub(super) fn trusts(&self) -> Trust {
        let directory = self.common.directory.as_ref();
        let there = || directory.map(|directory| Trust::Files(vec![directory.authority()]));
        self.common.trust.clone().or_else(there).unwrap_or_default()
    }
}

/// A user is known by a key, and there is none.
pub(super) fn without_key() -> Error {
    let reason = "there is a user, but no pre-shared key (PSK)";
    Error::usage("configure", "TLS client", reason)
}

/// What files in a directory begin with.
pub(super) const ROLE: &str = "client";
