//! The table of layers: what can stand in front of a transport, joined with `+`.
//!
//! A new layer is one file and one line in [`LAYERS`]: parsing, help, the manual page, completions
//! and error messages all come from here.

mod stack;
mod tap;
mod throttle;
#[cfg(feature = "tls")]
mod tls;
mod ws;
#[cfg(feature = "zstd")]
mod zstd;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio_proto::Handshake;

use super::address::{Part, Refusal};
use super::observe::Negotiated;
use super::scheme::{Example, OptionInfo};
use crate::channel::Channel;
use crate::error::Result;
use crate::layer::web::Visiting;
use crate::layer::{Handshaking, refuse_messages};
use crate::watch::{PollSet, Steps};

pub(crate) use stack::{Climb, Idle, Prepared, Stack};

/// Every layer, in the order in which help shows them.
pub(crate) const LAYERS: &[Layer] = &[
    #[cfg(feature = "tls")]
    tls::LAYER,
    ws::LAYER,
    throttle::LAYER,
    tap::LAYER,
    #[cfg(feature = "zstd")]
    zstd::LAYER,
];

/// The layers that an address can name, for help and completions.
pub fn layers() -> &'static [Layer] {
    LAYERS
}

/// One layer: a protocol that an address can put over its transport, in either role.
#[non_exhaustive]
pub struct Layer {
    /// What stands in front of the `+`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// Addresses and what they mean.
    pub examples: &'static [Example],
    /// What can stand behind the `?`.
    pub options: &'static [OptionInfo],
    /// The option that is written behind the host, where there is one: what starts with a slash.
    pub(crate) in_target: Option<&'static str>,
    /// The peer does not see it, and needs none.
    pub(crate) is_local: bool,
    /// What did not happen, for the text of a timeout; empty where nothing is waited for.
    pub(crate) missing: &'static str,
    /// Finds what is wrong with the options, for the role of the address.
    pub(crate) check: fn(&Part<'_>) -> std::result::Result<(), Refusal>,
    /// Reads what the options name; the result serves any number of connections.
    pub(crate) prepare: fn(&Part<'_>) -> Result<Arc<dyn Begin>>,
}

/// What an address with layers can be written as: the name, its layers, and the port of TCP that
/// is meant when none is given.
pub(crate) struct Shorthand {
    pub(crate) name: &'static str,
    pub(crate) layers: &'static [&'static str],
    pub(crate) port: &'static str,
}

/// RFC 6455, section 3.
pub(crate) const SHORTHANDS: &[Shorthand] = &[
    Shorthand { name: "wss", layers: &["ws", "tls"], port: "443" },
    Shorthand { name: "ws", layers: &["ws"], port: "80" },
];

/// A layer with its options, which begins handshakes.
pub(crate) trait Begin: fmt::Debug + Send + Sync {
    /// Begins the handshake over a channel of its own.
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link>;

    /// What comes first for a client that may be answered without a handshake; `None` where every
    /// client needs one.
    fn visit(&self, below: &Arc<dyn Channel>) -> Option<Visiting<Arc<dyn Channel>>> {
        let _ = below;
        None
    }

    /// What a client has to say to reach this server, as options.
    fn reach(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Reads again what the options name, for handshakes that begin from now on.
    fn reload(&self) -> Result<()> {
        Ok(())
    }
}

/// The handshake of one layer.
pub(crate) type Link = Box<dyn Shake>;

/// A handshake in steps that can be looked at when it is over.
pub(crate) trait Shake: Send {
    /// Goes on; `look` is called at the end, with the error if there is one.
    fn step(&mut self, now: Instant, look: Look<'_>) -> Poll<io::Result<Arc<dyn Channel>>>;

    /// Adds what the next step waits for.
    fn watch(&mut self, set: &mut PollSet);

    /// How far it has come.
    fn handshake(&self) -> Negotiated<'_> {
        Negotiated(None)
    }
}

/// Who looks at a handshake that is over.
pub(crate) type Look<'a> = &'a mut dyn FnMut(Option<&io::Error>, Negotiated<'_>);

/// A layer without a handshake.
fn at_once<C: Channel + 'static>(
    below: Arc<dyn Channel>,
    make: impl FnOnce(Arc<dyn Channel>) -> io::Result<C>,
) -> io::Result<Link> {
    refuse_messages(&*below)?;
    Ok(Box::new(AtOnce(Some(Arc::new(make(below)?)))))
}

struct AtOnce(Option<Arc<dyn Channel>>);

impl Shake for AtOnce {
    fn step(&mut self, _now: Instant, look: Look<'_>) -> Poll<io::Result<Arc<dyn Channel>>> {
        look(None, Negotiated(None));
        Poll::Ready(self.0.take().ok_or_else(|| io::Error::other("over")))
    }

    fn watch(&mut self, set: &mut PollSet) {
        set.wake_at(Instant::now());
    }
}

/// A handshake that becomes the channel.
pub(crate) struct Upgrade<H> {
    kind: &'static str,
    handshaking: Handshaking<Arc<dyn Channel>, H>,
}

impl<H: Handshake + 'static> Upgrade<H>
where
    H::Engine: fmt::Debug + 'static,
{
    pub(crate) fn link(kind: &'static str, handshaking: Handshaking<Arc<dyn Channel>, H>) -> Link {
        Box::new(Self { kind, handshaking })
    }
}

impl<H: Handshake + 'static> Shake for Upgrade<H>
where
    H::Engine: fmt::Debug + 'static,
{
    fn step(&mut self, now: Instant, look: Look<'_>) -> Poll<io::Result<Arc<dyn Channel>>> {
        Poll::Ready(match std::task::ready!(self.handshaking.step(now)) {
            Ok(established) => {
                look(None, Negotiated(Some(established.handshake())));
                Ok(Arc::new(established.into_layer(self.kind)))
            }
            Err(error) => {
                look(Some(&error), self.handshake());
                Err(error)
            }
        })
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.handshaking.watch(set);
    }

    fn handshake(&self) -> Negotiated<'_> {
        Negotiated(self.handshaking.handshake().map(|it| it as &dyn Any))
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Layer({})", self.name)
    }
}
