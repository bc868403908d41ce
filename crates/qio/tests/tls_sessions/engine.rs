//! An engine of TLS, as the questions see it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use qio::Result;
use qio::layer::Handshaking;
#[cfg(feature = "openssl")]
use qio::layer::tls::openssl::{self, ClientContext, OpensslTls, ServerContext};
use qio::layer::tls::{
    self, ClientSettings, ClientTls, Facts, Reloadable, ServerSettings, ServerTls,
};
use qio::transport::Socket;
use qio_proto::Handshake;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

/// Who implements TLS, and in what its answers differ.
pub(crate) trait Engine {
    type Client: Client;
    type Server: Server;

    /// Where its tests are.
    const MODULE: &str;
    /// The alert for who is not allowed.
    const DENIED: &str;
    /// What it says of a server that has not the key of its certificate.
    const NOT_ITS_KEY: &str;
    /// What it says of a client that is too old.
    const TOO_OLD: &str;
    /// Whether a client knows afterwards which name it asked for, and that it was asked for a
    /// certificate.
    const CLIENT_REMEMBERS: bool;

    fn client(settings: &ClientSettings) -> Arc<Self::Client> {
        Self::Client::build(settings).unwrap()
    }

    fn server(settings: &ServerSettings) -> Arc<Self::Server> {
        Self::Server::build(settings).unwrap()
    }
}

/// What the settings of a client become.
pub(crate) trait Client {
    type Tls: Session;

    fn build(settings: &ClientSettings) -> Result<Arc<Self>>;

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        name: &str,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, Self::Tls>>;
}

/// What the settings of a server become.
pub(crate) trait Server: Sized {
    type Tls: Session;

    fn build(settings: &ServerSettings) -> Result<Arc<Self>>;

    fn reloadable(settings: ServerSettings) -> Result<Reloadable<Self>>;

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, Self::Tls>>;
}

/// A side of a connection.
pub(crate) trait Session:
    Handshake<Engine = Self> + qio_proto::Engine + Debug + Send + 'static
{
    fn facts(&self) -> Facts;
}

pub(crate) struct Rustls;

impl Engine for Rustls {
    type Client = ClientConfig;
    type Server = ServerConfig;

    const MODULE: &str = "by_rustls";
    const DENIED: &str = "AccessDenied";
    const NOT_ITS_KEY: &str = "not accepted: BadSignature";
    const TOO_OLD: &str = "peer is incompatible";
    const CLIENT_REMEMBERS: bool = true;
}

impl Client for ClientConfig {
    type Tls = ClientTls;

    fn build(settings: &ClientSettings) -> Result<Arc<Self>> {
        settings.build()
    }

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        name: &str,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, ClientTls>> {
        tls::client(below, Arc::clone(self), named(name), deadline)
    }
}

impl Server for ServerConfig {
    type Tls = ServerTls;

    fn build(settings: &ServerSettings) -> Result<Arc<Self>> {
        settings.build()
    }

    fn reloadable(settings: ServerSettings) -> Result<Reloadable<Self>> {
        settings.reloadable()
    }

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, ServerTls>> {
        tls::server(below, Arc::clone(self), deadline)
    }
}

impl Session for ClientTls {
    fn facts(&self) -> Facts {
        self.facts()
    }
}

impl Session for ServerTls {
    fn facts(&self) -> Facts {
        self.facts()
    }
}

#[cfg(feature = "openssl")]
pub(crate) struct Openssl;

#[cfg(feature = "openssl")]
impl Engine for Openssl {
    type Client = ClientContext;
    type Server = ServerContext;

    const MODULE: &str = "by_openssl";
    // It has no other word for it.
    const DENIED: &str = "HandshakeFailure";
    const NOT_ITS_KEY: &str = "tls: bad signature";
    const TOO_OLD: &str = "no version of TLS in common";
    const CLIENT_REMEMBERS: bool = false;
}

#[cfg(feature = "openssl")]
impl Client for ClientContext {
    type Tls = OpensslTls;

    fn build(settings: &ClientSettings) -> Result<Arc<Self>> {
        settings.build_openssl()
    }

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        name: &str,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, OpensslTls>> {
        openssl::client(below, self, &named(name), deadline)
    }
}

#[cfg(feature = "openssl")]
impl Server for ServerContext {
    type Tls = OpensslTls;

    fn build(settings: &ServerSettings) -> Result<Arc<Self>> {
        settings.build_openssl()
    }

    fn reloadable(settings: ServerSettings) -> Result<Reloadable<Self>> {
        settings.reloadable_openssl()
    }

    fn begin(
        self: &Arc<Self>,
        below: Socket,
        deadline: Option<Instant>,
    ) -> io::Result<Handshaking<Socket, OpensslTls>> {
        openssl::server(below, self, deadline)
    }
}

#[cfg(feature = "openssl")]
impl Session for OpensslTls {
    fn facts(&self) -> Facts {
        self.facts()
    }
}

fn named(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}
