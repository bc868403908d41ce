//! TLS by either engine, over pairs of channels.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;

use qio::layer::tls::{self, ClientSettings, Identity, ServerSettings, Trust, Version, openssl};
use qio_testkit::certs::{Authority, Issued, Wanted};
use qio_testkit::{Pair, finished, soon};
use rustls::pki_types::ServerName;
use tempfile::TempDir;

/// Who implements a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Rustls,
    Openssl,
}

/// An authority, a server for `localhost`, and a file of pre-shared keys.
pub struct World {
    pub authority: Authority,
    pub server: Issued,
    dir: TempDir,
}

pub const KEY: &str = "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0";

pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let authority = Authority::new("test authority");
        let server = authority.issue(Wanted::new("host", &["localhost"]));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("keys.psk"), format!("qemu:{KEY}\nalice:{KEY}00\n")).unwrap();
        World { authority, server, dir }
    })
}

impl World {
    pub fn keys(&self) -> PathBuf {
        self.dir.path().join("keys.psk")
    }

    pub fn client(&self) -> ClientSettings {
        ClientSettings::new().trust(Trust::Pem(self.authority.certificate().into()))
    }

    pub fn server(&self) -> ServerSettings {
        ServerSettings::new().identity(identity(&self.server))
    }
}

pub fn identity(issued: &Issued) -> Identity {
    Identity::pem(issued.certificate.as_bytes(), issued.key.as_bytes())
}

pub fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// The client on the left, the server on the right, with certificates.
pub fn tls_pair(pair: Pair, client: By, server: By) -> Pair {
    tls_pair_up_to(Version::Tls13, pair, client, server)
}

pub fn tls_pair_up_to(version: Version, pair: Pair, client: By, server: By) -> Pair {
    let settings = (world().client().max_version(version), world().server());
    join(pair, (client, settings.0), (server, settings.1))
}

pub fn psk_pair(version: Version, pair: Pair) -> Pair {
    let client = ClientSettings::new().psk_file(world().keys()).max_version(version);
    let server = ServerSettings::new().psk_file(world().keys());
    join(pair, (By::Openssl, client), (By::Openssl, server))
}

pub fn anonymous_pair(pair: Pair) -> Pair {
    let client = ClientSettings::new().anonymous(true);
    let server = ServerSettings::new().anonymous(true);
    join(pair, (By::Openssl, client), (By::Openssl, server))
}

pub fn join(pair: Pair, client: (By, ClientSettings), server: (By, ServerSettings)) -> Pair {
    let (left, right) = (pair.left, pair.right);
    let server = thread::spawn(move || -> Arc<dyn qio::Channel> {
        match server.0 {
            By::Rustls => {
                let shaking = tls::server(right, server.1.build().unwrap(), soon()).unwrap();
                Arc::new(finished(shaking).into_layer(tls::NAME))
            }
            By::Openssl => {
                let context = server.1.build_openssl().unwrap();
                let shaking = openssl::server(right, &context, soon()).unwrap();
                Arc::new(finished(shaking).into_layer(tls::NAME))
            }
        }
    });
    let left: Arc<dyn qio::Channel> = match client.0 {
        By::Rustls => {
            let config = client.1.build().unwrap();
            let shaking = tls::client(left, config, localhost(), soon()).unwrap();
            Arc::new(finished(shaking).into_layer(tls::NAME))
        }
        By::Openssl => {
            let context = client.1.build_openssl().unwrap();
            let shaking = openssl::client(left, &context, &localhost(), soon()).unwrap();
            Arc::new(finished(shaking).into_layer(tls::NAME))
        }
    };
    Pair::new(left, server.join().unwrap())
}
