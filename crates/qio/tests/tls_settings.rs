//! Settings of TLS: what they refuse, and what they show.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use qio::error::Class;
use qio::layer::tls::{
    Authorization, ClientCertificates, ClientSettings, Fingerprint, Identity, Pattern, SelfSigned,
    ServerSettings, Trust, Version,
};
use qio_testkit::certs::{Authority, Issued, Wanted};
use tempfile::TempDir;

struct Files {
    dir: TempDir,
    authority: Authority,
    server: Issued,
}

fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let server = authority.issue(Wanted::new("host", &["host.example"]));
    let files = Files { dir, authority, server };
    files.write("ca.pem", &files.authority.certificate());
    files.write("cert.pem", &files.server.certificate);
    files.write("key.pem", &files.server.key);
    files
}

impl Files {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn server(&self, certificate: &str, key: &str) -> ServerSettings {
        let identity = Identity::files(self.path(certificate), self.path(key));
        ServerSettings::new().identity(identity)
    }
}

fn refused<T>(result: qio::Result<T>) -> (Class, String) {
    match result {
        Ok(_) => panic!("this was accepted"),
        Err(error) => (error.class(), error.report().to_string()),
    }
}

#[track_caller]
fn assert_refused<T>(result: qio::Result<T>, file: &Path, reason: &str) {
    let (class, text) = refused(result);
    assert_eq!(class, Class::Usage, "{text}");
    let expected = format!("read {}: {reason}", file.display());
    assert!(text.starts_with(&expected), "{text}\ninstead of\n{expected}");
}

#[test]
fn files_that_fit_make_a_configuration() {
    let files = files();
    files.server("cert.pem", "key.pem").build().unwrap();
    ClientSettings::new().ca_file(files.path("ca.pem")).build().unwrap();
}

#[test]
fn what_is_in_the_wrong_place_is_named() {
    let files = files();
    let server = |certificate, key| files.server(certificate, key).build();
    let key = files.path("key.pem");
    let reason = "this is a private key where a certificate belongs (it begins with";
    assert_refused(server("key.pem", "key.pem"), &key, reason);
    assert_refused(ClientSettings::new().ca_file(&key).build(), &key, reason);
    let certificate = files.path("cert.pem");
    let reason = "this is a certificate where a private key belongs";
    assert_refused(server("cert.pem", "cert.pem"), &certificate, reason);
    let reason = "this is a certificate where a list of revoked certificates (CRL) belongs";
    let client = ClientSettings::new().ca_file(files.path("ca.pem"));
    assert_refused(client.crl_file(&certificate).build(), &certificate, reason);
}

#[test]
fn a_file_that_is_missing_is_named() {
    let files = files();
    let (class, text) = refused(files.server("none.pem", "key.pem").build());
    assert_eq!(class, Class::Open);
    let path = files.path("none.pem");
    assert_eq!(text, format!("read {}: no such file or directory", path.display()));
}

#[test]
fn a_file_without_pem_is_named_with_what_is_in_it() {
    let files = files();
    let server = |name: &str| files.server(name, "key.pem").build();
    for (bytes, reason) in [
        (&b""[..], "the file is empty where a certificate belongs"),
        (b"hello\n", "there is no PEM in it where a certificate belongs"),
        (b"\x30\x82\x01\x00", "this is DER (binary), not PEM, where a certificate belongs"),
        (b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "this is not valid PEM"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "the first certificate is damaged",
        ),
    ] {
        fs::write(files.path("odd.pem"), bytes).unwrap();
        assert_refused(server("odd.pem"), &files.path("odd.pem"), reason);
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let files = files();
    files.write("other.pem", &files.authority.issue(Wanted::new("x", &["x"])).key);
    let result = files.server("cert.pem", "other.pem").build();
    let certificate = files.path("cert.pem");
    let reason = format!("the key does not belong to the certificate in {}", certificate.display());
    assert_refused(result, &files.path("other.pem"), &reason);
}

#[test]
fn an_encrypted_key_is_refused_with_the_way_out() {
    let files = files();
    for text in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
         -----END RSA PRIVATE KEY-----\n",
    ] {
        files.write("locked.pem", text);
        let reason = "the private key is encrypted, which is not supported (openssl pkey -in FILE";
        let result = files.server("cert.pem", "locked.pem").build();
        assert_refused(result, &files.path("locked.pem"), reason);
    }
}

