//! `tls+`: TLS 1.2 and 1.3.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{Begin, Layer, Link, Upgrade};
use crate::channel::Channel;
use crate::error::{Class, Error, Result};
use crate::layer::tls;
use crate::net::address::{Part, Refusal, Role, Value};
use crate::net::scheme::{Applies, Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: tls::NAME,
    summary: "TLS 1.2 and 1.3",
    examples: &[
        Example::new("tls+tcp://db.example:5432?ca=ca.pem", "connect, and trust one CA"),
        Example::new(
            "listen:tls+tcp://[::]:443?cert=cert.pem&key=key.pem",
            "serve with a certificate",
        ),
    ],
    options: OPTIONS,
    in_target: None,
    missing: "no answer to the tls handshake",
    check,
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("ca", Value::Text("FILE"), "whom to trust: certificates in PEM"),
    OptionInfo::new("cert", Value::Text("FILE"), "our certificate and its chain in PEM"),
    OptionInfo::new("key", Value::Text("FILE"), "its private key in PEM"),
    OptionInfo::new("sni", Value::Text("NAME"), "the server's name [default: that of the address]")
        .only(Applies::Connect),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if part.is_given(one) && !part.is_given(other) {
            return Err(Refusal::new(format!("option {one:?} needs {other:?}")));
        }
    }
    match part.role() {
        Role::Connect => name(part).map(drop),
        Role::Listen if part.is_given("cert") => Ok(()),
        Role::Listen => Err(Refusal::new("a server needs a certificate").hint("cert=FILE&key=FILE")),
    }
}

/// The name that the server has to prove.
fn name(part: &Part<'_>) -> std::result::Result<ServerName<'static>, Refusal> {
    let address = part.address();
    let host = address.target().first().filter(|_| address.scheme().form.slashes);
    let name = match (part.text("sni"), host) {
        (Some(name), _) => name.into_owned(),
        (None, Some(host)) => {
            String::from_utf8_lossy(host).split('%').next().unwrap_or_default().to_owned()
        }
        (None, None) => {
            return Err(Refusal::new("the address names no host whose certificate could be checked")
                .hint("sni=NAME is the name that the server has to prove"));
        }
    };
    let text = name.clone();
    ServerName::try_from(name)
        .map_err(|_| Refusal::new(format!("{text:?} is no name that a certificate could have")))
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let attempt = if part.role() == Role::Listen { "listen" } else { "connect" };
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let text = format!("{what}: {error}");
        Error::new(Class::Open, attempt, part.address()).because(io::Error::other(text))
    };
    let file = |key: &str| part.values(key).last().map(Path::new);
    let chain = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let failed = |error| failed(&path.display().to_string(), &error);
        let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
        found.collect::<std::result::Result<_, _>>().map_err(failed)
    };
    let identity = match (file("cert"), file("key")) {
        (Some(cert), Some(key)) => {
            let found = PrivateKeyDer::from_pem_file(key);
            let found = found.map_err(|error| failed(&key.display().to_string(), &error))?;
            Some((chain(cert)?, found))
        }
        _ => None,
    };
    let unfit = |error: rustls::Error| failed("cert", &error);
    if part.role() == Role::Listen {
        let (chain, key) = identity.ok_or_else(|| failed("cert", &"there is none"))?;
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain, key).map_err(unfit)?;
        return Ok(Arc::new(Server(Arc::new(config))));
    }
    let mut roots = RootCertStore::empty();
    if let Some(path) = file("ca") {
        for certificate in chain(path)? {
            roots.add(certificate).map_err(|error| failed("ca", &error))?;
        }
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(unfit)?,
        None => config.with_no_client_auth(),
    };
    let name = name(part).map_err(|refusal| refusal.of(attempt, &part.address().to_string()))?;
    Ok(Arc::new(Client(Arc::new(config), name)))
}

#[derive(Debug)]
struct Client(Arc<ClientConfig>, ServerName<'static>);

#[derive(Debug)]
struct Server(Arc<ServerConfig>);

impl Begin for Client {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        let handshaking = tls::client(below, Arc::clone(&self.0), self.1.clone(), None)?;
        Ok(Upgrade::link(tls::NAME, handshaking))
    }
}

impl Begin for Server {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        Ok(Upgrade::link(tls::NAME, tls::server(below, Arc::clone(&self.0), None)?))
    }
}
