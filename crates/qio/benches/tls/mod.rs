//! TLS in qio, in rustls without anything around it, and in other libraries.

use std::hint::black_box;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use qio::layer::tls;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

use crate::transfer::{Cost, transfer};
use crate::{channel, finished, receive, send, some};

/// Both sides of TLS 1.3 with AES-256-GCM, which all of the libraries choose by themselves, and a
/// certificate for P-256.
pub(crate) struct Identity {
    qio: Configs,
    bare: Configs,
    certificate_pem: String,
    key_pem: String,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What one record of TLS holds.
const RECORD: usize = 16 << 10;

impl Identity {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("rcgen");
        let cert = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(cert.clone()).expect("a root");
        let configs = |provider: CryptoProvider| {
            let provider = Arc::new(provider);
            let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("ring has these versions")
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has these versions")
                .with_no_client_auth()
                .with_single_cert(vec![cert.clone()], key.clone_key())
                .expect("a certificate");
            Configs { client: Arc::new(client), server: Arc::new(server) }
        };
        // Named, because rustls has no default in a build with more than one.
        Self {
            qio: configs(tls::direct(ring::default_provider())),
            bare: configs(ring::default_provider()),
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        }
    }

    fn configs(&self, end: End) -> &Configs {
        match end {
            End::Qio => &self.qio,
            End::Rustls => &self.bare,
        }
    }

    /// Moves so many bytes from one kind of end to another, in records of 16 KiB.
    pub(crate) fn run(&self, from: End, to: End, bytes: usize) -> Cost {
        let (left, right) = UnixStream::pair().expect("socketpair");
        let config = Arc::clone(&self.configs(to).server);
        let receiver = thread::spawn(move || receiver(to, right, config, bytes));
        let send = sender(from, left, Arc::clone(&self.configs(from).client), bytes);
        transfer(send, receiver.join().expect("the server"))
    }
}

/// What an end of a connection is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Qio,
    /// rustls over a socket in blocking mode: a record is sent when it is made, and the reader asks
    /// the kernel for two at once, because rustls by itself asks for 4 KiB at a time.
    Rustls,
}

type Job = Box<dyn FnOnce() + Send>;

/// Makes the handshake, and gives what sends.
fn sender(end: End, mut socket: UnixStream, config: Arc<ClientConfig>, bytes: usize) -> Job {
    let name = ServerName::try_from("localhost").expect("a name");
    match end {
        End::Qio => {
            let client = tls::client(channel(socket), config, name, None).expect("client");
            let client = finished(client).into_layer(tls::NAME);
            Box::new(move || send(&client, bytes, RECORD))
        }
        End::Rustls => {
            let mut tls = rustls::ClientConnection::new(config, name).expect("client");
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).expect("the handshake");
            }
            let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
            assert_eq!(suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384), "as in C");
            Box::new(move || {
                let block = vec![7; RECORD];
                let mut sent = 0;
                while sent < bytes {
                    let count = RECORD.min(bytes - sent);
                    tls.writer().write_all(&block[..count]).expect("write");
                    while tls.wants_write() {
                        tls.write_tls(&mut socket).expect("write");
                    }
                    sent += count;
                }
            })
        }
    }
}

/// The same for what receives.
fn receiver(end: End, mut socket: UnixStream, config: Arc<ServerConfig>, bytes: usize) -> Job {
    match end {
        End::Qio => {
            let server = tls::server(channel(socket), config, None).expect("server");
            let server = finished(server).into_layer(tls::NAME);
            Box::new(move || receive(&server, bytes, RECORD))
        }
        End::Rustls => {
            let mut tls = rustls::ServerConnection::new(config).expect("server");
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).expect("the handshake");
            }
            let mut socket = BufReader::with_capacity(36 << 10, socket);
            Box::new(move || {
                let mut block = vec![0; RECORD];
                let mut received = 0;
                while received < bytes {
                    match tls.reader().read(&mut block) {
                        Ok(count) => received += some(count),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                            tls.read_tls(&mut socket).expect("read");
                            tls.process_new_packets().expect("a record");
                        }
                    }
                    black_box(&block);
                }
            })
        }
    }
}

/// The libraries for which there is a program in C beside this file.
pub(crate) const LIBRARIES: [&str; 2] = ["openssl", "gnutls"];

/// A program that moves the same bytes in the same way with another library.
pub(crate) struct Foreign {
    folder: tempfile::TempDir,
}

impl Foreign {
    /// Compiles it, or says why that cannot be done.
    pub(crate) fn build(library: &str, identity: &Identity) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write("cert.pem", &identity.certificate_pem)
            .and_then(|()| write("key.pem", &identity.key_pem))
            .map_err(|error| error.to_string())?;
        let source = format!("{}/benches/tls", env!("CARGO_MANIFEST_DIR"));
        let flags: &[&str] = match library {
            "openssl" => &["-lssl", "-lcrypto"],
            _ => &["-lgnutls"],
        };
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-pthread", "-o"])
            .arg(folder.path().join("transfer"))
            .arg(format!("{source}/{library}.c"))
            .args(flags)
            .output()
            .map_err(|error| format!("no compiler: {error}"))?;
        if !compiled.status.success() {
            let text = String::from_utf8_lossy(&compiled.stderr);
            let line = text.lines().find(|line| line.contains("error")).unwrap_or("no reason");
            return Err(format!("it cannot be compiled: {line}"));
        }
        Ok(Self { folder })
    }

    /// Runs it for so many bytes.
    pub(crate) fn run(&self, bytes: usize) -> Cost {
        let output = Command::new(self.folder.path().join("transfer"))
            .args([bytes.to_string(), RECORD.to_string()])
            .current_dir(self.folder.path())
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let mut nanoseconds = text.split_whitespace().map(|word| word.parse().expect("a number"));
        let mut next = || Duration::from_nanos(nanoseconds.next().expect("two numbers"));
        Cost { wall: next(), cpu: next() }
    }
}
