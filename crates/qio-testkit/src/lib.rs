//! The test kit of qio: what proves that a channel keeps the contract.
//!
//! - [`scope`]: a test that leaks a descriptor or hangs fails and says where.
//! - [`Job`]: a call in another thread that can be seen to sleep and must come back.
//! - [`count_waits`]: how often a call had to wait.
//! - [`certs`]: an authority and what it signs, for tests of TLS.
//! - [`sources`]: the files of the project, for tests of what they say.
//! - `tls`, a feature: a client and a server that believe each other.
//! - [`Chaos`]: a channel that makes every legal difficulty, on purpose and reproducibly.
//! - [`pairs`]: two channels that are joined, of the common kinds.
//! - [`cut`]: the same session, ended after every byte and at every step.
//! - [`digest`]: bytes that are compared without being kept.
//! - [`examples`]: programs of a crate that its tests run.
//! - [`fuzz`]: the bodies of the fuzz targets.
//! - [`mod@conformance`]: one suite for every channel; [`conformance!`] makes a row of tests of it.
//!
//! Not published: only tests use it. It panics where library code must not.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test kit fails by panicking")]

pub mod certs;
pub mod chaos;
pub mod conformance;
mod counting;
pub mod cut;
pub mod digest;
pub mod examples;
pub mod fuzz;
mod job;
mod ledger;
pub mod pairs;
mod patience;
mod scope;
pub mod sources;
#[cfg(feature = "tls")]
pub mod tls;

pub use chaos::{Chaos, Plan};
pub use conformance::{Pair, Subject};
pub use counting::{count_waits, resident_bytes};
pub use job::Job;
pub use ledger::{Descriptor, Ledger};
pub use patience::{finish, finished, soon};
pub use scope::scope;
