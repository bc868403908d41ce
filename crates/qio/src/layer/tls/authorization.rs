//! Who of those with a good certificate may come in.

use std::error::Error;
use std::fmt;

use super::{Certificate, Facts};

/// Rules about the peer's certificate, the first that fits decides.
///
/// A rule looks at the subject's distinguished name ([`Certificate::subject`]) or at every
/// alternative name ([`Certificate::names`], with its kind in front: `DNS:host.example`). What no
/// rule fits gets the default. A peer without a certificate fits no rule.
///
/// Given to [`ClientSettings`](super::ClientSettings::authorization) or
/// [`ServerSettings`](super::ServerSettings::authorization), the check is made where certificates
/// are verified, so that the peer is told (alert `access_denied`).
///
/// ```
/// use qio::layer::tls::{Authorization, Pattern};
///
/// let rules = Authorization::deny_others()
///     .deny_subject(Pattern::exact("C=GB,O=Example,CN=mallory"))
///     .allow_subject(Pattern::glob("C=GB,O=Example,CN=*"))
///     .allow_name(Pattern::exact("URI:spiffe://example/web"));
/// ```
#[doc(alias = "authz-list")]
#[doc(alias = "qauthz_is_allowed_by_id")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    rules: Vec<Rule>,
    allows_others: bool,
}

/// What a name must be like: the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_glob: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allows: bool,
    part: Part,
    pattern: Pattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Subject,
    Name,
}

/// A peer with a good certificate, or with none, that the rules do not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denied {
    /// Who it was: the subject, and the alternative names. `None` without a certificate.
    pub who: Option<(String, Vec<String>)>,
}

impl Authorization {
    /// Rules without which nobody comes in.
    pub fn deny_others() -> Self {
        Self { rules: Vec::new(), allows_others: false }
    }

    /// Rules that keep somebody out.
    pub fn allow_others() -> Self {
        Self { rules: Vec::new(), allows_others: true }
    }

    /// Lets those in whose distinguished name fits.
    #[must_use]
    pub fn allow_subject(self, pattern: Pattern) -> Self {
        self.with(true, Part::Subject, pattern)
    }

    /// Keeps those out whose distinguished name fits.
    #[must_use]
    pub fn deny_subject(self, pattern: Pattern) -> Self {
        self.with(false, Part::Subject, pattern)
    }

    /// Lets those in of whose alternative names one fits.
    #[must_use]
    pub fn allow_name(self, pattern: Pattern) -> Self {
        self.with(true, Part::Name, pattern)
    }

    /// Keeps those out of whose alternative names one fits.
    #[must_use]
    pub fn deny_name(self, pattern: Pattern) -> Self {
        self.with(false, Part::Name, pattern)
    }

    fn with(mut self, allows: bool, part: Part, pattern: Pattern) -> Self {
        self.rules.push(Rule { allows, part, pattern });
        self
    }

    /// Checks the peer of a handshake that is over.
    ///
    /// Not needed where the settings have the rules.
    ///
    /// # Errors
    ///
    /// When the peer may not come in.
    pub fn check(&self, facts: &Facts) -> Result<(), Denied> {
        self.check_certificate(facts.peer.as_ref())
    }

    /// Checks a certificate; `None` is a peer that has none.
    ///
    /// # Errors
    ///
    /// When the peer may not come in.
    pub fn check_certificate(&self, peer: Option<&Certificate>) -> Result<(), Denied> {
        let decided = peer.and_then(|peer| {
            let fits = |rule: &&Rule| match rule.part {
                Part::Subject => rule.pattern.matches(&peer.subject),
                Part::Name => peer.names.iter().any(|name| rule.pattern.matches(&name.to_string())),
            };
            self.rules.iter().find(fits).map(|rule| rule.allows)
        });
        match decided.unwrap_or(self.allows_others) {
            true => Ok(()),
            false => Err(Denied {
                who: peer.map(|peer| {
                    (peer.subject.clone(), peer.names.iter().map(ToString::to_string).collect())
                }),
            }),
        }
    }

    pub(super) fn allows_others(&self) -> bool {
        self.allows_others
    }
}