/// OpenSSL writes keys in all forms.
#[test]
fn keys_of_every_form_are_read() {
    let files = files();
    let openssl = |args: &[&str]| {
        let done = std::process::Command::new("openssl")
            .args(args)
            .current_dir(files.dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    if !openssl(&["version"]) {
        println!("skipped: there is no openssl");
        return;
    }
    assert!(openssl(&["ec", "-in", "key.pem", "-out", "sec1.pem"]));
    files.server("cert.pem", "sec1.pem").build().unwrap();
    let made = openssl(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "rsa8.pem", "-out", "rsa.pem",
        "-subj", "/CN=x",
    ]);
    assert!(made);
    files.server("rsa.pem", "rsa8.pem").build().unwrap();
    assert!(openssl(&["rsa", "-traditional", "-in", "rsa8.pem", "-out", "rsa1.pem"]));
    assert!(fs::read_to_string(files.path("rsa1.pem")).unwrap().contains("BEGIN RSA PRIVATE KEY"));
    files.server("rsa.pem", "rsa1.pem").build().unwrap();
    assert!(openssl(&["pkey", "-aes128", "-passout", "pass:x", "-in", "key.pem", "-out", "e.pem"]));
    let reason = "the private key is encrypted";
    assert_refused(files.server("cert.pem", "e.pem").build(), &files.path("e.pem"), reason);
    // What OpenSSL shows can be pinned.
    let shown = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", "cert.pem"])
        .current_dir(files.dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let (_, shown) = shown.trim().split_once('=').unwrap();
    let identity = Identity::files(files.path("cert.pem"), files.path("key.pem"));
    let fingerprint = identity.certificate().unwrap().fingerprint;
    assert_eq!(shown.parse::<Fingerprint>().unwrap(), fingerprint);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let files = files();
    let server = || files.server("cert.pem", "key.pem");
    let required = ClientCertificates::Required;
    for (result, reason) in [
        (ServerSettings::new().build(), "a server needs a certificate and its key"),
        (server().client_certificates(required).build(), "but whose are believed?"),
        (server().authorization(Authorization::deny_others()).build(), "who are not asked"),
        (server().ca_file(files.path("ca.pem")).build(), "but they are not asked"),
        (server().alpn([""]).build(), "a name has 1 to 255 bytes"),
        (
            server().min_version(Version::Tls13).max_version(Version::Tls12).build(),
            "the lowest version is above the highest",
        ),
        (
            server().client_certificates(required).trust(Trust::Pinned(Vec::new())).build(),
            "fingerprints: there are none",
        ),
    ] {
        let (class, text) = refused(result);
        assert_eq!(class, Class::Usage);
        assert!(text.contains(reason), "{text} instead of {reason}");
    }
}

#[test]
fn a_directory_in_the_layout_of_qemu_is_read() {
    let files = files();
    let at = files.dir.path();
    let server = || ServerSettings::new().directory(at).build();
    let client = || ClientSettings::new().directory(at).build();
    let (_, text) = refused(server());
    assert!(text.contains("has no server-cert.pem"), "{text}");
    assert!(refused(client()).1.contains("ca-cert.pem: no such file"));
    files.write("ca-cert.pem", &files.authority.certificate());
    client().unwrap();
    files.write("server-cert.pem", &files.server.certificate);
    let (_, text) = refused(server());
    assert!(text.contains("server-key.pem does not exist, which belongs to it"), "{text}");
    files.write("server-key.pem", &files.server.key);
    server().unwrap();
    files.write("client-key-0.pem", &files.server.key);
    let (_, text) = refused(client());
    assert!(text.contains("client-cert-0.pem does not exist"), "{text}");
    files.write("client-cert-0.pem", &files.server.certificate);
    client().unwrap();
    files.write("ca-crl.pem", "nothing");
    assert!(refused(server()).1.contains("ca-crl.pem: there is no PEM in it"));
    assert!(refused(client()).1.contains("ca-crl.pem: there is no PEM in it"));
}

#[test]
fn a_name_is_needed_where_names_are_checked() {
    let verifying = ClientSettings::new();
    assert!(refused(verifying.server_name(None)).1.contains("there is no name"));
    assert!(refused(verifying.server_name(Some("a b"))).1.contains("neither the name of a host"));
    let name =
        |settings: &ClientSettings, host| settings.server_name(host).unwrap().to_str().into_owned();
    assert_eq!(name(&verifying, Some("host.example")), "host.example");
    assert_eq!(name(&verifying, Some("[fe80::1%eth0]")), "fe80::1");
    assert_eq!(name(&verifying.clone().name("other"), Some("host.example")), "other");
    assert_eq!(name(&ClientSettings::new().trust(Trust::Anybody), None), "0.0.0.0");
}

#[test]
fn a_fingerprint_has_64_digits_in_any_writing() {
    let plain = "0f".repeat(32);
    let colons = ["0F"; 32].join(":");
    for text in [&plain, &colons, &format!("SHA256:{plain}"), &plain.to_uppercase()] {
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), plain);
    }
    for (text, reason) in [
        ("", "these are 0"),
        (&plain[1..], "these are 63"),
        (&format!("{plain}0"), "these are 65"),
        (&plain[..40], "40 digits are SHA-1"),
        (&plain.replace('f', "g"), "'g' is not a hexadecimal digit"),
    ] {
        let (class, report) = refused(text.parse::<Fingerprint>());
        assert_eq!(class, Class::Usage);
        assert!(report.contains(reason), "{report}");
    }
}

