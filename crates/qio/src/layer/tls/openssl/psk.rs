//! Keys that both sides have beforehand.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

use crate::error::{Error, Result};

/// The keys of a file, by user. Never shows them.
pub(super) struct PskKeys {
    subject: String,
    keys: HashMap<Vec<u8>, Vec<u8>>,
}

impl PskKeys {
    /// Reads a file of lines `user:key`, the key in hexadecimal digits; behind `#`, as GnuTLS has
    /// it, the user is in such digits, too.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let subject = path.display().to_string();
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| Error::os("read", &subject, error))?;
        file.take(FILE_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| Error::os("read", &subject, error))?;
        if text.len() as u64 > FILE_BYTES {
            let reason = format!("a file of pre-shared keys has at most {FILE_BYTES} bytes");
            return Err(Error::usage("read", subject, reason));
        }
        Self::parse(&text, subject)
    }

    fn parse(text: &[u8], subject: String) -> Result<Self> {
        let mut keys = HashMap::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            // The line itself is not shown: it may be a key.
            let refuse = |reason: String| {
                let error = Error::usage("read", format!("{subject}, line {}", index + 1), reason);
                Err(error.hint("user:key, the key in hexadecimal digits; psktool makes such files"))
            };
            let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                return refuse("there is no colon between user and key".into());
            };
            let (user, key) = (&line[..colon], &line[colon + 1..]);
            let user = match user.strip_prefix(b"#") {
                Some(digits) => match from_hex(digits) {
                    Some(user) => user,
                    None => return refuse("behind # the user is in hexadecimal digits".into()),
                },
                None => user.to_vec(),
            };
            if !(1..=USER_BYTES).contains(&user.len()) || user.contains(&0) {
                return refuse(format!("a user has 1 to {USER_BYTES} bytes, and no zero in them"));
            }
            let Some(key) = from_hex(key) else {
                return refuse("the key is not in pairs of hexadecimal digits".into());
            };
            if !(KEY_MIN_BYTES..=KEY_MAX_BYTES).contains(&key.len()) {
                let are = key.len();
                return refuse(format!(
                    "a key has {KEY_MIN_BYTES} to {KEY_MAX_BYTES} bytes, this one has {are}"
                ));
            }
            if keys.insert(user, key).is_some() {
                return refuse("this user has a key already".into());
            }
        }
        if keys.is_empty() {
            return Err(Error::usage("read", subject, "there is no pre-shared key in it")
                .hint("user:key, the key in hexadecimal digits; psktool makes such files"));
        }
        Ok(Self { subject, keys })
    }

    /// Has a client be known as `user`.
    pub(super) fn install_client(
        mut self,
        builder: &mut SslContextBuilder,
        user: &str,
    ) -> Result<()> {
        let Some(key) = self.keys.remove(user.as_bytes()) else {
            let known: Vec<_> =
                self.keys.keys().map(|user| user.escape_ascii().to_string()).collect();
            let reason = format!("there is no key for the user {user}");
            let mut known = known;
            known.sort();
            known.truncate(NAMED);
            let hint = format!("there are keys for {}", known.join(", "));
            return Err(Error::usage("read", self.subject, reason).hint(hint));
        };
        let user = user.as_bytes().to_vec();
        builder.set_psk_client_callback(move |_, _, user_room, key_room| {
            // With a zero behind it: it is a text of C.
            let (Some(to_user), Some(to_key)) =
                (user_room.get_mut(..=user.len()), key_room.get_mut(..key.len()))
            else {
                return Err(ErrorStack::get());
            };
            to_user[..user.len()].copy_from_slice(&user);
            to_user[user.len()] = 0;
            to_key.copy_from_slice(&key);
            Ok(key.len())
        });
        Ok(())
    }

    /// Has a server know the users of the file.
    pub(super) fn install_server(self, builder: &mut SslContextBuilder) -> Result<()> {
        let index = user_index()?;
        let keys = Arc::new(self.keys);
        builder.set_psk_server_callback(move |ssl, user, room| {
            let known = user.and_then(|user| Some((user, keys.get(user)?)));
            // Nobody's key is an empty one: OpenSSL refuses with the alert for it.
            let Some((user, key)) = known else { return Ok(0) };
            let Some(room) = room.get_mut(..key.len()) else { return Ok(0) };
            room.copy_from_slice(key);
            ssl.set_ex_data(index, user.escape_ascii().to_string());
            Ok(key.len())
        });
        Ok(())
    }
}

