//! Why a text is no address.

use crate::error::Error;

/// What is wrong with an address, before it is known what was to be done with it.
#[derive(Debug)]
pub(crate) struct Refusal {
    reason: String,
    hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what would help, unless that is known already.
    pub(crate) fn or_hint(mut self, hint: impl FnOnce() -> Option<String>) -> Self {
        self.hint = self.hint.or_else(hint);
        self
    }

    /// The same, about a part of the address.
    pub(crate) fn inside(self, part: &str) -> Self {
        Self { reason: format!("{part}: {}", self.reason), ..self }
    }

    /// The error of doing `attempt` with `address`.
    pub(crate) fn of(self, attempt: &'static str, address: &str) -> Error {
        let error = Error::usage(attempt, address, self.reason);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The candidate that somebody who wrote `word` may have meant.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let tolerated = 1 + word.len() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= tolerated && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean x? there are: a, b, c", "there are: a, b, c", or that there are none.
pub(crate) fn suggestion(word: &str, label: &str, candidates: &[&str]) -> String {
    if candidates.is_empty() {
        return format!("{label}: none");
    }
    let all = candidates.join(", ");
    match closest(word, candidates.iter().copied()) {
        Some(meant) => format!("did you mean {meant}? {label}: {all}"),
        None => format!("{label}: {all}"),
    }
}
