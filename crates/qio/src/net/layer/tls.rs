//! `tls+`: TLS 1.2 and 1.3.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::{Begin, Layer, Link, Upgrade};
use crate::channel::Channel;
use crate::error::Result;
#[cfg(feature = "openssl")]
use crate::layer::tls::openssl;
use crate::layer::tls::{
    self, Authorization, ClientCertificates, ClientSettings, Common, Directory, Fingerprint,
    Identity, Pattern, Reloadable, SelfSigned, ServerSettings, Trust, Version,
};
use crate::net::address::{Part, Refusal, Role, Value};
use crate::net::scheme::{Applies, Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: tls::NAME,
    summary: "TLS 1.2 and 1.3; the peer's certificate is verified unless verify=off",
    examples: &[
        Example::new("tls+tcp://db.example:5432", "trust whom the system trusts"),
        Example::new("tls+tcp://db.example:5432?ca=ca.pem", "trust one authority"),
        Example::new("tls+unix:/run/x.sock?pin=SHA256", "trust one certificate"),
        Example::new(
            "listen:tls+tcp://[::]:443?cert=cert.pem&key=key.pem",
            "serve with a certificate",
        ),
        Example::new("listen:tls+tcp://:4433?self-signed", "make one, and print its pin"),
        Example::new("tls+unix:/run/nbd.sock?psk=keys.psk", "know each other by a key"),
    ],
    options: OPTIONS,
    in_target: None,
    is_local: false,
    missing: "no answer to the tls handshake",
    check,
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo::new(
        "ca",
        Value::Text("FILE"),
        "trust these authorities (PEM) [default: the system's]",
    ),
    OptionInfo::new("pin", Value::Text("SHA256"), "trust the certificate with this fingerprint")
        .repeatable(),
    OptionInfo::new("cert", Value::Text("FILE"), "our certificate and its chain (PEM)")
        .repeatable(),
    OptionInfo::new(
        "key",
        Value::Text("FILE"),
        "the certificate's key (PEM) [default: in the same file]",
    )
    .repeatable(),
    OptionInfo::new("creds", Value::Text("DIR"), "all of these from a directory in QEMU's layout"),
    OptionInfo::new(
        "psk",
        Value::Text("FILE"),
        "keys of both sides, lines user:hex, instead of certificates; needs openssl",
    ),
    OptionInfo::new("user", Value::Text("NAME"), "the user by whose key we are known")
        .default("qemu")
        .only(Applies::Connect),
    OptionInfo::new(
        "anon",
        Value::Switch,
        "no certificates, nobody is authenticated: insecure; TLS 1.2, needs openssl",
    )
    .default("off"),
    OptionInfo::new(
        "engine",
        Value::Choice(&["rustls", "openssl"]),
        "who does it [default: rustls, openssl with psk and anon]",
    ),
    OptionInfo::new("crl", Value::Text("FILE"), "revoked certificates (PEM)").repeatable(),
    OptionInfo::new("self-signed", Value::Switch, "make a certificate in memory")
        .default("off")
        .only(Applies::Listen),
    OptionInfo::new("sni", Value::Text("NAME"), "the server's name [default: that of the address]")
        .only(Applies::Connect),
    OptionInfo::new("name", Value::Text("NAME"), "the same").only(Applies::Connect),
    OptionInfo::new("verify", Value::Switch, "verify the server's certificate; off is insecure")
        .default("on")
        .only(Applies::Connect),
    OptionInfo::new(
        "client-cert",
        Value::Choice(&["off", "optional", "required"]),
        "ask clients for certificates [default: off, required with creds]",
    )
    .only(Applies::Listen),
    OptionInfo::new("allow", Value::Text("GLOB"), "let in only whose DN or name (DNS:x) fits")
        .repeatable(),
    OptionInfo::new("deny", Value::Text("GLOB"), "do not let in whose DN or name fits")
        .repeatable(),
    OptionInfo::new("alpn", Value::Text("NAME"), "a protocol of the application, the best first")
        .repeatable(),
    OptionInfo::new("min", Value::Choice(&["1.2", "1.3"]), "the lowest version").default("1.2"),
    OptionInfo::new("keylog", Value::Switch, "append keys to the file SSLKEYLOGFILE: insecure")
        .default("off"),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    if part.values("key").count() > part.values("cert").count() {
        return Err(Refusal::new("option \"key\" needs \"cert\""));
    }
    pins(part)?;
    check_credentials(part)?;
    match part.role() {
        Role::Connect if part.is_given("name") && part.is_given("sni") => {
            Err(Refusal::new("\"name\" and \"sni\" say the same thing twice"))
        }
        Role::Connect
            if !part.switch("verify") && (part.is_given("ca") || part.is_given("pin")) =>
        {
            Err(Refusal::new("\"verify=off\" contradicts \"ca\" and \"pin\""))
        }
        // Which credentials are in the directory decides whether a name is needed.
        Role::Connect if part.is_given("creds") => client(part).map(drop),
        Role::Connect => server_name(part, &client(part)?).map(drop),
        Role::Listen => {
            if has_own(part) && part.switch("self-signed") {
                let text = "\"self-signed\" contradicts \"cert\", \"creds\", \"psk\" and \"anon\"";
                return Err(Refusal::new(text));
            }
            server(part).map(drop)
        }
    }
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let attempt = if part.role() == Role::Listen { "listen" } else { "connect" };
    let refused = |refusal: Refusal| refusal.of(attempt, &part.address().to_string());
    if part.role() == Role::Connect {
        let settings = client(part).map_err(refused)?;
        let name = server_name(part, &settings).map_err(refused)?;
        let is_other = wants_openssl(part, settings.needs_openssl()?).map_err(refused)?;
        return client_of(settings, name, is_other);
    }
    if !has_own(part) && !part.switch("self-signed") {
        // Not in the check: whoever listens may add the last of these to the address.
        return Err(refused(
            Refusal::new("a server needs a certificate")
                .inside(&part.name())
                .hint("cert=FILE&key=FILE, creds=DIR, psk=FILE or self-signed"),
        ));
    }
    let mut settings = server(part).map_err(refused)?;
    let mut pin = None;
    if part.switch("self-signed") {
        let names = host(part).filter(|host| !host.is_empty());
        let made = SelfSigned::generate(names.into_iter().chain(["localhost".to_owned()]))?;
        pin = Some(made.fingerprint());
        settings = settings.identity(made.identity());
    }
    let is_other = wants_openssl(part, settings.needs_openssl()?).map_err(refused)?;
    server_of(settings, pin, is_other)
}

