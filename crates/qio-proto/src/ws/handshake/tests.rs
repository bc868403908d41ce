//! Both sides of the handshake, and the table of bad requests.

use alloc::boxed::Box;
use std::string::ToString;
use std::vec::Vec;
use std::{format, vec};

use super::*;
use crate::engine::{Engine, Handshake};

const GOOD: &str = "GET /chat?room=1 HTTP/1.1\r\n\
    Host: server.example\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Origin: https://server.example\r\n\
    Sec-WebSocket-Protocol: chat, binary\r\n\r\n";

fn sent(handshake: &mut impl Handshake) -> String {
    let mut wire = vec![0; 4096];
    let count = handshake.poll_wire(&mut wire);
    assert!(!handshake.wants_wire());
    String::from_utf8(wire[..count].to_vec()).unwrap()
}

fn serve(request: &str, options: ServerOptions) -> (Result<usize, HandshakeError>, String) {
    let mut server = ServerHandshake::new(options);
    let result = server.handle_wire(&mut request.as_bytes().to_vec());
    (result, sent(&mut server))
}

/// What a strict reader makes of an answer: the status, and whether it is complete.
fn status(answer: &str) -> u16 {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = parsed.parse(answer.as_bytes()).unwrap() else {
        panic!("incomplete: {answer}");
    };
    let body = answer.len() - len;
    if parsed.code != Some(101) {
        let length = parsed.headers.iter().find(|field| field.name == "Content-Length").unwrap();
        assert_eq!(length.value, body.to_string().as_bytes(), "{answer}");
    }
    parsed.code.unwrap()
}

#[test]
fn the_example_of_the_standard_is_answered_as_there() {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-1.3
    //# Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
    let (result, answer) = serve(GOOD, ServerOptions::default());
    assert_eq!(result, Ok(GOOD.len()));
    assert_eq!(status(&answer), 101);
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Protocol: binary\r\n"), "{answer}");
}

