//! Engines without input or output.

use qio_proto::{Engine, Handshake};
use qio_testkit::certs::{Authority, Wanted};
use rustls::pki_types::ServerName;

use super::super::record::record_size;
use super::super::{
    ClientSettings, ClientTls, Identity, ServerSettings, ServerTls, Tls, TlsError, Trust, Version,
};
use super::*;

/// Settings that fit together.
fn settings() -> (ClientSettings, ServerSettings) {
    let authority = Authority::new("test authority");
    let server = authority.issue(Wanted::new("host", &["host.example"]));
    let identity = Identity::pem(server.certificate.as_bytes(), server.key.as_bytes());
    let client = ClientSettings::new().trust(Trust::Pem(authority.certificate().into()));
    (client, ServerSettings::new().identity(identity))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("host.example").unwrap()
}

fn openssl_client(settings: &ClientSettings) -> OpensslTls {
    settings.build_openssl().unwrap().engine(&name()).unwrap()
}

fn openssl_server(settings: &ServerSettings) -> OpensslTls {
    settings.build_openssl().unwrap().engine().unwrap()
}

fn rustls_client(settings: &ClientSettings) -> ClientTls {
    Tls::client(settings.build().unwrap(), name()).unwrap()
}

fn rustls_server(settings: &ServerSettings) -> ServerTls {
    Tls::server(settings.build().unwrap()).unwrap()
}

/// What a side has to say.
fn said<H: Handshake>(side: &mut H) -> Vec<u8> {
    let mut out = Vec::new();
    while side.wants_wire() {
        let mut wire = [0; 700];
        let count = side.poll_wire(&mut wire);
        assert!(count > 0);
        out.extend_from_slice(&wire[..count]);
    }
    out
}