/// Which of the engines: the one that is named, else the one that can do it; `true` is OpenSSL.
///
/// Not in the check: an address means the same whatever the program was built with.
fn wants_openssl(part: &Part<'_>, needs: bool) -> std::result::Result<bool, Refusal> {
    let (engine, why) = match part.text("engine").as_deref() {
        Some("openssl") => (true, "option \"engine\": openssl"),
        Some(_) if needs => {
            let text = "\"engine=rustls\" has neither pre-shared keys (PSK) nor anonymous sessions";
            return Err(Refusal::new(text)
                .inside(&part.name())
                .hint("leave it out: openssl does it, by the feature \"openssl\""));
        }
        _ if needs => (true, "pre-shared keys (PSK) and anonymous sessions"),
        _ => (false, ""),
    };
    if engine && cfg!(not(feature = "openssl")) {
        let text = format!("{why}: this program was built without the feature \"openssl\"");
        let hint = "cargo build --features openssl makes one with it";
        return Err(Refusal::new(text).inside(&part.name()).hint(hint));
    }
    Ok(engine)
}

fn client_of(
    settings: ClientSettings,
    name: ServerName<'static>,
    #[cfg_attr(not(feature = "openssl"), expect(unused_variables))] is_other: bool,
) -> Result<Arc<dyn Begin>> {
    #[cfg(feature = "openssl")]
    if is_other {
        return Ok(Arc::new(Other::Client { config: settings.reloadable_openssl()?, name }));
    }
    Ok(Arc::new(Client { config: settings.reloadable()?, name }))
}

