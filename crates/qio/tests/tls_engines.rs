//! Which engine an address of TLS takes, and what it says when there is none that can do it.

#![expect(clippy::unwrap_used, reason = "a test program")]

#[cfg(feature = "openssl")]
mod common;

use std::fs;

use proptest::prelude::*;
use qio::error::Class;
use qio::net::{self, Address, ConnectOptions, ListenOptions, Value, layers};

const KEY: &str = "00112233445566778899aabbccddeeff";

fn parse(text: &str) -> qio::Result<Address> {
    text.parse()
}

#[test]
fn credentials_in_addresses_do_not_contradict_each_other() {
    for (text, reason) in [
        ("tls+tcp://h:1?psk=k&anon", "\"anon\" contradicts \"psk\""),
        ("tls+tcp://h:1?psk=k&ca=f", "\"psk\" contradicts \"ca\", which is about certificates"),
        ("tls+tcp://h:1?anon&verify=off", "\"anon\" contradicts \"verify\""),
        ("tls+tcp://h:1?psk=k&creds=d", "\"psk\" contradicts \"creds\""),
        ("listen:tls+tcp://h:1?anon&cert=f", "\"anon\" contradicts \"cert\""),
        ("listen:tls+tcp://h:1?psk=k&client-cert=off", "\"psk\" contradicts \"client-cert\""),
        ("listen:tls+tcp://h:1?psk=k&self-signed", "\"self-signed\" contradicts"),
        ("listen:tls+tcp://h:1?psk=k&user=u", "option \"user\""),
        ("tls+tcp://h:1?user=u", "option \"user\" needs \"psk\""),
        ("tls+tcp://h:1?anon&min=1.3", "\"anon\" contradicts \"min=1.3\""),
        ("tls+tcp://h:1?engine=gnutls", "option \"engine\""),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.class(), Class::Usage, "{text}");
        let report = error.report().to_string();
        assert!(report.contains(reason), "{text}: {report}");
    }
    // No name is needed where no certificate proves it.
    for text in ["tls+unix:/x?psk=k&user=u", "tls+unix:/x?anon", "tls+unix:/x?creds=d&user=u"] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

/// Opens an address that cannot be opened.
fn refused(text: &str) -> String {
    let address = parse(text).unwrap();
    let error = match address.is_listening() {
        true => net::listen(&address, &ListenOptions::new()).err(),
        false => net::connect(&address, &ConnectOptions::new()).err(),
    };
    let error = error.unwrap();
    assert_eq!(error.class(), Class::Usage, "{error}");
    error.report().to_string()
}

#[test]
fn rustls_is_not_asked_for_keys_or_anonymity() {
    for role in ["", "listen:"] {
        for option in ["psk=/keys", "anon"] {
            let text = refused(&format!("{role}tls+tcp://127.0.0.1:1?{option}&engine=rustls"));
            let reason = "neither pre-shared keys (PSK) nor anonymous sessions";
            assert!(text.contains(reason) && text.contains("feature \"openssl\""), "{text}");
        }
    }
}

#[cfg(not(feature = "openssl"))]
#[test]
fn a_program_without_openssl_names_the_feature() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("keys.psk"), format!("qemu:{KEY}\n")).unwrap();
    let creds = format!("creds={}", dir.path().display());
    for role in ["", "listen:"] {
        for option in ["psk=/keys", "anon", &creds] {
            let text = refused(&format!("{role}tls+tcp://127.0.0.1:1?{option}"));
            let reason = "this program was built without the feature \"openssl\"";
            assert!(text.contains(reason), "{text}");
        }
    }
    let text = refused("tls+tcp://127.0.0.1:1?engine=openssl&verify=off");
    assert!(text.contains("option \"engine\": openssl: this program was built without"), "{text}");
}