/// Offers the wire one byte more at a time; `wire` keeps what was not taken.
fn hear<H: Handshake<Error = TlsError>>(
    side: &mut H,
    wire: &mut Vec<u8>,
    bytes: &[u8],
) -> Result<(), TlsError> {
    for &byte in bytes {
        wire.push(byte);
        loop {
            let count = side.handle_wire(wire)?;
            wire.drain(..count);
            if count == 0 || wire.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

/// A handshake byte by byte; gives what of the server's words is for the client's engine.
fn shake<A, B>(client: &mut A, server: &mut B) -> Result<(Vec<u8>, Vec<u8>), TlsError>
where
    A: Handshake<Error = TlsError>,
    B: Handshake<Error = TlsError>,
{
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let words = said(client);
        hear(server, &mut to_server, &words)?;
        let words = said(server);
        hear(client, &mut to_client, &words)?;
        if client.is_done() && server.is_done() && !client.wants_wire() {
            return Ok((to_client, to_server));
        }
    }
    panic!("no end of it");
}

/// Sends bytes, which come one by one.
fn send<A: Engine<Error = TlsError>, B: Engine<Error = TlsError>>(
    from: &mut A,
    to: &mut B,
    wire: &mut Vec<u8>,
    plain: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; 2 * plain.len() + 4096];
    let moved = from.handle_plain(plain, &mut out).unwrap();
    assert_eq!(moved.consumed, plain.len());
    let mut got = Vec::new();
    for &byte in &out[..moved.produced] {
        wire.push(byte);
        // Looking changes nothing.
        let moved = to.handle_wire(wire, &mut []).unwrap();
        wire.drain(..moved.consumed);
        assert_eq!(moved.produced, 0);
        let is_readable = to.is_readable(wire);
        let mut room = [0; 7];
        let mut read = 0;
        loop {
            let moved = to.handle_wire(wire, &mut room).unwrap();
            wire.drain(..moved.consumed);
            got.extend_from_slice(&room[..moved.produced]);
            read += moved.produced;
            if moved.produced == 0 {
                break;
            }
        }
        assert_eq!(is_readable, read > 0);
    }
    got
}

fn talk<A, B>(mut client: A, mut server: B)
where
    A: Handshake<Engine = A, Error = TlsError> + Engine<Error = TlsError>,
    B: Handshake<Engine = B, Error = TlsError> + Engine<Error = TlsError>,
{
    let (mut to_client, mut to_server) = shake(&mut client, &mut server).unwrap();
    let plain: Vec<u8> = (0..3000).map(|at| (at / 5) as u8).collect();
    assert_eq!(send(&mut client, &mut server, &mut to_server, &plain), plain);
    assert_eq!(send(&mut server, &mut client, &mut to_client, &plain), plain);
    // A farewell ends one direction.
    Engine::finish(&mut client);
    assert!(matches!(client.handle_plain(b"x", &mut [0; 600]), Err(TlsError::Ended)));
    let mut wire = vec![0; 600];
    let count = Engine::poll_wire(&mut client, &mut wire);
    assert!(
        !server.has_ended() && matches!(Engine::handle_end(&mut server), Err(TlsError::Truncated))
    );
    to_server.extend_from_slice(&wire[..count]);
    let moved = Engine::handle_wire(&mut server, &mut to_server, &mut [0; 10]).unwrap();
    assert_eq!(moved.produced, 0);
    assert!(server.has_ended());
    Engine::handle_end(&mut server).unwrap();
    assert_eq!(send(&mut server, &mut client, &mut to_client, &plain), plain);
}

#[test]
fn engines_talk_byte_by_byte_without_input_or_output() {
    for version in [Version::Tls12, Version::Tls13] {
        let (client, server) = settings();
        let client = client.max_version(version);
        talk(openssl_client(&client), openssl_server(&server));
        talk(rustls_client(&client), openssl_server(&server));
        talk(openssl_client(&client), rustls_server(&server));
    }
}

#[test]
fn a_handshake_that_ends_after_any_byte_is_unfinished() {
    for version in [Version::Tls12, Version::Tls13] {
        let (client, server) = settings();
        let client = client.max_version(version).build_openssl().unwrap();
        let server = server.build_openssl().unwrap();
        // Every place would take long; those of one run differ from those of the next, because the
        // sizes of signatures do.
        let last = (0..4000)
            .step_by(7)
            .find(|&cut| {
                shakes_within(client.engine(&name()).unwrap(), server.engine().unwrap(), cut)
            })
            .unwrap();
        assert!(last > 500, "{last} bytes are no handshake of {version:?}");
    }
}

/// Whether so many bytes are enough for a handshake; where they are not, the wire ends.
fn shakes_within(mut client: OpensslTls, mut server: OpensslTls, mut bytes: usize) -> bool {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let words = said(&mut client);
        let part = &words[..words.len().min(bytes)];
        bytes -= part.len();
        hear(&mut server, &mut to_server, part).unwrap();
        let answer = said(&mut server);
        let answered = &answer[..answer.len().min(bytes)];
        bytes -= answered.len();
        hear(&mut client, &mut to_client, answered).unwrap();
        if part.len() < words.len() || answered.len() < answer.len() {
            for side in [&mut client, &mut server] {
                if !side.is_done() {
                    assert!(matches!(Handshake::handle_end(side), TlsError::Unfinished));
                }
            }
            return false;
        }
        if client.is_done() && server.is_done() && !Handshake::wants_wire(&client) {
            return true;
        }
    }
    panic!("no end of it");
}

/// Both sides of TLS 1.3: rustls, which can ask for new keys, and OpenSSL.
fn updated() -> (ClientTls, OpensslTls) {
    let (client, server) = settings();
    let (mut client, mut server) = (rustls_client(&client), openssl_server(&server));
    let (mut wire, _) = shake(&mut client, &mut server).unwrap();
    Engine::handle_wire(&mut client, &mut wire, &mut []).unwrap();
    (client, server)
}

fn asked(client: &mut ClientTls) -> Vec<u8> {
    client.refresh_keys().unwrap();
    let mut wire = vec![0; 2048];
    let count = Engine::poll_wire(client, &mut wire);
    wire.truncate(count);
    wire
}