#[test]
fn a_certificate_of_ours_that_is_of_little_use_is_told() {
    let authority = Authority::new("test authority");
    let warnings = |wanted| {
        let issued = authority.issue(wanted);
        Identity::pem(issued.certificate, issued.key).warnings().unwrap()
    };
    assert!(warnings(Wanted::new("host", &["host.example"])).is_empty());
    let told = warnings(Wanted::new("host", &["host.example"]).expired());
    assert!(told[0].contains("certificate of O=Example,CN=host expired on 20"), "{told:?}");
    let told = warnings(Wanted::new("host", &[]));
    assert!(told[0].contains("the common name (CN) is not looked at"), "{told:?}");
}

#[test]
fn keys_are_never_shown() {
    let files = files();
    let made = SelfSigned::generate(["localhost"]).unwrap();
    let issued = &files.server;
    let in_memory = Identity::pem(issued.certificate.as_bytes(), issued.key.as_bytes());
    let rules = Authorization::deny_others().allow_subject(Pattern::glob("*"));
    let server = ServerSettings::new()
        .identity(in_memory.clone())
        .identity(made.identity())
        .ca_file(files.path("ca.pem"))
        .client_certificates(ClientCertificates::Optional)
        .authorization(rules);
    let client = ClientSettings::new()
        .identity(in_memory.clone())
        .trust(Trust::Pem(files.authority.certificate().into()));
    let swapped = Identity::pem(issued.key.as_bytes(), issued.certificate.as_bytes());
    let wrong = ServerSettings::new().identity(swapped).build();
    let damaged = issued.key.replacen('A', "!", 1);
    let damaged = Identity::pem(issued.certificate.as_bytes(), damaged);
    let damaged = ServerSettings::new().identity(damaged).build();
    let shown = [
        format!("{server:#?} {server:?}"),
        format!("{client:#?} {client:?}"),
        format!("{in_memory:?} {made:?} {:?}", made.identity()),
        format!("{:?}", server.build().unwrap()),
        format!("{:?}", client.build().unwrap()),
        format!("{:?}", server.clone().reloadable().unwrap()),
        refused(wrong).1,
        refused(damaged).1,
    ];
    {
        let key = &issued.key;
        for line in key.lines().filter(|line| !line.starts_with("-----")) {
            let bytes = format!("{:?}", line.as_bytes());
            let bytes = bytes.trim_matches(['[', ']']);
            for text in &shown {
                assert!(!text.contains(&line[..16]), "the key is in {text}");
                assert!(!text.contains(&bytes[..32]), "the key is in {text}");
            }
        }
    }
}
