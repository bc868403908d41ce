//! What is told while an address is being opened.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::channel::Channel;

/// Something that is told how the opening of an address goes on, see
/// [`ConnectOptions::observe`](super::ConnectOptions::observe).
#[derive(Clone)]
pub struct ConnectObserver(Arc<dyn Fn(&ConnectEvent<'_>) + Send + Sync>);

/// A step of opening an address, told when it is made: whoever wants to know how long one took
/// looks at a clock.
///
/// After [`Started`](Self::Started), and [`Prepared`](Self::Prepared) where there are layers, a TCP
/// transport tells of its name and of each address; then comes [`Opened`](Self::Opened), and for
/// each layer, from the innermost to the outermost,
/// [`LayerStarted`](Self::LayerStarted) and one of [`LayerReady`](Self::LayerReady),
/// [`LayerFailed`](Self::LayerFailed) and [`LayerGivenUp`](Self::LayerGivenUp). An attempt that fails,
/// or is given up, ends anywhere.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectEvent<'a> {
    /// An attempt begins: the only one, unless it is [repeated](super::ConnectOptions::retry).
    Started,
    /// The files that the layers need (certificates, keys, passwords) were read, or are known from an
    /// attempt before.
    Prepared,
    /// The name of the host is resolved, if it is one.
    Resolved {
        /// Its addresses, in the order in which they are called.
        addresses: &'a [SocketAddr],
    },
    /// An address is called, maybe beside others that have not answered yet.
    Calling {
        /// Which.
        peer: SocketAddr,
    },
    /// An address was called in vain. Those that are left because another one has answered are not
    /// told.
    NotReached {
        /// Which.
        peer: SocketAddr,
        /// Why.
        error: &'a io::Error,
    },
    /// The transport is there: the socket is connected, the file is open, the program runs.
    Opened {
        /// The channel of the transport.
        channel: &'a dyn Channel,
    },
    /// The handshake of a layer begins.
    LayerStarted {
        /// What the address calls it: `tls`, or `tls2` for the second of two.
        layer: &'a str,
    },
    /// A layer is there.
    LayerReady {
        /// Which.
        layer: &'a str,
        /// What was agreed on.
        handshake: Negotiated<'a>,
    },
    /// A layer cannot be had; its error is among the causes of that of the whole.
    LayerFailed {
        /// Which.
        layer: &'a str,
        /// Why.
        error: &'a io::Error,
        /// How far it came: what the peer has shown, whether it is to be believed or not.
        handshake: Negotiated<'a>,
    },
    /// A layer is not waited for any longer: time is up, or whoever wanted it does not.
    LayerGivenUp {
        /// Which.
        layer: &'a str,
        /// How far it came.
        handshake: Negotiated<'a>,
    },
}

/// The handshake of a layer, of one of the types that this crate has for them:
/// [`ClientTls`](crate::layer::tls::ClientTls) tells its
/// [facts](crate::layer::tls::Tls::facts), [`ClientHandshake`](crate::layer::ws::ClientHandshake)
/// of a WebSocket what was asked and answered. `throttle`, `tap` and `zstd` have none.
#[derive(Clone, Copy, Default)]
pub struct Negotiated<'a>(pub(super) Option<&'a dyn Any>);

impl<'a> Negotiated<'a> {
    /// The handshake, if it is of that type.
    pub fn find<H: 'static>(&self) -> Option<&'a H> {
        self.0?.downcast_ref()
    }
}

impl ConnectObserver {
    pub(super) fn new(observer: impl Fn(&ConnectEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observer))
    }

    pub(super) fn tell(&self, event: &ConnectEvent<'_>) {
        (self.0)(event);
    }
}

impl fmt::Debug for ConnectObserver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ConnectObserver").finish_non_exhaustive()
    }
}

impl fmt::Debug for Negotiated<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Negotiated").field("is_there", &self.0.is_some()).finish()
    }
}