fn server_of(
    settings: ServerSettings,
    pin: Option<Fingerprint>,
    #[cfg_attr(not(feature = "openssl"), expect(unused_variables))] is_other: bool,
) -> Result<Arc<dyn Begin>> {
    #[cfg(feature = "openssl")]
    if is_other {
        return Ok(Arc::new(Other::Server { config: settings.reloadable_openssl()?, pin }));
    }
    Ok(Arc::new(Server { config: settings.reloadable()?, pin }))
}

/// What cannot be said together.
fn check_credentials(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    let anonymous = part.switch("anon");
    let kind = match (part.is_given("psk"), anonymous) {
        (true, true) => return Err(Refusal::new("\"anon\" contradicts \"psk\"")),
        (true, false) => "psk",
        (false, true) => "anon",
        (false, false) => "",
    };
    if part.is_given("user") && !part.is_given("psk") && !part.is_given("creds") {
        return Err(Refusal::new("option \"user\" needs \"psk\""));
    }
    let others =
        ["ca", "pin", "cert", "key", "creds", "crl", "allow", "deny", "client-cert", "verify"];
    match others.iter().find(|key| part.is_given(key)) {
        Some(key) if !kind.is_empty() => {
            Err(Refusal::new(format!("{kind:?} contradicts {key:?}, which is about certificates")))
        }
        _ if anonymous && version(part) > Version::Tls12 => {
            Err(Refusal::new("\"anon\" contradicts \"min=1.3\": TLS 1.3 has no such sessions"))
        }
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct Client {
    config: Reloadable<ClientConfig>,
    name: ServerName<'static>,
}

#[derive(Debug)]
struct Server {
    config: Reloadable<ServerConfig>,
    /// What a client has to pin.
    pin: Option<Fingerprint>,
}

impl Begin for Client {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        let handshaking = tls::client(below, self.config.current(), self.name.clone(), None)?;
        Ok(Upgrade::link(tls::NAME, handshaking))
    }

    fn reload(&self) -> Result<()> {
        self.config.reload()
    }
}

impl Begin for Server {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        Ok(Upgrade::link(tls::NAME, tls::server(below, self.config.current(), None)?))
    }

    fn reach(&self) -> Vec<(&'static str, String)> {
        self.pin.iter().map(|pin| ("pin", pin.to_string())).collect()
    }

    fn reload(&self) -> Result<()> {
        self.config.reload()
    }
}

/// The same by OpenSSL.
#[cfg(feature = "openssl")]
#[derive(Debug)]
enum Other {
    Client { config: Reloadable<openssl::ClientContext>, name: ServerName<'static> },
    Server { config: Reloadable<openssl::ServerContext>, pin: Option<Fingerprint> },
}

#[cfg(feature = "openssl")]
impl Begin for Other {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        let handshaking = match self {
            Self::Client { config, name } => openssl::client(below, &config.current(), name, None)?,
            Self::Server { config, .. } => openssl::server(below, &config.current(), None)?,
        };
        Ok(Upgrade::link(tls::NAME, handshaking))
    }

    fn reach(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Server { pin: Some(pin), .. } => vec![("pin", pin.to_string())],
            _ => Vec::new(),
        }
    }

    fn reload(&self) -> Result<()> {
        match self {
            Self::Client { config, .. } => config.reload(),
            Self::Server { config, .. } => config.reload(),
        }
    }
}

fn client(part: &Part<'_>) -> std::result::Result<ClientSettings, Refusal> {
    let mut settings = ClientSettings::of(common(part)?);
    if !part.switch("verify") {
        settings = settings.trust(Trust::Anybody);
    }
    if let Some(name) = part.text("sni").or_else(|| part.text("name")) {
        settings = settings.name(name);
    }
    if let Some(user) = part.text("user").filter(|_| part.is_given("user")) {
        settings = settings.psk_user(user);
    }
    Ok(settings)
}

