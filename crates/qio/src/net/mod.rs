//! Addresses, and what becomes of them: connections and listeners.

mod accepting;
mod address;
mod admit;
mod bind;
mod bound;
mod call;
mod cancel;
mod connect;
mod dial;
mod handshake;
mod inet;
mod layer;
mod listener;
mod observe;
mod options;
mod pending;
mod port_owner;
mod reconnect;
mod resolver;
mod resolving;
mod scheme;
mod slots;
mod socket_setup;
mod tcp_socket;
mod tuning;
mod udp_peers;

pub use accepting::Accepting;
pub use address::{Address, BadValue, Value, parse_duration, parse_rate, parse_size};
pub use admit::{Admit, Network, Peer, Verdict};
pub use cancel::Cancel;
pub use connect::{Connect, connect};
pub use handshake::{Handshake, Handshakes};
pub use layer::{Layer, layers};
pub use listener::{Accepted, Listener, is_descriptor_limit, listen};
pub use observe::{ConnectEvent, ConnectObserver, Negotiated};
pub use options::{
    ConnectOptions, DEFAULT_PENDING, DEFAULT_TIMEOUT, Inherited, ListenEvent, ListenOptions,
    Observer,
};
pub use reconnect::{Backoff, Jitter, Retry, may_pass};
pub use resolver::{Family, Lookup, Resolve};
pub use resolving::{Resolving, resolve};
pub use scheme::{Applies, Example, OptionInfo, Scheme, schemes};