#[test]
fn a_peer_that_asks_for_new_keys_gets_them() {
    let (mut client, mut server) = updated();
    let mut wire = asked(&mut client);
    Engine::handle_wire(&mut server, &mut wire, &mut [0; 10]).unwrap();
    // The answer is new keys for the other direction, before anything goes that way (RFC 8446,
    // section 4.6.3): two records.
    let mut wire = vec![0; 600];
    let moved = Engine::handle_plain(&mut server, b"new keys", &mut wire).unwrap();
    let first = record_size(&wire).unwrap();
    assert!(first < moved.produced);
    assert_eq!(first + record_size(&wire[first..]).unwrap(), moved.produced);
    let mut room = [0; 20];
    let taken = Engine::handle_wire(&mut client, &mut wire[..moved.produced], &mut room).unwrap();
    assert_eq!((taken.consumed, &room[..taken.produced]), (moved.produced, &b"new keys"[..]));
    assert_eq!(send(&mut client, &mut server, &mut Vec::new(), b"new keys"), b"new keys");
    // One answer is enough.
    let moved = Engine::handle_plain(&mut server, b"x", &mut wire).unwrap();
    assert_eq!(record_size(&wire), Some(moved.produced));
    // After a farewell nothing follows it.
    Engine::finish(&mut server);
    let farewell = Engine::poll_wire(&mut server, &mut [0; 600]);
    assert!(farewell > 0);
    let mut wire = asked(&mut client);
    Engine::handle_wire(&mut server, &mut wire, &mut [0; 10]).unwrap();
    assert!(!Engine::wants_wire(&server));
}

#[test]
fn a_peer_that_asks_without_reading_the_answers_is_left() {
    let (mut client, mut server) = updated();
    for round in 0.. {
        let mut wire = asked(&mut client);
        let result = Engine::handle_wire(&mut server, &mut wire, &mut [0; 10]);
        if let Err(error) = result {
            assert!(error.to_string().contains("more answers than it reads"), "{error}");
            assert!(round > 100, "after {round} rounds");
            let kept = said(&mut server).len();
            assert!(kept < ANSWERS_AT_MOST, "{kept} bytes");
            return;
        }
        assert!(round < 10_000, "it is never enough");
    }
}

const ANSWERS_AT_MOST: usize = 17 * 1024;

#[test]
fn a_record_that_is_too_long_or_damaged_is_refused_with_an_alert() {
    for damage in ["long", "damaged"] {
        let (mut client, mut server) = updated();
        let mut out = vec![0; 2048];
        let moved = Engine::handle_plain(&mut client, b"plain", &mut out).unwrap();
        let mut wire = match damage {
            "long" => vec![23, 3, 3, 0xff, 0xff],
            _ => {
                out[moved.produced - 1] ^= 1;
                out[..moved.produced].to_vec()
            }
        };
        let error = Engine::handle_wire(&mut server, &mut wire, &mut [0; 10]).unwrap_err();
        assert!(matches!(&error, TlsError::Failed(_)), "{error:?}");
        let mut wire = vec![0; 600];
        let count = Engine::poll_wire(&mut server, &mut wire);
        let told = Engine::handle_wire(&mut client, &mut wire[..count], &mut [0; 10]).unwrap_err();
        assert!(told.to_string().contains("the peer refuses: alert"), "{damage}: {told}");
        // Once and for all.
        let again = Engine::handle_wire(&mut server, &mut [], &mut [0; 10]).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert!(Engine::handle_plain(&mut server, b"x", &mut [0; 600]).is_err());
        Engine::finish(&mut server);
        assert!(!Engine::wants_wire(&server));
    }
}

#[test]
fn nothing_that_is_shown_has_a_key_in_it() {
    let (client, server) = settings();
    let (mut client, mut server) = (openssl_client(&client), openssl_server(&server));
    shake(&mut client, &mut server).unwrap();
    let text = format!("{client:?}");
    assert_eq!(
        text,
        "OpensslTls { version: \"TLSv1.3\", done: true, ended: false, failed: None, .. }"
    );
}
