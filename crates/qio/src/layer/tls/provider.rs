//! Whose cryptography rustls uses.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::ProducesTickets;

use super::direct::direct;

/// Whose cryptography rustls uses.
///
/// Nothing but the settings decides: a feature of the build adds a choice and changes none. What
/// the two can do is the same as far as settings go; in speed they differ from machine to machine.
///
/// rustls itself has no default where a program has both: who makes configurations with
/// `rustls::ClientConfig::builder`, beside these settings, has to name one there
/// (`builder_with_provider`), or install it for the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// What the process has installed (`CryptoProvider::install_default`), else that of ring.
    #[default]
    Process,
    /// That of ring.
    Ring,
    /// That of AWS-LC, by the feature `aws-lc-rs`.
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

impl Provider {
    pub(super) fn get(self) -> Arc<CryptoProvider> {
        let provider = match self {
            Self::Process => match CryptoProvider::get_default() {
                Some(provider) => CryptoProvider::clone(provider),
                None => ring::default_provider(),
            },
            Self::Ring => ring::default_provider(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
        };
        Arc::new(direct(provider))
    }

    /// What seals the tickets of a server.
    pub(super) fn ticketer(self) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        match self {
            Self::Process | Self::Ring => ring::Ticketer::new(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => rustls::crypto::aws_lc_rs::Ticketer::new(),
        }
    }
}
