//! What a client speaks with a relay, and the clients themselves.

use std::io::{Error, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

use crate::websocket::WebSocket;

/// What a relay has to its left; to its right there is always plain TCP, or a plain Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Plain,
    /// TLS 1.3, AES-256-GCM, a certificate for ECDSA with P-256, nothing resumed.
    Tls,
    WebSocket,
}

/// A connection to a relay.
#[derive(Debug)]
pub(crate) enum Client {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    WebSocket(WebSocket),
}

impl Front {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::WebSocket];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
        }
    }

    /// What goes each way in a round trip.
    pub(crate) fn ping_bytes(self) -> usize {
        match self {
            Self::Plain | Self::Tls => 64,
            Self::WebSocket => 128,
        }
    }

    /// What bulk is written in: a frame of WebSocket is as large as a write.
    pub(crate) fn block_bytes(self) -> usize {
        match self {
            Self::Plain | Self::Tls => 256 * 1024,
            Self::WebSocket => 64 * 1024,
        }
    }

    /// Everything up to where plain bytes can be sent.
    pub(crate) fn greet(self, mut stream: TcpStream) -> Result<Client> {
        Ok(match self {
            Self::Plain => Client::Plain(stream),
            Self::Tls => {
                let config = Arc::clone(&identity().client);
                let name = ServerName::try_from("localhost").map_err(Error::other)?;
                let mut tls = ClientConnection::new(config, name).map_err(Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream)?;
                }
                Client::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
            Self::WebSocket => Client::WebSocket(WebSocket::over(stream)?),
        })
    }
}

impl Client {
    /// Ends the connection in our direction, with what the protocol has for it.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush()
            }
            Self::WebSocket(ws) => ws.finish(),
        }
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(tls) => tls.read(buf),
            Self::WebSocket(ws) => ws.read(buf),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(tls) => tls.write(buf),
            Self::WebSocket(ws) => ws.write(buf),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Plain(_) | Self::WebSocket(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Puts the certificate and the key into a folder: `cert.pem`, `key.pem`, and both in `both.pem`.
pub(crate) fn write_identity(folder: &Path) -> Result<()> {
    let Identity { certificate, key, .. } = identity();
    std::fs::write(folder.join("cert.pem"), certificate)?;
    std::fs::write(folder.join("key.pem"), key)?;
    std::fs::write(folder.join("both.pem"), format!("{certificate}{key}"))
}

struct Identity {
    certificate: String,
    key: String,
    client: Arc<ClientConfig>,
}

/// One certificate for all the relays of a run.
fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("rcgen");
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let mut client = ClientConfig::builder_with_protocol_versions(&[&version::TLS13])
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Identity {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            client: Arc::new(client),
        }
    })
}
