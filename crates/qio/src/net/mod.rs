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
mod resolver;
mod scheme;
mod tuning;
mod udp_peers;

pub use address::{Address, BadValue, Value, parse_duration};
pub use cancel::Cancel;
pub use connect::{Connect, connect};
pub use listener::{Accepted, Accepting, Listener, is_descriptor_limit, listen};
pub use options::{ConnectOptions, DEFAULT_TIMEOUT, Inherited, ListenOptions};
pub use resolver::{Family, Lookup, Resolve};
pub use scheme::{Applies, Example, OptionInfo, Scheme, schemes};
