//! HTTP for browsers on a WebSocket's server: RFC 9110 and 9112, as much as static files need.
//!
//! A page and the scripts of it come from where their WebSocket is: one address, and no question
//! of what origin may connect.

mod condition;
mod listing;
mod reply;
mod request;
mod sending;
mod site;
mod visiting;

use std::sync::Arc;
use std::time::Instant;

pub use site::{Site, SiteOptions};
pub use visiting::{Visit, Visiting};

use super::ws::ServerOptions;
use crate::channel::Channel;

/// The longest request that a browser should be able to send: 8 KiB, for it sends the cookies of
/// everything else on the same host, whatever the port.
pub const LIMIT_BYTES: usize = 8192;

/// Waits for requests on `below`, and answers them from `site`, until one asks for a WebSocket and
/// gets it.
///
/// The first request has to be complete at `deadline`. Those for which a WebSocket's server has
/// the answer (all that ask for one, and those that the site does not [take](Site)) get it as from
/// [`ws::server`](super::ws::server), by `options`, and so does what the options say of everybody:
/// with a user and a password, files are for those who know them; with
/// [`Origins::Loopback`](super::ws::Origins::Loopback), the host that is asked must be this
/// machine, whatever name somebody else has made to lead here.
///
/// ```
/// use std::io::Read;
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use qio::layer::{web, ws};
/// use qio::{Channel, ChannelExt, Io, transport::Socket, watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("qio-web-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// std::fs::write(folder.join("index.html"), "<h1>hello</h1>")?;
/// let site = Arc::new(web::Site::open(&folder, web::SiteOptions::default())?);
/// let (near, far) = Socket::pair()?;
/// near.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
/// near.finish()?;
/// let visiting = web::server(far, ws::ServerOptions::default(), site, None);
/// let ControlFlow::Break(done) = watch::run(visiting, None)? else { unreachable!() };
/// assert!(done?.is_none(), "the client has not asked for a WebSocket");
/// let mut answer = String::new();
/// Io(&near).read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("<h1>hello</h1>"));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
pub fn server<C: Channel>(
    below: C,
    options: ServerOptions,
    site: Arc<Site>,
    deadline: Option<Instant>,
) -> Visiting<C> {
    Visiting::new(below, options, site, deadline)
}
