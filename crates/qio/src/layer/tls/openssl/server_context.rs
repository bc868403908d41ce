//! The configuration of a server.

use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, NameType, SniError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions,
    SslRef, SslVerifyMode,
};
use rustls::pki_types::{CertificateDer, ServerName};

use super::super::identity::is_for;
use super::super::server_settings::{Clients, Parts, ROLE};
use super::super::settings::{Common, Credentials};
use super::super::{Reloadable, ServerSettings};
use super::check::Check;
use super::psk::PskKeys;
use super::verdict::Verdict;
use super::{OpensslTls, context};
use crate::error::{Error, Result};

/// What a server of OpenSSL shows and believes, for any number of connections: made by
/// [`ServerSettings::build_openssl`].
pub struct ServerContext {
    context: SslContext,
    /// `None` where clients are not asked for certificates.
    check: Option<Arc<Check>>,
    is_psk: bool,
}

/// One of several identities.
struct Named {
    certificate: CertificateDer<'static>,
    context: SslContext,
}

impl ServerSettings {
    /// Reads all files, and makes a configuration for the engine of OpenSSL
    /// ([`openssl`](super)), for any number of connections.
    ///
    /// # Errors
    ///
    /// Of class `Open` for files that cannot be read, and `Usage` for what is wrong in them, where
    /// the file is named, and for settings that contradict each other.
    pub fn build_openssl(&self) -> Result<Arc<ServerContext>> {
        let common = &self.common;
        let credentials = common.credentials(ROLE)?;
        let failed = |error: ErrorStack| context::unusable(&error);
        let mut builder = begin(common, &credentials)?;
        let mut check = None;
        let mut named = Vec::new();
        let resumes = match &credentials {
            _ if credentials != Credentials::Certificates && self.asks_explicitly() => {
                let reason = "clients have no certificates in such a session";
                return Err(Error::usage("configure", "TLS server", reason));
            }
            Credentials::Psk(file) => {
                PskKeys::read(file)?.install_server(&mut builder)?;
                // Who is struck off the file shall not come back by a ticket.
                false
            }
            Credentials::Anonymous => false,
            Credentials::Certificates => {
                let Parts { identities, crl_files, clients } = self.parts()?;
                if let Some(Clients { trust, rules, is_mandatory }) = clients {
                    let mut mode = SslVerifyMode::PEER;
                    mode.set(SslVerifyMode::FAIL_IF_NO_PEER_CERT, is_mandatory);
                    check = Some(Check::install(&mut builder, &trust, &crl_files, rules, mode)?);
                }
                if let Some(first) = identities.first() {
                    context::identify(&mut builder, first)?;
                }
                if identities.len() > 1 {
                    for identity in &identities {
                        let mut other = begin(common, &credentials)?;
                        context::identify(&mut other, identity)?;
                        let certificate = identity.certificates.read()?.certificates()?.remove(0);
                        named.push(Named { certificate, context: other.build() });
                    }
                }
                common.resumes
            }
        };
        choose(&mut builder, named);
        if !resumes {
            builder.set_options(SslOptions::NO_TICKET);
            builder.set_num_tickets(0).map_err(failed)?;
        }
        if !common.alpn.is_empty() {
            let offered = common.alpn.clone();
            builder.set_alpn_select_callback(move |_, asked| {
                let found = offered.iter().find_map(|name| find(name, asked));
                // RFC 7301, section 3.2: the alert no_application_protocol.
                found.ok_or(AlpnError::ALERT_FATAL)
            });
        }
        let is_psk = matches!(credentials, Credentials::Psk(_));
        Ok(Arc::new(ServerContext { context: builder.build(), check, is_psk }))
    }

    /// Builds a configuration that can be made anew from the same files.
    ///
    /// # Errors
    ///
    /// As of [`build_openssl`](Self::build_openssl).
    pub fn reloadable_openssl(self) -> Result<Reloadable<ServerContext>> {
        Reloadable::new(move || self.build_openssl())
    }
}

fn begin(common: &Common, credentials: &Credentials) -> Result<SslContextBuilder> {
    let mut builder = context::begin(SslMethod::tls_server(), common, credentials)?;
    // Sessions of a configuration are its own, because the keys of its tickets are; OpenSSL wants a
    // name for them nevertheless, the same for all identities.
    builder.set_session_id_context(b"qio").map_err(|error| context::unusable(&error))?;
    Ok(builder)
}

/// Looks for a protocol in a list as it is sent: RFC 7301, section 3.1.
fn find<'a>(name: &[u8], mut list: &'a [u8]) -> Option<&'a [u8]> {
    while let [len, rest @ ..] = list {
        let (one, rest) = rest.split_at_checked(usize::from(*len))?;
        if one == name {
            return Some(one);
        }
        list = rest;
    }
    None
}

/// Shows the identity with the name that the client asks for, else the first; also who has one
/// answers, because a name that was not answered is not remembered by a session.
fn choose(builder: &mut SslContextBuilder, named: Vec<Named>) {
    builder.set_servername_callback(move |ssl: &mut SslRef, _| {
        let asked = ssl.servername(NameType::HOST_NAME);
        let Some(name) = asked.and_then(|name| ServerName::try_from(name.to_owned()).ok()) else {
            return Ok(());
        };
        match named.iter().find(|identity| is_for(&identity.certificate, &name)) {
            Some(identity) => {
                ssl.set_ssl_context(&identity.context).map_err(|_| SniError::ALERT_FATAL)
            }
            None => Ok(()),
        }
    });
}

impl ServerContext {
    /// One connection.
    pub(super) fn engine(&self) -> std::result::Result<OpensslTls, ErrorStack> {
        let verdict = Arc::new(Verdict::default());
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_accept_state();
        if let Some(check) = &self.check {
            check.attach(&mut ssl, None, &verdict)?;
        }
        let user = self.is_psk.then(String::new);
        OpensslTls::new(ssl, verdict, self.check.clone(), user)
    }
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerContext")
            .field("check", &self.check)
            .field("is_psk", &self.is_psk)
            .finish_non_exhaustive()
    }
}
