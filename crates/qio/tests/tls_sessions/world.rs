//! An authority and whom it knows, and how two sides are brought together.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use qio::ChannelExt;
use qio::layer::tls::{
    self, ClientCertificates, ClientSettings, Facts, Identity, ServerSettings, TlsError, Trust,
};
use qio::layer::{Established, Layer};
use qio::transport::Socket;
use qio_testkit::certs::{Authority, Issued, Wanted};
use qio_testkit::{finish, scope, soon};

use crate::engine::{Client, Server, Session};

/// The name that a client asks for, unless a test says otherwise.
pub(crate) const HOST: &str = "host.example";

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) server: Issued,
    pub(crate) client: Issued,
}

impl World {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("test authority");
        let server = authority.issue(Wanted::new("host", &[HOST, "192.0.2.1"]));
        let client = authority.issue(Wanted::new("alice", &["alice.example"]));
        Self { authority, server, client }
    }

    fn trust(&self) -> Trust {
        Trust::Pem(self.authority.certificate().into())
    }

    pub(crate) fn client(&self) -> ClientSettings {
        ClientSettings::new().trust(self.trust())
    }

    pub(crate) fn client_with_certificate(&self) -> ClientSettings {
        self.client().identity(identity(&self.client))
    }

    pub(crate) fn server(&self) -> ServerSettings {
        serve(&self.server)
    }

    pub(crate) fn server_that_asks(&self, ask: ClientCertificates) -> ServerSettings {
        self.server().trust(self.trust()).client_certificates(ask)
    }
}

pub(crate) fn identity(issued: &Issued) -> Identity {
    Identity::pem(issued.certificate.as_bytes(), issued.key.as_bytes())
}

pub(crate) fn serve(issued: &Issued) -> ServerSettings {
    ServerSettings::new().identity(identity(issued))
}

/// Tests here count descriptors: one at a time.
pub(crate) fn alone(body: impl FnOnce()) {
    scope(Duration::from_secs(600), |_| body());
}

/// What the handshake of a side comes to.
pub(crate) type End<T> = io::Result<Established<Socket, T>>;

/// A handshake of both sides, over a Unix socket.
pub(crate) fn shake<C: Client, S: Server>(
    client: &Arc<C>,
    server: &Arc<S>,
) -> (End<C::Tls>, End<S::Tls>) {
    shake_for(HOST, client, server)
}

pub(crate) fn shake_for<C: Client, S: Server>(
    name: &str,
    client: &Arc<C>,
    server: &Arc<S>,
) -> (End<C::Tls>, End<S::Tls>) {
    shake_over(Socket::pair().unwrap(), name, client, server)
}

pub(crate) fn shake_over<C: Client, S: Server>(
    (left, right): (Socket, Socket),
    name: &str,
    client: &Arc<C>,
    server: &Arc<S>,
) -> (End<C::Tls>, End<S::Tls>) {
    let server = server.begin(right, soon()).unwrap();
    let server = thread::spawn(move || finish(server));
    let client = finish(client.begin(left, name, soon()).unwrap());
    (client, server.join().unwrap())
}

/// Two layers that have agreed, with what they have agreed on.
pub(crate) fn connected<C: Client, S: Server>(
    client: &Arc<C>,
    server: &Arc<S>,
) -> (Layer<Socket, C::Tls>, Layer<Socket, S::Tls>) {
    let (client, server) = shake(client, server);
    (client.unwrap().into_layer(tls::NAME), server.unwrap().into_layer(tls::NAME))
}

pub(crate) fn facts<C: Client, S: Server>(client: &Arc<C>, server: &Arc<S>) -> (Facts, Facts) {
    let (client, server) = connected(client, server);
    // Tickets come behind the handshake.
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (client.with_engine(|tls| tls.facts()), server.with_engine(|tls| tls.facts()))
}

pub(crate) fn why<T>(result: io::Result<T>) -> TlsError {
    match result {
        Ok(_) => panic!("this was accepted"),
        Err(error) => match TlsError::find(&error) {
            Some(found) => found.clone(),
            None => panic!("not of TLS: {error:?}"),
        },
    }
}

/// The alert that a side was told, by its handshake or by what came behind it.
pub(crate) fn told<T: Session>(result: End<T>) -> String {
    match result {
        Err(error) => TlsError::find(&error).unwrap().to_string(),
        // In TLS 1.3 a client is ready before the server has looked at its certificate.
        Ok(established) => {
            established.into_layer(tls::NAME).read(&mut [0]).unwrap_err().to_string()
        }
    }
}

/// A socket for one side, and what is beyond it.
pub(crate) fn raw() -> (Socket, UnixStream) {
    let (left, right) = UnixStream::pair().unwrap();
    (Socket::from_fd(OwnedFd::from(left)).unwrap(), right)
}