#[cfg(feature = "openssl")]
#[test]
fn the_engine_is_the_one_that_can_do_it_or_that_is_named() {
    use std::sync::Arc;
    use std::thread;

    use common::patience;
    use qio::layer::Layer;
    use qio::layer::tls::openssl::OpensslTls;
    use qio::{Channel, ChannelExt};

    type Openssl = Layer<Arc<dyn Channel>, OpensslTls>;

    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.psk");
    fs::write(&keys, format!("qemu:{KEY}\nalice:{KEY}\n")).unwrap();
    let (keys, creds) = (keys.display(), dir.path().display());
    for (listen, connect, openssl) in [
        (format!("psk={keys}"), format!("psk={keys}"), (true, true)),
        (
            format!("psk={keys}&engine=openssl"),
            format!("creds={creds}&tls.user=alice"),
            (true, true),
        ),
        (format!("creds={creds}"), format!("creds={creds}"), (true, true)),
        ("anon".into(), "anon".into(), (true, true)),
        ("self-signed".into(), "engine=openssl".into(), (false, true)),
        ("self-signed&engine=openssl".into(), "engine=rustls".into(), (true, false)),
        ("self-signed".into(), String::new(), (false, false)),
    ] {
        let address = parse(&format!("listen:ws+tls+tcp://127.0.0.1:0?{listen}")).unwrap();
        let listener = net::listen(&address, &ListenOptions::new()).unwrap();
        // What a server has made is pinned.
        let mut to = listener.local_addresses().remove(0).to_string();
        if !connect.is_empty() {
            to.push(if to.contains('?') { '&' } else { '?' });
            to.push_str(&connect);
        }
        let to = parse(&to).unwrap();
        let client = thread::spawn(move || net::connect(&to, &ConnectOptions::new()).unwrap());
        let server = listener.accept(patience()).unwrap().channel;
        let client = client.join().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let is = (server.find::<Openssl>().is_some(), client.find::<Openssl>().is_some());
        assert_eq!(is, openssl, "{listen} and {connect}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9]{1,15}", "[%?&=/@:#' \"\\\\$é]{1,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Every option of the layer, in every address that makes sense with it.
    #[test]
    fn options_of_tls_round_trip(
        listening in any::<bool>(),
        chosen in proptest::collection::vec((any::<prop::sample::Index>(), any_text()), 0..4),
    ) {
        let layer = layers().iter().find(|layer| layer.name == "tls").unwrap();
        let base = if listening { "listen:tls+unix:/x" } else { "tls+tcp://h:1" };
        let mut address = parse(base).unwrap();
        for (index, text) in chosen {
            let option = index.get(layer.options);
            let value = match option.value {
                Value::Switch => if text.len() % 2 == 0 { "on" } else { "off" }.to_owned(),
                Value::Choice(choices) => choices[text.len() % choices.len()].to_owned(),
                _ => text,
            };
            let key = format!("tls.{}", option.name);
            // What does not make sense together is refused, and not taken.
            if let Ok(with_it) = address.clone().with_option(&key, &value)
                && let Ok(again) = parse(&with_it.to_string())
            {
                prop_assert_eq!(&again, &with_it);
                prop_assert_eq!(again.to_string(), with_it.to_string());
                address = with_it;
            }
        }
    }
}

#[test]
fn every_option_of_tls_is_taken_in_some_address() {
    let layer = layers().iter().find(|layer| layer.name == "tls").unwrap();
    for option in layer.options {
        let value = match option.value {
            Value::Switch => "on",
            Value::Choice(choices) => choices[0],
            _ if option.name == "pin" => &KEY.repeat(2),
            _ => "x",
        };
        let is_taken = |base: &str| {
            let with_it = parse(&format!("{base}{}={value}", option.name));
            with_it.is_ok_and(|address| {
                let text = address.to_string();
                assert!(text.contains(option.name), "{text}");
                parse(&text).unwrap() == address
            })
        };
        let bases = [
            "tls+tcp://h:1?",
            "tls+tcp://h:1?psk=k&",
            "listen:tls+tcp://h:1?",
            "listen:tls+tcp://h:1?cert=c&",
            "listen:tls+tcp://h:1?cert=c&client-cert=required&",
        ];
        assert!(bases.iter().any(|base| is_taken(base)), "{}", option.name);
    }
}
