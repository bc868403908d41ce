//! Addresses, and what becomes of them: connections and listeners.

mod address;
mod bind;
mod cancel;
mod connect;
mod dial;
mod inet;
mod layer;
mod listener;
mod options;
mod port_owner;
mod reconnect;
mod resolver;
mod resolving;
mod scheme;
mod socket_setup;
mod tcp_socket;
mod tuning;

pub use address::{Address, BadValue, Value, parse_duration, parse_size};
pub use cancel::Cancel;
pub use connect::{Connect, connect};
pub use listener::{Accepted, Accepting, Listener, is_descriptor_limit, listen};
pub use options::{ConnectOptions, DEFAULT_TIMEOUT, Inherited, ListenOptions};
pub use reconnect::{Backoff, Jitter, Retry, may_pass};
pub use resolver::{Family, Lookup, Resolve};
pub use resolving::{Resolving, resolve};
pub use scheme::{Applies, Example, OptionInfo, Scheme, schemes};