/// The user of a server's connection.
pub(super) fn user_of(ssl: &SslRef) -> Option<String> {
    ssl.ex_data(user_index().ok()?).cloned()
}

/// Where a connection remembers its user; one place in the process, because OpenSSL gives none back.
fn user_index() -> Result<Index<Ssl, String>> {
    static INDEX: OnceLock<Option<Index<Ssl, String>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| Ssl::new_ex_index().ok());
    index.ok_or_else(|| Error::usage("configure", "TLS", "OpenSSL has no room for names of users"))
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    digits.chunks_exact(2).map(byte).collect()
}

/// Some ten thousand users.
const FILE_BYTES: u64 = 1 << 20;

/// What OpenSSL and GnuTLS can do: RFC 4279, section 5.3.
pub(super) const USER_BYTES: usize = 128;

/// 128 bits: RFC 9257, section 6.
const KEY_MIN_BYTES: usize = 16;

/// What every OpenSSL can do (`PSK_MAX_PSK_LEN`, 512 from 3.0 on).
const KEY_MAX_BYTES: usize = 256;

/// How many users an error names.
const NAMED: usize = 5;

impl fmt::Debug for PskKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} keys of {}", self.keys.len(), self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PskKeys> {
        PskKeys::parse(text.as_bytes(), "keys.psk".into())
    }

    const KEY: &str = "000102030405060708090a0b0c0d0e0F";

    #[test]
    fn lines_are_users_and_keys() {
        let keys = parse(&format!("qemu:{KEY}\r\n\n#c3a900ff:{KEY}")).err().unwrap();
        // A zero ends a text of C.
        assert!(keys.to_string().contains("line 3: a user has 1 to 128 bytes"), "{keys}");
        let keys = parse(&format!("qemu:{KEY}\r\n\n#c3a9:{KEY}\n")).unwrap();
        assert_eq!(keys.keys.len(), 2);
        assert_eq!(keys.keys[b"qemu".as_slice()], (0..16).collect::<Vec<u8>>());
        assert!(keys.keys.contains_key("é".as_bytes()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_the_key() {
        let secret = "5ec4e7".repeat(8);
        for (text, reason) in [
            (secret.clone(), "line 1: there is no colon"),
            (format!(":{secret}"), "line 1: a user has 1 to 128 bytes"),
            (format!("{}:{secret}", "x".repeat(129)), "line 1: a user has 1 to 128 bytes"),
            (format!("a:{KEY}\na:{secret}"), "line 2: this user has a key already"),
            (format!("a:{secret}0"), "line 1: the key is not in pairs of hexadecimal digits"),
            (format!("a:{secret}zz"), "line 1: the key is not in pairs of hexadecimal digits"),
            (format!("#xy:{secret}"), "line 1: behind # the user is in hexadecimal digits"),
            ("a:5ec4e7".into(), "line 1: a key has 16 to 256 bytes, this one has 3"),
            (format!("a:{}", "5e".repeat(257)), "line 1: a key has 16 to 256 bytes"),
            ("\n\n".into(), "there is no pre-shared key in it"),
        ] {
            let error = parse(&text).unwrap_err();
            let text = error.report().to_string();
            assert!(text.contains(reason), "{text}");
            assert!(!format!("{text}{error:?}").contains("5ec4e7"), "{text}");
        }
        let shown = format!("{:?}", parse(&format!("a:{secret}")).unwrap());
        assert_eq!(shown, "1 keys of keys.psk");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = PskKeys::read(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("at most 1048576 bytes"), "{error}");
    }
}