impl Pattern {
    /// Exactly this text.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_glob: false }
    }

    /// A text in which `*` stands for any characters, also none, and `?` for one. Nothing else is
    /// special, and no character is out of reach of the two.
    pub fn glob(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_glob: true }
    }

    /// Whether the whole of `name` is like this.
    pub fn matches(&self, name: &str) -> bool {
        match self.is_glob {
            false => self.text == name,
            true => glob(&self.text, name),
        }
    }
}

/// Greedy, and back to the last `*` when that was wrong: never more than the product of the
/// lengths, whatever a peer calls itself.
fn glob(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // The pattern behind the last star, and the name from where that star was tried.
    let mut star = None;
    loop {
        let before = name.clone();
        let (wanted, char) = (pattern.next(), name.next());
        match (wanted, char) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((pattern.clone(), before.clone()));
                name = before;
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(wanted), Some(char)) if wanted == char => continue,
            _ => {}
        }
        let Some((behind, from)) = &mut star else { return false };
        if from.next().is_none() {
            return false;
        }
        (pattern, name) = (behind.clone(), from.clone());
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            None => out.write_str("a peer without a certificate is not allowed"),
            Some((subject, names)) if names.is_empty() => write!(out, "{subject} is not allowed"),
            Some((subject, names)) => {
                write!(out, "{subject} ({}) is not allowed", names.join(", "))
            }
        }
    }
}

impl Error for Denied {}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::AltName;
    use super::*;

    fn peer(subject: &str, names: &[AltName]) -> Certificate {
        Certificate {
            subject: subject.into(),
            issuer: String::new(),
            names: names.to_vec(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            key: String::new(),
            signature: String::new(),
            fingerprint: [0; 32].into(),
        }
    }

    #[test]
    fn a_star_stands_for_any_text_and_a_question_mark_for_one_character() {
        for (pattern, name, fits) in [
            ("", "", true),
            ("*", "", true),
            ("*", "CN=x", true),
            ("?", "", false),
            ("CN=*", "O=x,CN=y", false),
            ("*CN=y", "O=x,CN=y", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-c-", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a]", "a", false),
            ("*é?", "caféX", true),
        ] {
            assert_eq!(Pattern::glob(pattern).matches(name), fits, "{pattern} on {name}");
        }
        assert!(!Pattern::exact("CN=*").matches("CN=x"));
        // Not exponential.
        let many = "a".repeat(4000);
        assert!(!Pattern::glob("*a".repeat(500) + "b").matches(&many));
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Authorization::deny_others()
            .deny_subject(Pattern::exact("O=Example,CN=mallory"))
            .allow_subject(Pattern::glob("O=Example,CN=*"))
            .allow_name(Pattern::exact("DNS:host.example"));
        let check = |who: &Certificate| rules.check_certificate(Some(who));
        assert_eq!(check(&peer("O=Example,CN=alice", &[])), Ok(()));
        let denied = check(&peer("O=Example,CN=mallory", &[])).unwrap_err();
        assert_eq!(denied.to_string(), "O=Example,CN=mallory is not allowed");
        let host = AltName::Dns("host.example".into());
        assert_eq!(check(&peer("CN=other", std::slice::from_ref(&host))), Ok(()));
        assert!(check(&peer("O=Example,CN=mallory", &[host])).is_err());
        assert!(check(&peer("CN=other", &[AltName::Email("host.example".into())])).is_err());
        assert!(rules.check_certificate(None).is_err());
    }

    #[test]
    fn what_no_rule_fits_gets_the_default() {
        let rules = Authorization::allow_others().deny_name(Pattern::glob("DNS:*.bad.example"));
        let bad = AltName::Dns("x.bad.example".into());
        let fine = AltName::Dns("x.example".into());
        assert!(rules.check_certificate(Some(&peer("CN=x", &[fine.clone(), bad]))).is_err());
        assert_eq!(rules.check_certificate(Some(&peer("CN=x", &[fine]))), Ok(()));
        assert_eq!(rules.check_certificate(None), Ok(()));
    }
}
