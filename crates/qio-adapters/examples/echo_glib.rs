//! An echo server on GLib's main loop: every client is a source of the context.
//!
//! ```sh
//! cargo run -p qio-adapters --features glib --example echo_glib -- listen:tcp://127.0.0.1:7007
//! ```

mod echo;

use std::error::Error;
use std::io;
use std::sync::Arc;

use echo::{Echo, Next};
use glib::{MainContext, MainLoop, Priority};
use qio::net::Listener;
use qio_adapters::glib::run;

fn main() -> Result<(), Box<dyn Error>> {
    let events = MainLoop::new(None, false);
    accept(&events, echo::start()?);
    events.run();
    Err("the listener has ended".into())
}

/// Waits for a client; when it is there, serves it and waits for the next.
fn accept(events: &MainLoop, listener: Arc<Listener>) {
    let inside = events.clone();
    let next = run(Next(Arc::clone(&listener)), Priority::DEFAULT, move |client| {
        match client.and_then(|client| serve(&inside.context(), client)) {
            Ok(()) => accept(&inside, listener),
            Err(error) => {
                eprintln!("{error}");
                inside.quit();
            }
        }
    });
    next.attach(Some(&events.context()));
}

fn serve(context: &MainContext, client: qio::net::Accepted) -> io::Result<()> {
    let serving = run(Echo::new(client)?, Priority::DEFAULT, |_| ());
    serving.attach(Some(context));
    Ok(())
}
