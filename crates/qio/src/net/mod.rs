//! Addresses, and what becomes of them: connections and listeners.

mod accepting;
mod address;
mod admit;
mod bind;
mod bound;
mod cancel;
mod connect;
mod dial;
mod handshake;
mod layer;
mod listener;
mod options;
mod port_owner;
mod resolver;
mod scheme;
mod slots;
mod tuning;

pub use accepting::Accepting;
pub use address::{Address, BadValue, Value, parse_duration};
pub use admit::{Admit, Network, Peer, Verdict};
pub use cancel::Cancel;
pub use connect::{Connect, connect};
pub use handshake::{Handshake, Handshakes};
pub use listener::{Accepted, Listener, is_descriptor_limit, listen};
pub use options::{
    ConnectOptions, DEFAULT_TIMEOUT, Inherited, ListenEvent, ListenOptions, Observer,
};
pub use resolver::Resolve;
pub use scheme::{Applies, Example, OptionInfo, Scheme, schemes};