fn server(part: &Part<'_>) -> std::result::Result<ServerSettings, Refusal> {
    let mut settings = ServerSettings::of(common(part)?);
    let asked = part.text("client-cert");
    let ask = match asked.as_deref() {
        Some("off") => Some(ClientCertificates::Off),
        Some("optional") => Some(ClientCertificates::Optional),
        Some(_) => Some(ClientCertificates::Required),
        None => None,
    };
    let believes = ["ca", "pin", "allow", "deny", "crl"].into_iter().find(|key| part.is_given(key));
    match (ask, believes) {
        (Some(ClientCertificates::Off) | None, Some(key)) if !part.is_given("creds") => {
            return Err(Refusal::new(format!("option {key:?} is about certificates of clients"))
                .hint("client-cert=required asks for them"));
        }
        _ => {}
    }
    if let Some(ask) = ask {
        settings = settings.client_certificates(ask);
    }
    Ok(settings)
}

/// What both roles have options for.
fn common(part: &Part<'_>) -> std::result::Result<Common, Refusal> {
    let path = |key: &str| part.values(key).last().map(PathBuf::from);
    let pins = pins(part)?;
    let trust = match path("ca") {
        _ if !pins.is_empty() => Some(Trust::Pinned(pins)),
        file => file.map(|file| Trust::Files(vec![file])),
    };
    Ok(Common {
        directory: path("creds").map(Directory),
        trust,
        crl_files: part.values("crl").map(PathBuf::from).collect(),
        identities: identities(part),
        authorization: rules(part),
        alpn: part.texts("alpn").map(Into::into).collect(),
        min_version: version(part),
        logs_keys: part.switch("keylog"),
        psk_file: path("psk"),
        anonymous: part.switch("anon"),
        ..Common::default()
    })
}

fn has_own(part: &Part<'_>) -> bool {
    ["cert", "creds", "psk"].iter().any(|key| part.is_given(key)) || part.switch("anon")
}

/// Our certificates, each with its key.
fn identities(part: &Part<'_>) -> Vec<Identity> {
    let keys: Vec<_> = part.values("key").map(PathBuf::from).collect();
    let certificates = part.values("cert").map(PathBuf::from).enumerate();
    certificates
        .map(|(index, file)| {
            let key = keys.get(index).cloned().unwrap_or_else(|| file.clone());
            Identity::files(file, key)
        })
        .collect()
}

/// Who is kept out is looked for first.
fn rules(part: &Part<'_>) -> Option<Authorization> {
    let (allow, deny) = (part.is_given("allow"), part.is_given("deny"));
    let mut rules = match allow {
        true => Authorization::deny_others(),
        false => Authorization::allow_others(),
    };
    for text in part.texts("deny") {
        rules = rules.deny_subject(Pattern::glob(&text)).deny_name(Pattern::glob(text));
    }
    for text in part.texts("allow") {
        rules = rules.allow_subject(Pattern::glob(&text)).allow_name(Pattern::glob(text));
    }
    (allow || deny).then_some(rules)
}

fn version(part: &Part<'_>) -> Version {
    match part.text("min").as_deref() {
        Some("1.3") => Version::Tls13,
        _ => Version::Tls12,
    }
}

fn pins(part: &Part<'_>) -> std::result::Result<Vec<Fingerprint>, Refusal> {
    let bad = |error: &dyn Display| {
        Refusal::new(format!("option \"pin\": {error}"))
            .hint("64 hexadecimal digits: the SHA-256 digest of the certificate")
    };
    part.texts("pin").map(|text| text.parse().map_err(|error: crate::Error| bad(&error))).collect()
}

/// The name that the server has to prove.
fn server_name(
    part: &Part<'_>,
    settings: &ClientSettings,
) -> std::result::Result<ServerName<'static>, Refusal> {
    let name = settings.server_name(host(part).as_deref());
    name.map_err(|error| {
        let hint = error.hint_text().unwrap_or("sni=NAME is the name that the server has to prove");
        Refusal::new(error.to_string()).hint(hint.to_owned())
    })
}

/// The host of the address, if it has one.
fn host(part: &Part<'_>) -> Option<String> {
    let address = part.address();
    let host = address.target().first().filter(|_| address.scheme().form.slashes)?;
    // The zone of a link-local address means something on this machine only.
    String::from_utf8_lossy(host).split('%').next().map(str::to_owned)
}
