//! TLS for `localhost`, made when it is needed.

use std::sync::{Arc, OnceLock};
use std::thread;

use qio::Channel;
use qio::layer::Layer;
use qio::layer::tls::{self, ClientTls, ServerTls};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::{Pair, finished, soon};

/// What a client and a server are made of that believe each other.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests name what they change")]
pub struct Local {
    /// Whose cryptography. Named, because rustls has no default in a build with more than one.
    pub provider: CryptoProvider,
    /// Which versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// How many tickets a server sends behind its handshake in TLS 1.3. A subject of the
    /// conformance suite begins with nothing on the wire: none.
    pub tickets: usize,
}

impl Default for Local {
    fn default() -> Self {
        Self {
            provider: tls::direct(ring::default_provider()),
            versions: rustls::DEFAULT_VERSIONS.to_vec(),
            tickets: 2,
        }
    }
}

impl Local {
    /// The client's side.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(identity().0).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// The server's side.
    pub fn server(&self) -> Arc<ServerConfig> {
        let (certificate, key) = identity();
        let mut config = ServerConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.send_tls13_tickets = self.tickets;
        Arc::new(config)
    }

    /// The client on the left, the server on the right.
    pub fn over(&self, pair: Pair) -> Pair {
        let (client, server) = self.layers(pair.left, pair.right);
        Pair::new(client, server)
    }

    /// The same, where the type of each is to be known.
    pub fn layers<C: Channel + 'static>(
        &self,
        left: C,
        right: C,
    ) -> (Layer<C, ClientTls>, Layer<C, ServerTls>) {
        let server = tls::server(right, self.server(), soon()).unwrap();
        let server = thread::spawn(move || finished(server).into_layer(tls::NAME));
        let client = tls::client(left, self.client(), name(), soon()).unwrap();
        let client = finished(client).into_layer(tls::NAME);
        (client, server.join().unwrap())
    }
}

/// The name of the server.
pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// One for the process: it takes time.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    });
    (certificate.clone(), PrivatePkcs8KeyDer::from(key.clone()).into())
}
