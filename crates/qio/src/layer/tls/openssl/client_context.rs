//! The configuration of a client.

use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};
use rustls::pki_types::ServerName;

use super::super::client_settings::{ROLE, without_key};
use super::super::settings::Credentials;
use super::super::{ClientSettings, Reloadable};
use super::check::Check;
use super::psk::{PskKeys, USER_BYTES};
use super::verdict::Verdict;
use super::{OpensslTls, context};
use crate::error::{Error, Result};

/// What a client of OpenSSL believes and shows, for any number of connections: made by
/// [`ClientSettings::build_openssl`].
pub struct ClientContext {
    context: SslContext,
    /// `None` where there are no certificates.
    check: Option<Arc<Check>>,
    sends_name: bool,
    /// Of a session with pre-shared keys.
    user: Option<String>,
}

impl ClientSettings {
    /// Reads all files, and makes a configuration for the engine of OpenSSL
    /// ([`openssl`](super)), for any number of connections.
    ///
    /// Such a client does not resume sessions.
    ///
    /// # Errors
    ///
    /// Of class `Open` for files that cannot be read, and `Usage` for what is wrong in them, where
    /// the file is named, for settings that contradict each other, and for more than one identity.
    pub fn build_openssl(&self) -> Result<Arc<ClientContext>> {
        let common = &self.common;
        let credentials = common.credentials(ROLE)?;
        let mut builder = context::begin(SslMethod::tls_client(), common, &credentials)?;
        let mut check = None;
        let mut user = None;
        match &credentials {
            Credentials::Psk(file) => {
                let name = self.psk_user.as_deref().unwrap_or("qemu");
                if name.len() > USER_BYTES || name.contains('\0') {
                    let reason = format!("a user has at most {USER_BYTES} bytes, and no zero");
                    return Err(Error::usage("configure", "TLS client", reason));
                }
                PskKeys::read(file)?.install_client(&mut builder, name)?;
                // In TLS 1.3 a server may pass over the key and show a certificate instead: nobody's
                // is believed.
                builder.set_verify(SslVerifyMode::PEER);
                user = Some(name.to_owned());
            }
            _ if self.psk_user.is_some() => return Err(without_key()),
            Credentials::Anonymous => builder.set_verify(SslVerifyMode::NONE),
            Credentials::Certificates => {
                let (crl_files, identities) = self.files()?;
                let rules = common.authorization.clone();
                let trust = self.trusts();
                let mode = SslVerifyMode::PEER;
                check = Some(Check::install(&mut builder, &trust, &crl_files, rules, mode)?);
                if let [_, _, ..] = identities.as_slice() {
                    let reason = format!(
                        "a client of OpenSSL shows one certificate, there are {} to choose from",
                        identities.len()
                    );
                    return Err(Error::usage("configure", "TLS client", reason)
                        .hint("rustls chooses by who has signed them"));
                }
                for identity in &identities {
                    context::identify(&mut builder, identity)?;
                }
            }
        }
        let alpn = context::alpn(common);
        if !alpn.is_empty() {
            builder.set_alpn_protos(&alpn).map_err(|error| context::unusable(&error))?;
        }
        let sends_name = self.sends_name;
        Ok(Arc::new(ClientContext { context: builder.build(), check, sends_name, user }))
    }

    /// Builds a configuration that can be made anew from the same files.
    ///
    /// # Errors
    ///
    /// As of [`build_openssl`](Self::build_openssl).
    pub fn reloadable_openssl(self) -> Result<Reloadable<ClientContext>> {
        Reloadable::new(move || self.build_openssl())
    }
}

impl ClientContext {
    /// One connection to the server of this name.
    pub(super) fn engine(
        &self,
        name: &ServerName<'static>,
    ) -> std::result::Result<OpensslTls, ErrorStack> {
        let verdict = Arc::new(Verdict::default());
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_connect_state();
        if let (ServerName::DnsName(name), true) = (name, self.sends_name) {
            ssl.set_hostname(name.as_ref().trim_end_matches('.'))?;
        }
        if let Some(check) = &self.check {
            check.attach(&mut ssl, Some(name), &verdict)?;
        }
        OpensslTls::new(ssl, verdict, self.check.clone(), self.user.clone())
    }
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClientContext")
            .field("check", &self.check)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
