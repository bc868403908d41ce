//! Shows what a channel says, line by line and numbered, in a GLib main loop: the shape of a program
//! on gtk-rs, where the label of a window would be set instead.
//!
//! ```sh
//! cargo run -p qio-adapters --features glib --example glib_lines -- 'exec:ls -l'
//! ```

use std::error::Error;
use std::io::{ErrorKind, Result};
use std::ops::ControlFlow;
use std::sync::Arc;

use glib::{MainLoop, Priority};
use qio::net::{Connect, ConnectOptions};
use qio::{Channel, ChannelExt, Interest, Mode, Readiness};
use qio_adapters::glib::{run, watch};

/// The longest line, in bytes; one that is longer is shown in parts.
const LINE: usize = 4096;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("exec:ls".into()).parse()?;
    let events = MainLoop::new(None, false);
    // Connecting does not hold the loop up either.
    let inside = events.clone();
    let connecting = Connect::new(&address, &ConnectOptions::new());
    let source = run(connecting, Priority::DEFAULT, move |channel| {
        let shown = channel.map_err(Into::into).and_then(|channel| show(channel, &inside));
        if let Err(error) = shown {
            eprintln!("{error}");
            inside.quit();
        }
    });
    source.attach(Some(&events.context()));
    events.run();
    Ok(())
}

/// Shows the lines as they come, below whatever is more urgent, and ends the loop with the last.
fn show(channel: Arc<dyn Channel>, events: &MainLoop) -> std::result::Result<(), Box<dyn Error>> {
    channel.set_mode(Mode::NonBlocking)?;
    let inside = events.clone();
    let (mut line, mut number) = (Vec::new(), 0);
    let source = watch(channel, Interest::READ, Priority::DEFAULT_IDLE, move |ready, watch| {
        let next = read(ready, watch.channel(), &mut line);
        let ended = !matches!(next, Ok(true));
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            number += 1;
            println!("{number}: {}", String::from_utf8_lossy(&line[..end]));
            line.drain(..=end);
        }
        if line.len() >= LINE || (ended && !line.is_empty()) {
            number += 1;
            println!("{number}: {}", String::from_utf8_lossy(&line));
            line.clear();
        }
        if !ended {
            return ControlFlow::Continue(());
        }
        inside.quit();
        ControlFlow::Break(())
    });
    source.attach(Some(&events.context()));
    Ok(())
}

/// Reads what there is; `false` is the end.
fn read(ready: Result<Readiness>, channel: &dyn Channel, line: &mut Vec<u8>) -> Result<bool> {
    ready?;
    let mut buf = [0; LINE];
    match channel.read(&mut buf) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        result => {
            line.extend_from_slice(&buf[..result.as_ref().map_or(0, |count| *count)]);
            result.map(|count| count > 0)
        }
    }
}