#[test]
fn good_requests_of_real_browsers_are_taken() {
    for (from, to) in [
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        ("Connection: Upgrade", "connection:\tKEEP-ALIVE ,\tupgrade\t"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
        ("Upgrade: websocket", "Upgrade: WebSocket"),
        ("Upgrade: websocket", "UPGRADE: h2c, websocket"),
        ("Sec-WebSocket-Protocol: chat, binary\r\n", ""),
        ("Sec-WebSocket-Protocol: chat, binary", "Sec-WebSocket-Protocol: base64"),
        ("Origin: https://server.example\r\n", ""),
        ("Sec-WebSocket-Version", "sec-websocket-version"),
    ] {
        let request = GOOD.replacen(from, to, 1);
        let (result, answer) = serve(&request, ServerOptions::default());
        assert_eq!((result, status(&answer)), (Ok(request.len()), 101), "{to}");
    }
}

#[test]
fn each_bad_request_gets_its_status_and_a_complete_answer() {
    let strict = ServerOptions {
        path: Some("/chat".into()),
        origins: Origins::SameHost,
        require_protocol: true,
        ..ServerOptions::default()
    };
    assert_eq!(status(&serve(GOOD, strict.clone()).1), 101);
    let long = format!("Cookie: {}\r\nHost:", "x".repeat(5000));
    let many = format!("{}Host:", "A: b\r\n".repeat(100));
    for (from, to, expected) in [
        ("GET", "POST", 405),
        ("/chat", "/other", 404),
        ("/chat?room=1", "/chat/", 404),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("HTTP/1.1", "HTTP/2", 400),
        ("GET", "G E T", 400),
        ("Host: server.example\r\n", "", 400),
        ("Host:", "Host: a\r\nHost:", 400),
        ("Upgrade: websocket", "Upgrade: websockets", 400),
        ("Upgrade: websocket\r\n", "", 400),
        ("Connection: Upgrade", "Connection: keep-alive", 400),
        ("Connection: Upgrade", "Connection: not-upgrade", 400),
        ("Connection: Upgrade\r\n", "", 400),
        ("Version: 13", "Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("Version: 13", "Version: 13, 8", 426),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "!", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        ("https://server.example", "https://evil.example", 403),
        ("https://server.example", "null", 403),
        ("chat, binary", "chat", 400),
        ("Sec-WebSocket-Protocol: chat, binary\r\n", "", 400),
        ("Host:", "Content-Length: 5\r\nHost:", 400),
        ("Host:", "Transfer-Encoding: chunked\r\nHost:", 400),
        ("Host:", long.as_str(), 431),
        ("Host:", many.as_str(), 431),
    ] {
        let (result, answer) = serve(&GOOD.replacen(from, to, 1), strict.clone());
        assert_eq!(status(&answer), expected, "{to}");
        assert!(answer.contains("\r\nConnection: close\r\n"));
        let Err(HandshakeError::Refused(refusal)) = result else { panic!("{to}: {result:?}") };
        assert_eq!(refusal.status(), expected);
    }
    let (_, answer) = serve(&GOOD.replacen("13", "8", 1), strict);
    assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn a_password_is_asked_for_and_never_shown() {
    let basic_auth = Some(BasicAuth::new("aladdin", "opensesame"));
    let options = ServerOptions { basic_auth, ..ServerOptions::default() };
    assert!(!format!("{options:?}").contains("sesame"));
    let (_, answer) = serve(GOOD, options.clone());
    assert_eq!(status(&answer), 401);
    assert!(answer.contains("\r\nWWW-Authenticate: Basic "));
    for (given, expected) in [
        ("Basic YWxhZGRpbjpvcGVuc2VzYW1l", 101),
        ("Basic YWxhZGRpbjpvcGVuc2VzYW1m", 401),
        ("Basic", 401),
    ] {
        let request = GOOD.replacen("Host:", &format!("Authorization: {given}\r\nHost:"), 1);
        assert_eq!(status(&serve(&request, options.clone()).1), expected, "{given}");
    }
}

#[test]
fn a_header_without_end_is_refused_at_the_limit_in_linear_time() {
    let mut server = ServerHandshake::new(ServerOptions::default());
    let mut wire = b"GET / HTTP/1.1\r\nX: ".to_vec();
    let mut looked_at = 0;
    let refused = loop {
        wire.push(b'x');
        let before = server.end.seen;
        match server.handle_wire(&mut wire) {
            Ok(consumed) => assert_eq!(consumed, 0),
            Err(error) => break error,
        }
        looked_at += wire.len() - before.saturating_sub(3);
    };
    assert_eq!(wire.len(), 4096);
    assert!(looked_at < 5 * 4096, "{looked_at}");
    assert!(matches!(refused, HandshakeError::Refused(refusal) if refusal.status() == 431));
    assert_eq!(status(&sent(&mut server)), 431);
}

fn client(options: ClientOptions) -> ClientHandshake {
    ClientHandshake::new(options, *b"the sample nonce", Box::new(|key| *key = [1, 2, 3, 4]))
        .unwrap()
}

#[test]
fn both_sides_agree_byte_by_byte_and_leave_the_first_frame_alone() {
    let mut options = ClientOptions::new("server.example");
    options.target = "/chat?x=1".into();
    options.protocols = vec!["binary".into()];
    options.origin = Some("https://server.example".into());
    options.basic_auth = Some(BasicAuth::new("u", "p"));
    options.headers = vec![("X-Token".into(), "a b".into())];
    let server_options = ServerOptions {
        path: Some("/chat".into()),
        origins: Origins::Listed(vec!["https://server.example".into()]),
        basic_auth: Some(BasicAuth::new("u", "p")),
        ..ServerOptions::default()
    };
    let (mut client, mut server) = (client(options), ServerHandshake::new(server_options));

    let mut wire = Vec::new();
    let request = sent(&mut client);
    for &byte in request.as_bytes() {
        assert!(!server.is_done());
        wire.push(byte);
        let consumed = server.handle_wire(&mut wire).unwrap();
        wire.drain(..consumed);
    }
    let asked = server.request().unwrap();
    assert_eq!((asked.path.as_str(), asked.query.as_deref()), ("/chat", Some("x=1")));
    let answer = sent(&mut server);
    let mut server = server.into_engine();
    let frame = server.frame(5).unwrap();
    let mut wire = [answer.as_bytes(), frame.header(), b"first"].concat();
    for cut in 0..answer.len() {
        assert_eq!(client.handle_wire(&mut wire[..cut]), Ok(0));
    }
    let consumed = client.handle_wire(&mut wire).unwrap();
    assert_eq!(consumed, answer.len());
    assert_eq!(client.answer().unwrap().protocol.as_deref(), Some("binary"));
    let mut plain = [0; 10];
    let done = client.into_engine().handle_wire(&mut wire[consumed..], &mut plain).unwrap();
    assert_eq!(&plain[..done.produced], b"first");
    server.finish();
}

#[test]
fn a_client_takes_no_answer_that_is_not_one() {
    let good = serve(GOOD, ServerOptions::default()).1;
    let mut options = ClientOptions::new("server.example");
    options.protocols = vec!["chat".into(), "binary".into()];
    assert!(client(options.clone()).handle_wire(&mut good.clone().into_bytes()).is_ok());
    for (from, to) in [
        ("101 Switching Protocols", "200 OK"),
        ("HTTP/1.1", "FTP/1.1"),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAALMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Protocol: binary", "Protocol: other"),
        (
            "Upgrade: websocket",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade: websocket",
        ),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(client(options.clone()).handle_wire(&mut bad.into_bytes()).is_err(), "{to}");
    }
    let refused = serve(&GOOD.replacen("GET", "PUT", 1), ServerOptions::default()).1;
    let error = client(options.clone()).handle_wire(&mut refused.into_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "websocket handshake: the server answered 405 \"Method Not Allowed\""
    );
    let mut refused = b"HTTP/1.1 404 Gone\r\nX-Y: z\r\n\r\nnot here".to_vec();
    let mut asking = client(options.clone());
    asking.handle_wire(&mut refused).unwrap_err();
    let response = asking.response().unwrap();
    assert_eq!(
        (response.status, &*response.reason, &*response.body),
        (404, "Gone", &b"not here"[..])
    );
    assert_eq!(response.fields, [("X-Y".into(), "z".into())]);
    assert_eq!(asking.received(), refused);
    // Whoever speaks something else is found out by the first byte of it.
    for (start, is_http) in [(&b"S"[..], false), (b"HTTP", true), (b"HTTPS", false)] {
        let result = client(options.clone()).handle_wire(&mut start.to_vec());
        assert_eq!(result.is_ok(), is_http, "{start:?}");
    }
    let mut endless = b"HTTP/1.1 101 ".to_vec();
    endless.resize(4096, b'x');
    let error = client(options.clone()).handle_wire(&mut endless).unwrap_err();
    assert_eq!(error, HandshakeError::TooLong { limit_bytes: 4096 });
    assert_eq!(client(options).handle_end(), HandshakeError::Truncated);
}

#[test]
fn an_option_that_would_break_the_request_is_refused() {
    let bad = |change: &dyn Fn(&mut ClientOptions)| {
        let mut options = ClientOptions::new("h");
        change(&mut options);
        ClientHandshake::new(options, [0; 16], Box::new(|_| ())).is_err()
    };
    assert!(!bad(&|_| ()));
    assert!(bad(&|options| options.host = String::new()));
    assert!(bad(&|options| options.host = "a\r\nX: y".into()));
    assert!(bad(&|options| options.target = "x".into()));
    assert!(bad(&|options| options.target = "/a b".into()));
    assert!(bad(&|options| options.protocols = vec!["a,b".into()]));
    assert!(bad(&|options| options.origin = Some("a\nb".into())));
    assert!(bad(&|options| options.headers = vec![("X".into(), "a\r\nb".into())]));
    assert!(bad(&|options| options.headers = vec![("X:".into(), "a".into())]));
    assert!(bad(&|options| options.basic_auth = Some(BasicAuth::new("a:b", "c"))));
}
